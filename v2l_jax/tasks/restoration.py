"""Masked restoration: a language model with LoRA adapters fills in hidden local words of pictures
(Zhu et al. 2024, Fig. 8).
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Bool, Float, Int
from ml_collections import ConfigDict

from v2l_jax.errors import ConfigError, DataError
from v2l_jax.jobs import finetune
from v2l_jax.llm.adapter_step import adapter_loss
from v2l_jax.llm.lora import Adapters, scaled
from v2l_jax.metrics.results import Result, Scalar, mean
from v2l_jax.options import CONTROLS, COUNT, POSITIVE, option
from v2l_jax.parallel.mesh import replicate
from v2l_jax.report.curves import curves_from_rows
from v2l_jax.report.data import Gallery, Picture, PromptExample, TaskSection
from v2l_jax.report.plots import Line, curve_plot
from v2l_jax.representations.controls import derangement
from v2l_jax.run import loading
from v2l_jax.run.pictures import PictureQuality, from_words, read_pictures, save_pictures
from v2l_jax.run.run import Run
from v2l_jax.run.workdir import read_json, write_json
from v2l_jax.tasks.restoration_prompts import (
    copy_nearest,
    draw_masks,
    frequency_nats,
    mask_token,
    most_frequent_word,
    restore,
)
from v2l_jax.tasks.restoration_tables import LEAD, restoration_tables
from v2l_jax.tokenizers.base import TokenStreams
from v2l_jax.training.metric_log import read_metrics

POSITION = 80
"""Where its section stands on the page."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of restoration."""

    images: int = option(32, "held-out images, drawn by the seed; 0 = all", COUNT)
    batch_size: int = option(32, "images at a time", POSITIVE, changes_results=False)
    controls: tuple[str, ...] = option(
        ("no_tokens", "shuffled"), "no words, and words of another image", CONTROLS, in_row=True
    )
    pictures: int = option(4, "images kept for the report", COUNT, changes_results=False)


_SHOWN = {
    "masked": "hidden words, grey",
    "lora": "filled in, with adapters",
    "frozen": "filled in, frozen model",
    "nearest": "nearest known word",
    "truth": "the true words, decoded",
}


def settings(config: ConfigDict) -> list[dict[str, Scalar]]:
    """Nothing filled in, the baselines, then the frozen and the adapted language model with the
    controls of each.
    """
    c, f = config.evaluate.restoration, config.finetune
    fixed = {"images": c.images, "masked": f.masked}
    size, length = (
        f"rank {f.rank}, alpha {f.alpha:g}, {' '.join(f.targets)}",
        f"{f.steps} steps of {f.batch_size}",
    )
    trained = {"adapters": f"{size}, {length}, rate {f.learning_rate:g}, seed {config.seed}"}
    rows = [
        {"method": method, "control": "none", **fixed}
        for method in ("masked", "most_frequent", "nearest")
    ]
    for method, more in (("frozen", {}), ("lora", trained)):
        rows += [
            {"method": method, "control": control, **fixed, **more}
            for control in ("none", *c.controls)
        ]
    return rows


def check(config: ConfigDict) -> None:
    """Raises ConfigError without `config.finetune` or a mask word of one token, DataError for more
    photos than are held out.
    """
    if "finetune" not in config:
        raise ConfigError(
            "config.evaluate.restoration needs config.finetune, which trains the adapters; see configs/restoration.py"
        )
    mask_token(loading.text_tokenizer(config), config.finetune.mask_text)
    available, wanted = (
        len(loading.photos(config).held_out),
        max(config.evaluate.restoration.images, 2),
    )
    if wanted > available:
        raise DataError(
            f"config.evaluate.restoration.images asks for {wanted} held-out photos, but there are {available}; "
            "ask for fewer, or raise config.data.held_out"
        )


@dataclasses.dataclass(frozen=True)
class _Task:
    """The pictures to restore.

    Attributes:
      true: their words, the local ones as a row a picture.
      grid: rows and columns of local words.
      masks: what is hidden.
      pictures: what the true words decode to.
    """

    global_ids: Int[np.ndarray, "images k"]
    true: Int[np.ndarray, "images n"]
    grid: tuple[int, int]
    masks: Bool[np.ndarray, "images n"]
    pictures: Float[np.ndarray, "images side side 3"]


def measure(run: Run, missing: Sequence[dict[str, Scalar]]) -> None:
    """The share of hidden words restored exactly, how improbable the true ones were
    (teacher-forced, nats), and PSNR, SSIM and LPIPS against the picture that the true words decode
    to.
    """
    c = run.config.evaluate.restoration
    task = _task(run)
    quality = PictureQuality(run, task.pictures)
    save_pictures(_folder(run) / "truth", task.pictures[: c.pictures])
    for setting in missing:
        method, control = setting["method"], setting["control"]
        rows = []
        if method == "masked":
            pictures = _greyed(task)
        else:
            filled = np.where(task.masks, _filled(run, task, method, control), task.true)
            right = (filled == task.true)[task.masks].reshape(len(filled), -1).mean(1)
            rows = [mean("token_accuracy", right), *_cross_entropy(run, task, method, control)]
            pictures = from_words(
                run, {"global": task.global_ids, "local": filled.reshape(-1, *task.grid)}
            )
            if (method, control) == ("lora", "none"):
                _write_example(run, task, filled)
        if control == "none" and method in _SHOWN:
            save_pictures(_folder(run) / method, pictures[: c.pictures])
        run.record("restoration", setting, [*rows, *quality(pictures)])


def _task(run: Run) -> _Task:
    """Held-out photos drawn by the seed, all where `images` is 0; a photo's mask does not depend on
    the others.
    """
    tokens, seed = run.tokens("held_out"), run.config.seed
    count, *grid = tokens["local"].shape
    indices = np.sort(
        np.random.default_rng(seed).permutation(count)[
            : run.config.evaluate.restoration.images or None
        ]
    )
    masks = draw_masks(count, int(np.prod(grid)), run.config.finetune.masked, (seed, 3))[indices]
    chosen: TokenStreams = jax.tree.map(lambda ids: ids[indices], tokens)
    pictures = from_words(run, chosen)
    return _Task(
        chosen["global"], chosen["local"].reshape(masks.shape), tuple(grid), masks, pictures
    )


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
        run.llm.model,
        run.engine.params,
        finetune.prompt(run),
        context,
        task.masks,
        adapters=_adapters(run, method),
        batch_size=run.config.evaluate.restoration.batch_size,
        mesh=run.mesh if run.mesh.size > 1 else None,
        description=f"restoring, {method}" + (f", {control}" if control != "none" else ""),
    )


def _cross_entropy(run: Run, task: _Task, method: str, control: str) -> list[Result]:
    """Mean -log p of each picture's hidden words where the method has a p: the language model's is
    over all its tokens.
    """
    if control != "none" or method == "nearest":
        return []
    if method == "most_frequent":
        nats = frequency_nats(
            run.tokens("train")["local"], task.true, task.masks, len(run.local_words)
        )
        return [mean("hidden_word_nats", nats)]
    texts, model = finetune.prompt(run).texts(task.true, task.masks), run.llm.model
    params, adapters = run.engine.params, _adapters(run, method)
    loss = jax.jit(lambda params, adapters, text: adapter_loss(model, params, adapters, 1.0, text))
    return [
        mean(
            "hidden_word_nats",
            [
                float(loss(params, adapters, jax.tree.map(lambda x: x[i : i + 1], texts)))
                for i in range(len(task.true))
            ],
        )
    ]


def _adapters(run: Run, method: str) -> Adapters | None:
    """The trained adapters with their scale, for the method that uses them."""
    if method == "frozen":
        return None
    adapters = scaled(finetune.trained_adapters(run), finetune.lora(run.config).scale)
    mesh = run.engine.mesh
    return replicate(adapters, mesh) if mesh else adapters


def _greyed(task: _Task) -> Float[np.ndarray, "images side side 3"]:
    """The true pictures with a grey square over every hidden word."""
    cell = task.pictures.shape[1] // task.grid[0]
    hidden = task.masks.reshape(-1, *task.grid).repeat(cell, 1).repeat(cell, 2)
    return np.where(hidden[..., None], np.float32(0), task.pictures)


def _folder(run: Run) -> pathlib.Path:
    return run.folder("restoration")


def _write_example(run: Run, task: _Task, filled: Int[np.ndarray, "images n"]) -> None:
    """Keeps the first picture's text for the report."""
    prompt, tokenizer = finetune.prompt(run), run.llm.tokenizer
    write = lambda ids: tokenizer.decode(prompt.word_ids[ids].tolist())
    question = tokenizer.decode(prompt.questions(task.true[:1], task.masks[:1])[0].tolist())
    write_json(
        _folder(run) / "example.json",
        {"prompt": question, "answer": write(filled[0]), "expected": write(task.true[0])},
    )


def section(run: Run, results: Sequence[Result]) -> TaskSection | None:
    """The table, the training curve, pictures before and after, and the text that was asked."""
    example = read_json(_folder(run) / "example.json", None)
    rows = list(_gallery_rows(_folder(run)))
    return TaskSection(
        "restoration",
        "Hidden words, filled in",
        LEAD,
        tables=restoration_tables(results),
        figures=_curve(finetune.folder(run.workdir) / "metrics.jsonl"),
        galleries=[Gallery("Hidden words filled in", rows)] if rows else [],
        examples=[PromptExample(**example)] if example else [],
    )


def _curve(path: pathlib.Path) -> list[str]:
    curves = curves_from_rows(read_metrics(path)) if path.exists() else {}
    lines = [
        Line(name, *curves[key])
        for key, name in (("train/loss", "training"), ("eval/loss", "held out"))
        if key in curves
    ]
    return (
        [curve_plot("Cross-entropy of a hidden word, nats", lines, "restoration-loss")]
        if lines
        else []
    )


def _gallery_rows(folder: pathlib.Path) -> Iterator[list[Picture]]:
    kept = {name: read_pictures(folder / name) for name in _SHOWN}
    for i in range(len(kept["truth"])):
        yield [
            Picture(kept[name][i], caption)
            for name, caption in _SHOWN.items()
            if i < len(kept[name])
        ]
