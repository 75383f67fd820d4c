"""Masked restoration: a language model with LoRA adapters fills in hidden local words of images
(Zhu et al. 2024, Fig. 8).

The paper is silent on the prompt. Ours shows the grid with a mask word where a word is hidden, then
the whole grid again:

    Restore the missing words.
    ###
    Input: < {words, raster order, hidden ones as the mask word} >
    Output: < {all words}

In the second grid the known words are given and only the hidden ones are predicted, one after
another. So the model reads what is left of and above a hidden word just before it, and what comes
after it at one fixed distance back, where attention finds it.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Bool, Float, Int
from ml_collections import ConfigDict

from v2l_jax.codebook.codebook import Codebook
from v2l_jax.codebook.single_tokens import SingleTokens
from v2l_jax.errors import ConfigError, DataError
from v2l_jax.llm.adapter_step import adapter_loss
from v2l_jax.llm.infilling import fill_in
from v2l_jax.llm.lora import Adapters, scaled
from v2l_jax.llm.text_tokenizers import TextTokenizer
from v2l_jax.metrics.results import Result, Scalar, mean
from v2l_jax.options import CONTROLS, COUNT, POSITIVE, option
from v2l_jax.report.data import PromptExample, TaskSection
from v2l_jax.report.tables import Number, TableSpec, render
from v2l_jax.representations.controls import derangement
from v2l_jax.run import adapters, loading
from v2l_jax.run.pictures import PictureQuality, check_local_words, from_words, save_pictures
from v2l_jax.run.run import Run
from v2l_jax.run.workdir import read_json, write_json
from v2l_jax.tasks.harness.fit import check_length_fits
from v2l_jax.tasks.harness.galleries import kept_gallery
from v2l_jax.tasks.harness.hidden_tokens import (
    copy_nearest,
    draw_masks,
    frequency_nats,
    most_frequent_word,
)
from v2l_jax.tasks.harness.tuning_curve import tuning_curve
from v2l_jax.tokenizers.base import TokenStreams

POSITION = 80
"""Where its section stands on the page."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of restoration; `config.finetune` has those of the masks."""

    images: int = option(32, "held-out images, drawn by the seed; 0 = all", COUNT)
    batch_size: int = option(32, "images at a time", POSITIVE, changes_results=False)
    controls: tuple[str, ...] = option(
        ("no_tokens", "shuffled"), "no words, and words of another image", CONTROLS, in_row=True
    )
    pictures: int = option(4, "images kept for the report", COUNT, changes_results=False)


_LEAD = (
    "A share of each held-out picture's local words is hidden, and the language model fills them "
    "in, in raster order, choosing among the local words (Fig. 8 of the paper, which gives no "
    "numbers). The fine-tuned model has LoRA adapters that were trained on the same task with the "
    "training photos; the frozen one has none. Pictures are compared with what the decoder paints "
    "from all true words, so restoring every word would be perfect. Copying the nearest known word "
    "and writing the commonest word need no language model."
)
_BELOW = {
    "masked": "hidden words, grey",
    "lora": "filled in, with adapters",
    "frozen": "filled in, frozen model",
    "nearest": "nearest known word",
    "truth": "the true words, decoded",
}

TABLE = TableSpec(
    caption=(
        "{masked:.0%} of the local words hidden; {llm}; {count} held-out pictures, "
        "95 % intervals over pictures"
    ),
    tables=("llm", "masked"),
    rows=("method", "control"),
    columns=("metric",),
    labels={
        ("method", "control"): {
            ("lora", "none"): "Language model with LoRA adapters",
            ("lora", "no_tokens"): "Control: with adapters, every word hidden",
            ("lora", "shuffled"): "Control: with adapters, another picture's words",
            ("frozen", "none"): "Frozen language model",
            ("frozen", "no_tokens"): "Control: frozen, every word hidden",
            ("frozen", "shuffled"): "Control: frozen, another picture's words",
            ("nearest", "none"): "Baseline: nearest known word",
            ("most_frequent", "none"): "Baseline: commonest word of the training photos",
            ("masked", "none"): "Nothing filled in: grey squares",
        },
        "metric": {
            "token_accuracy": "Hidden words restored exactly, %",
            "hidden_word_nats": "Cross-entropy of a hidden word in nats, lower is better",
            "lpips": "LPIPS, lower is better",
            "psnr": "PSNR in dB",
            "ssim": "SSIM",
        },
    },
    numbers={
        "token_accuracy": Number(2, 100.0),
        "hidden_word_nats": Number(2),
        "lpips": Number(4),
        "psnr": Number(2),
        "ssim": Number(3),
    },
)


def settings(config: ConfigDict) -> list[dict[str, Scalar]]:
    """Nothing filled in, the baselines, then the frozen and the adapted language model with the
    controls of each.
    """
    c, f = config.evaluate.restoration, config.finetune
    fixed = {"images": c.images, "masked": f.masked}
    size = f"rank {f.rank}, alpha {f.alpha:g}, {' '.join(f.targets)}"
    length = f"{f.steps} steps of {f.batch_size}, rate {f.learning_rate:g}, seed {config.seed}"
    rows = [
        {"method": method, "control": "none", **fixed}
        for method in ("masked", "most_frequent", "nearest")
    ]
    for method, more in (("frozen", {}), ("lora", {"adapters": f"{size}, {length}"})):
        for control in ("none", *c.controls):
            rows.append({"method": method, "control": control, **fixed, **more})
    return rows


def check(config: ConfigDict) -> None:
    """Raises ConfigError for adapters of another task or a mask word that is not one token,
    DataError for more images than are held out.
    """
    if config.finetune.task != "restoration":
        raise ConfigError(
            "config.evaluate.restoration measures adapters that were trained on restoration, but "
            f"config.finetune.task is {config.finetune.task!r}"
        )
    tokenizer = loading.text_tokenizer(config)
    mask_token(tokenizer, config.finetune.mask_text)
    side = config.model.image_size // 2 ** (len(config.model.channel_multipliers) - 1)
    length = sum(map(len, _fixed_parts(tokenizer))) + 2 * side**2
    check_length_fits(config, "restoration", length)
    available = len(loading.photos(config).held_out)
    wanted = max(config.evaluate.restoration.images, 2)
    if wanted > available:
        raise DataError(
            f"config.evaluate.restoration.images asks for {wanted} held-out photos, but there are "
            f"{available}; ask for fewer, or raise config.data.held_out"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class RestorationPrompt:
    """The task in one language model's tokens.

    Attributes:
      start: tokens before the masked grid.
      middle: tokens between the grids.
      mask_id: the token that stands for a hidden word.
      word_ids: int32 [words], the token of each local word.
    """

    start: tuple[int, ...]
    middle: tuple[int, ...]
    mask_id: int
    word_ids: Int[np.ndarray, " words"]

    @classmethod
    def build(
        cls, tokenizer: TextTokenizer, local_words: Codebook, mask_text: str
    ) -> "RestorationPrompt":
        """Writes the task in the tokens of `tokenizer`.

        Raises:
          ConfigError: `mask_text`, or a local word, is not one token.
        """
        return cls(
            *_fixed_parts(tokenizer),
            mask_token(tokenizer, mask_text),
            SingleTokens.of(local_words).token_ids,
        )

    def check_length(self, positions: int, context_length: int) -> None:
        """Raises DataError where the text of images of `positions` local words is longer than the
        model's context, in tokens.
        """
        length = len(self.start) + len(self.middle) + 2 * positions
        if length > context_length:
            raise DataError(
                f"an image of {positions} local words makes a text of {length} tokens, but the "
                f"language model's context has {context_length}; choose another one"
            )

    def questions(
        self, ids: Int[np.ndarray, "images n"], masks: Bool[np.ndarray, "images n"]
    ) -> Int[np.ndarray, "images length"]:
        """The text up to where the second grid begins; `ids` are rows of the local codebook, -1 is
        hidden whatever its mask.
        """
        shown = np.where(masks | (ids < 0), self.mask_id, self.word_ids[ids])
        repeat = lambda part: np.broadcast_to(np.asarray(part, np.int32), (len(ids), len(part)))
        parts = [repeat(self.start), shown, repeat(self.middle)]
        return np.concatenate(parts, axis=1).astype(np.int32)

    def texts(
        self, ids: Int[np.ndarray, "images n"], masks: Bool[np.ndarray, "images n"]
    ) -> dict[str, np.ndarray]:
        """The whole text, as a batch of `llm.adapter_step`: tokens [images, length], targets
        [images, hidden words].

        Every image must hide as many words as the others.
        """
        question = self.questions(ids, masks)
        targets = np.nonzero(masks)[1].reshape(len(ids), -1) + question.shape[1]
        return {
            "tokens": np.concatenate([question, self.word_ids[ids]], axis=1),
            "targets": targets.astype(np.int32),
        }


def _fixed_parts(tokenizer: TextTokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens before the masked grid, and those between the grids."""
    start = tokenizer.encode_prompt("Restore the missing words.\n###\nInput: <")
    return tuple(start), tuple(tokenizer.encode_inside(" >\nOutput: <"))


def mask_token(tokenizer: TextTokenizer, mask_text: str) -> int:
    """The token of the mask word; raises ConfigError where it is not one."""
    ids = tokenizer.encode_inside(mask_text)
    if len(ids) != 1:
        raise ConfigError(
            f"the mask word {mask_text!r} is {len(ids)} tokens of this language model; choose a "
            "word of one token"
        )
    return ids[0]


@dataclasses.dataclass(frozen=True, eq=False)
class RestorationTexts:
    """What adapters are trained on: texts of masked images, new masks for each seed.

    Attributes:
      prompt: how the task is written.
      ids: by split, the local words of its images.
      share: of the words that are hidden.
    """

    prompt: RestorationPrompt
    ids: Mapping[str, Int[np.ndarray, "images n"]]
    share: float

    def count(self, split: str) -> int:
        """Images of a split."""
        return len(self.ids[split])

    def texts(
        self, split: str, images: Int[np.ndarray, " images"], seed: tuple[int, ...]
    ) -> dict[str, np.ndarray]:
        """See `llm.training_texts.TrainingTexts`."""
        ids = self.ids[split][images]
        return self.prompt.texts(ids, draw_masks(len(ids), ids.shape[1], self.share, seed))


def training_texts(run: Run) -> RestorationTexts:
    """The texts of the run's own images.

    Raises:
      ConfigError: the tokenizer writes no stream of local words.
      DataError: a text does not fit the model's context.
    """
    check_local_words(run, "restoration")
    ids = {split: _flat(run.tokens(split)["local"]) for split in ("train", "held_out")}
    prompt = _prompt(run)
    prompt.check_length(ids["train"].shape[1], run.llm.model.config.context_length)
    return RestorationTexts(prompt, ids, run.config.finetune.masked)


@dataclasses.dataclass(frozen=True)
class _Task:
    """The images to restore.

    Attributes:
      tokens: theirs, all streams.
      true: their local words, a row an image.
      grid: rows and columns of local words.
      masks: what is hidden.
      pictures: what the true words decode to, in [-1, 1].
    """

    tokens: TokenStreams
    true: Int[np.ndarray, "images n"]
    grid: tuple[int, int]
    masks: Bool[np.ndarray, "images n"]
    pictures: Float[np.ndarray, "images side side 3"]


def measure(run: Run, missing: Sequence[dict[str, Scalar]]) -> None:
    """The share of hidden words restored exactly, how improbable the true ones were
    (teacher-forced, nats), and PSNR, SSIM and LPIPS against the image that the true words decode
    to.
    """
    shown = run.config.evaluate.restoration.pictures
    check_local_words(run, "restoration")
    task = _task(run)
    quality = PictureQuality(run, task.pictures)
    save_pictures(_folder(run) / "truth", task.pictures[:shown])
    for setting in missing:
        method, control = str(setting["method"]), str(setting["control"])
        rows = []
        if method == "masked":
            pictures = _greyed(task)
        else:
            filled = np.where(task.masks, _filled(run, task, method, control), task.true)
            right = (filled == task.true)[task.masks].reshape(len(filled), -1).mean(1)
            rows = [mean("token_accuracy", right), *_cross_entropy(run, task, method, control)]
            pictures = from_words(run, task.tokens | {"local": filled.reshape(-1, *task.grid)})
            if (method, control) == ("lora", "none"):
                _write_example(run, task, filled)
        if control == "none" and method in _BELOW:
            save_pictures(_folder(run) / method, pictures[:shown])
        run.record("restoration", setting, [*rows, *quality(pictures)])


def _task(run: Run) -> _Task:
    """Held-out images drawn by the seed, all where `images` is 0; an image's mask does not depend
    on the others.
    """
    tokens, seed = run.tokens("held_out"), run.config.seed
    count, *grid = tokens["local"].shape
    order = np.random.default_rng(seed).permutation(count)
    indices = np.sort(order[: run.config.evaluate.restoration.images or None])
    masks = draw_masks(count, int(np.prod(grid)), run.config.finetune.masked, (seed, 3))[indices]
    chosen: TokenStreams = jax.tree.map(lambda ids: ids[indices], tokens)
    pictures = from_words(run, chosen)
    return _Task(chosen, _flat(chosen["local"]), tuple(grid), masks, pictures)


def _filled(run: Run, task: _Task, method: str, control: str) -> Int[np.ndarray, "images n"]:
    """Local words with the hidden ones filled in."""
    if method == "nearest":
        return copy_nearest(task.true, task.masks, task.grid)
    if method == "most_frequent":
        return np.full_like(task.true, most_frequent_word(run.tokens("train")["local"]))
    context = task.true
    if control == "no_tokens":
        context = np.full_like(context, -1)
    if control == "shuffled":
        context = context[derangement(len(context), run.config.seed)]
    return restore(
        run,
        _prompt(run),
        context,
        task.masks,
        _adapters(run, method),
        f"restoring, {method}" + (f", {control}" if control != "none" else ""),
    )


def restore(
    run: Run,
    prompt: RestorationPrompt,
    context: Int[np.ndarray, "images n"],
    masks: Bool[np.ndarray, "images n"],
    changes: Adapters | None = None,
    description: str = "restoring",
) -> Int[np.ndarray, "images n"]:
    """Fills in hidden words greedily, in raster order, each knowing those filled in before; only
    local words are allowed.

    Args:
      run: the language model, its mesh, and how many images go at a time.
      prompt: how the task is written.
      context: rows of the local codebook; -1 shows the mask word in both grids.
      masks: what is hidden.
      changes: scaled adapters of the language model; None for none.
      description: for the progress bar.

    Returns:
      Rows of the local codebook: predictions where hidden, `context` elsewhere.

    Raises:
      DataError: the text does not fit the model's context.
    """
    prompt.check_length(context.shape[1], run.llm.model.config.context_length)
    allowed = np.flatnonzero(prompt.word_ids != prompt.mask_id).astype(np.int32)
    answers = fill_in(
        run.llm.model,
        run.engine.params,
        prompt.questions(context, masks),
        np.where(context < 0, prompt.mask_id, prompt.word_ids[context]),
        masks,
        prompt.word_ids[allowed],
        batch_size=run.config.evaluate.restoration.batch_size,
        adapters=changes,
        mesh=run.mesh if run.mesh.size > 1 else None,
        description=description,
    )
    return np.where(masks, allowed[answers], context)


def _cross_entropy(run: Run, task: _Task, method: str, control: str) -> list[Result]:
    """Mean -log p of each image's hidden words where the method has a p: the language model's is
    over all its tokens.
    """
    if control != "none" or method == "nearest":
        return []
    if method == "most_frequent":
        words = len(run.local_words)
        nats = frequency_nats(run.tokens("train")["local"], task.true, task.masks, words)
        return [mean("hidden_word_nats", nats)]
    texts, model = _prompt(run).texts(task.true, task.masks), run.llm.model
    params, changes = run.engine.params, _adapters(run, method)
    loss = jax.jit(lambda params, changes, text: adapter_loss(model, params, changes, 1.0, text))
    rows = [jax.tree.map(lambda x: x[i : i + 1], texts) for i in range(len(task.true))]
    return [mean("hidden_word_nats", [float(loss(params, changes, row)) for row in rows])]


def _adapters(run: Run, method: str) -> Adapters | None:
    """The trained adapters with their scale, for the method that uses them."""
    if method == "frozen":
        return None
    return scaled(adapters.trained_adapters(run), adapters.lora(run.config).scale)


def _prompt(run: Run) -> RestorationPrompt:
    mask_text = run.config.finetune.mask_text
    return RestorationPrompt.build(run.llm.tokenizer, run.local_words, mask_text)


def _flat(ids: Int[np.ndarray, "images h w"]) -> Int[np.ndarray, "images n"]:
    return ids.reshape(len(ids), -1)


def _greyed(task: _Task) -> Float[np.ndarray, "images side side 3"]:
    """The true images with a grey square over every hidden word."""
    cell = task.pictures.shape[1] // task.grid[0]
    hidden = task.masks.reshape(-1, *task.grid).repeat(cell, 1).repeat(cell, 2)
    return np.where(hidden[..., None], np.float32(0), task.pictures)


def _folder(run: Run) -> pathlib.Path:
    return run.folder("restoration")


def _write_example(run: Run, task: _Task, filled: Int[np.ndarray, "images n"]) -> None:
    """Keeps the first image's text for the report."""
    prompt, tokenizer = _prompt(run), run.llm.tokenizer
    write = lambda ids: tokenizer.decode(prompt.word_ids[ids].tolist())
    question = tokenizer.decode(prompt.questions(task.true[:1], task.masks[:1])[0].tolist())
    example = {"prompt": question, "answer": write(filled[0]), "expected": write(task.true[0])}
    write_json(_folder(run) / "example.json", example)


def section(run: Run, results: Sequence[Result]) -> TaskSection | None:
    """The table, the training curve, pictures before and after, and the text that was asked."""
    folder = _folder(run)
    example = read_json(folder / "example.json", None)
    folders = {folder / name: below for name, below in _BELOW.items()}
    return TaskSection(
        "restoration",
        "Hidden words, filled in",
        _LEAD,
        tables=render(results, TABLE),
        figures=tuning_curve(run, "restoration", "a hidden word"),
        galleries=kept_gallery("Hidden words filled in", folders),
        examples=[PromptExample(**example)] if example else [],
    )
