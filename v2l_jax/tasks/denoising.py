"""Five denoising tasks: a frozen language model restores damaged pictures, word by word (Zhu et al.
2024, Table 4).

As published, the examples of a prompt are the picture's own true words with some replaced, so they
give the answer away. The rows beside the result say how much: "vote" takes the most frequent word
of the examples and asks no language model, "shuffled" shows another picture's examples, "no_tokens"
none.
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from v2l_jax.data.corruptions import CORRUPTIONS, Corruption, corrupt, hole
from v2l_jax.errors import ConfigError, DataError
from v2l_jax.metrics.results import Result, Scalar, mean, proportion
from v2l_jax.options import CONTROLS, COUNT, POSITIVE, SHARE, TEXT, each, one_of, option
from v2l_jax.report.data import Gallery, Picture, PromptExample, TaskSection
from v2l_jax.run import building, loading
from v2l_jax.run.pictures import PictureQuality, from_words, read_pictures, save_pictures, to_words
from v2l_jax.run.run import Run
from v2l_jax.run.workdir import read_json, write_json
from v2l_jax.tasks.classification import derangement
from v2l_jax.tasks.denoising_tables import LEAD, denoising_tables
from v2l_jax.tasks.denoising_windows import (
    FILLING,
    Examples,
    LocalVocabulary,
    PromptPieces,
    Protocol,
    WindowPrompts,
    draw_examples,
    restore,
    sources_and_targets,
    vote,
)
from v2l_jax.tokenizers.v2l import ImageTokens

POSITION = 70
"""Where its section stands on the page."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of denoising."""

    corruptions: tuple[str, ...] = option(
        CORRUPTIONS,
        "which corruptions are restored",
        each(one_of(*CORRUPTIONS), least=1),
        in_row=True,
    )
    controls: tuple[str, ...] = option(
        ("no_tokens", "shuffled"),
        "no examples' words, and another image's examples",
        CONTROLS,
        in_row=True,
    )
    images: int = option(5_000, "held-out images, drawn by the seed; 0 = all", COUNT)
    window: int = option(2, "words predicted at once", POSITIVE)
    context: int = option(
        16, "words before the window that a prompt shows, filling a hole", POSITIVE
    )
    rates: tuple[float, ...] = option(
        (0.50, 0.47, 0.44, 0.41, 0.38, 0.35, 0.32, 0.29, 0.26, 0.23),
        "share of words replaced, an example each",
        each(SHARE, least=1),
    )
    counted_globals: int = option(
        21, "global words that the rates count too, as published; 0 = local words alone", COUNT
    )
    inception: str = option(
        "", "weights of FID's Inception (such as inception-v3-fid); '' = no FID", TEXT
    )
    pictures: int = option(4, "images kept for the report", COUNT, changes_results=False)


_CAPTIONS = {
    "corrupted": "damaged",
    "none": "restored",
    "shuffled": "… with another picture's examples",
    "no_tokens": "… without examples",
    "reconstruction": "the true words, decoded",
}


def settings(config: ConfigDict) -> list[dict[str, Scalar]]:
    """The bound, then for each corruption the damaged picture, the vote, the result, and its
    controls.
    """
    c = config.evaluate.denoising
    fixed = {key: c[key] for key in ("images", "window", "context", "counted_globals", "inception")}
    fixed["rates"] = " ".join(f"{rate:g}" for rate in c.rates)
    cells = [("none", "reconstruction")]
    cells += [
        (name, control)
        for name in c.corruptions
        for control in ("corrupted", "vote", "none", *c.controls)
    ]
    return [{"corruption": name, "control": control, **fixed} for name, control in cells]


def check(config: ConfigDict) -> None:
    """Raises ConfigError for a grid that has no halves, DataError for more photos than are held
    out.
    """
    c = config.evaluate.denoising
    side = config.model.image_size // 2 ** (len(config.model.channel_multipliers) - 1)
    if side % 4 and set(c.corruptions) & set(FILLING):
        raise ConfigError(
            f"in- and outpainting need a grid whose side is a multiple of 4, but the model's is {side} × {side}"
        )
    available, wanted = len(loading.photos(config).held_out), max(c.images, 2)
    if wanted > available:
        raise DataError(
            f"config.evaluate.denoising.images asks for {wanted} held-out photos, but there are {available}; "
            "ask for fewer, or raise config.data.held_out"
        )


@dataclasses.dataclass(frozen=True)
class _Photos:
    """The photos that are damaged.

    Attributes:
      indices: which of the held-out ones.
      images: as the tokenizer sees them.
      true: their words.
    """

    indices: Int[np.ndarray, " images"]
    images: Float[np.ndarray, "images side side 3"]
    true: ImageTokens


def measure(run: Run, missing: Sequence[dict[str, Scalar]]) -> None:
    """PSNR, SSIM, LPIPS, FID where an Inception is given, and the share of missing words that is
    restored exactly.
    """
    c = run.config.evaluate.denoising
    photos = _photos(run, c.images)
    quality = PictureQuality(run, photos.images, c.inception)
    save_pictures(_folder(run) / "original", photos.images[: c.pictures])
    for setting in missing:
        if setting["corruption"] == "none":
            pictures = from_words(run, photos.true.global_ids, photos.true.local_ids)
            save_pictures(_folder(run) / "reconstruction", pictures[: c.pictures])
            run.record("denoising", setting, quality(pictures))
    for name in c.corruptions:
        if wanted := [setting for setting in missing if setting["corruption"] == name]:
            _measure_corruption(run, photos, quality, name, wanted)


def _measure_corruption(
    run: Run,
    photos: _Photos,
    quality: PictureQuality,
    name: Corruption,
    wanted: Sequence[dict[str, Scalar]],
) -> None:
    c = run.config.evaluate.denoising
    protocol = Protocol(c.window, c.context, tuple(c.rates), c.counted_globals)
    true, damaged = photos.true.local_ids, _damaged(run, photos, name)
    image_embedding = run.split_features("held_out")[photos.indices]
    shown = true if name in FILLING else to_words(run, damaged, image_embedding)
    examples = draw_examples(true, shown, len(run.local_words), protocol, run.config.seed)
    for setting in wanted:
        control = setting["control"]
        if control == "corrupted":
            changed = (damaged != photos.images).any((1, 2, 3))
            pictures, rows = (
                damaged,
                [proportion("pictures_changed", int(changed.sum()), len(changed))],
            )
        else:
            restored = _restored(run, name, control, shown, examples, protocol)
            right = (restored == true)[:, hole(name, *true.shape[1:])].mean(-1)
            pictures, rows = (
                from_words(run, photos.true.global_ids, restored),
                [mean("token_accuracy", right)],
            )
            if control == "none":
                _write_example(run, name, photos.true, shown, restored, examples, protocol)
        save_pictures(_folder(run) / name / control, pictures[: c.pictures])
        run.record("denoising", setting, [*quality(pictures), *rows])


def _photos(run: Run, count: int) -> _Photos:
    """Held-out photos drawn by the seed; all where `count` is 0."""
    held_out = run.photos.held_out
    indices = np.sort(
        np.random.default_rng(run.config.seed).permutation(len(held_out))[: count or None]
    )
    images = np.stack([_prepare(run, held_out[int(i)]["image"]) for i in indices])
    return _Photos(indices, images, jax.tree.map(lambda ids: ids[indices], run.tokens("held_out")))


def _prepare(run: Run, photo: np.ndarray) -> np.ndarray:
    """A photo as the tokenizer sees it."""
    record = {"image": photo, "label": -1}
    return building.image_transform(run.config, augment=False)(record, np.random.default_rng(0))[
        "image"
    ]


def _damaged(
    run: Run, photos: _Photos, name: Corruption
) -> Float[np.ndarray, "images side side 3"]:
    source, seed = run.photos.held_out, run.config.seed
    return np.stack(
        [
            corrupt(source[int(i)]["image"], lambda x: _prepare(run, x), name, seed, int(i))
            for i in photos.indices
        ]
    )


def _restored(
    run: Run,
    name: Corruption,
    control: str,
    shown: Int[np.ndarray, "images h w"],
    examples: Examples,
    protocol: Protocol,
) -> Int[np.ndarray, "images h w"]:
    """Local words as the language model restores them, or, for "vote", as the examples have them."""
    if control == "vote":
        return vote(shown, examples, name)
    if control == "no_tokens":
        examples = examples.without()
    if control == "shuffled":
        examples = examples.of_images(derangement(len(shown), run.config.seed))
    pieces, vocabulary = (
        PromptPieces.encode(run.llm.tokenizer, protocol.window),
        LocalVocabulary.of(run.local_words),
    )
    label = name if control == "none" else f"{name}, {_CAPTIONS[control].removeprefix('… ')}"
    return restore(run.engine, pieces, vocabulary, shown, examples, name, protocol, label)


def _folder(run: Run) -> pathlib.Path:
    """Pictures and example of this language model."""
    folder = run.folder("denoising") / re.sub(r"[^\w.]+", "-", run.config.llm)
    folder.mkdir(exist_ok=True)
    return folder


def _write_example(
    run: Run,
    name: Corruption,
    true: ImageTokens,
    shown: Int[np.ndarray, "images h w"],
    restored: Int[np.ndarray, "images h w"],
    examples: Examples,
    protocol: Protocol,
) -> None:
    """Keeps the first prompt of the first picture for the report."""
    path = _folder(run) / "example.json"
    if path.exists():
        return
    tokenizer, vocabulary = run.llm.tokenizer, LocalVocabulary.of(run.local_words)
    source, target = sources_and_targets(name, shown.shape[1:], protocol)[0]
    as_ids = lambda words: vocabulary.token_ids[words]
    prompts = WindowPrompts(
        PromptPieces.encode(tokenizer, protocol.window),
        as_ids(examples.inputs),
        as_ids(examples.outputs),
    )
    prompt = prompts(as_ids(shown).reshape(len(shown), -1), source, target, slice(1))[0]
    answer, expected = (
        tokenizer.decode(as_ids(words[0].reshape(-1)[target]).tolist())
        for words in (restored, true.local_ids)
    )
    write_json(path, {"prompt": tokenizer.decode(prompt), "answer": answer, "expected": expected})


def section(run: Run, results: Sequence[Result]) -> TaskSection | None:
    """Tables in the paper's layout, pictures before and after, and a prompt."""
    lead, example = LEAD, read_json(_folder(run) / "example.json", None)
    for row in results:
        if row.metric == "pictures_changed" and row.value < 1:
            unchanged = row.count - round(row.value * row.count)
            lead += f" {row.measured_on['corruption'].capitalize()} leaves {unchanged} of {row.count} photos, square ones, as they are."
    return TaskSection(
        "denoising",
        "Damaged pictures, restored word by word",
        lead,
        tables=denoising_tables(results),
        galleries=[
            Gallery(name.capitalize(), rows)
            for name in CORRUPTIONS
            if (rows := list(_gallery_rows(_folder(run), name)))
        ],
        examples=[PromptExample(**example)] if example else [],
    )


def _gallery_rows(folder: pathlib.Path, name: Corruption) -> Iterator[list[Picture]]:
    """For each picture: before, damaged, restored in several ways, and the bound."""
    kept = {control: read_pictures(folder / name / control) for control in _CAPTIONS}
    kept["reconstruction"] = read_pictures(folder / "reconstruction")
    for i, original in enumerate(read_pictures(folder / "original")):
        row = [Picture(original, "the photo")]
        row += [
            Picture(kept[control][i], caption)
            for control, caption in _CAPTIONS.items()
            if i < len(kept[control])
        ]
        if kept["none"]:
            yield row
