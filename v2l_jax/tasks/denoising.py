"""Five denoising tasks: a frozen language model restores damaged images, word by word (Zhu et al.
2024, Table 4).

An image's local words are restored a window at a time, in raster order. A prompt holds examples and
a query. Filling a hole (in- and outpainting), an example's input are the words before the window,
and what has been restored is the input of later windows; in the other tasks it is the damaged
image's words at the window itself, and no window depends on another.

The published examples give the answer away. They are copies of the image's own true words, at the
very positions asked for, with some of them replaced at random: half in the first example, a quarter
in the last. The rows beside the result say how much that is: "vote" takes the most frequent word of
the examples and asks no language model, "shuffled" shows another image's examples, "no_tokens"
none.

Where the published code departs from the paper, an option has the code's value by default: the
replaced share is one of all words, the global ones counted, yet only local ones are replaced
(`counted_globals`). One departure has no consequence and is not followed: the sequence that
contexts are cut from begins with the global words there, but no context of the published tasks
reaches back so far; here it begins with the first local word, and a context is shorter there.
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from v2l_jax.codebook.single_tokens import SingleTokens
from v2l_jax.data.corruptions import CORRUPTIONS, Corruption, corrupt, hole
from v2l_jax.errors import ConfigError, DataError
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.text_tokenizers import TextTokenizer
from v2l_jax.metrics.results import Result, Scalar, mean, proportion
from v2l_jax.options import CONTROLS, COUNT, POSITIVE, SHARE, TEXT, each, one_of, option
from v2l_jax.report.data import Gallery, PromptExample, Table, TaskSection
from v2l_jax.report.tables import Number, Published, TableSpec, render, with_fields
from v2l_jax.representations.controls import derangement
from v2l_jax.run import building, loading
from v2l_jax.run.pictures import (
    PictureQuality,
    check_local_words,
    from_words,
    save_pictures,
    to_words,
)
from v2l_jax.run.run import Run
from v2l_jax.run.workdir import read_json, write_json
from v2l_jax.tasks.harness.fit import check_length_fits
from v2l_jax.tasks.harness.galleries import kept_gallery
from v2l_jax.tasks.harness.noised_examples import NoisedExamples
from v2l_jax.tasks.harness.windows import (
    PromptPieces,
    Window,
    WindowFilling,
    WindowPrompts,
    cover,
    prompt_length,
)
from v2l_jax.tokenizers.base import TokenStreams

POSITION = 70
"""Where its section stands on the page."""

FILLING = ("inpainting", "outpainting")
"""Corruptions whose windows follow each other: predictions are the context of later windows."""


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


_LEAD = (
    "A language model that never saw a picture restores damaged ones. It reads words of the "
    "picture, after examples, and writes the words that are missing; the tokenizer's decoder "
    "paints them. The published examples are copies of the picture's own true words with a part of "
    "them replaced at random, so the prompt holds the answer. Compare the result with the most "
    "frequent word of the examples, which needs no language model, and with another picture's "
    "examples. All but the damaged picture went through the tokenizer, so a lightly damaged one "
    "may score above the bound. LPIPS is by VGG16; the paper does not name its network."
)
_BELOW = {
    "corrupted": "damaged",
    "none": "restored",
    "shuffled": "… with another picture's examples",
    "no_tokens": "… without examples",
}


def _published(metric: str, **sizes: tuple[float, ...]) -> Iterator[Published]:
    for size, values in sizes.items():
        label = f"Paper: LLaMA-2 {size[1:]}\nImageNet, 5,000 pictures of 128 × 128"
        yield Published(label, dict(zip(CORRUPTIONS, values, strict=True)), {"metric": metric})


TABLE = TableSpec(
    caption="{metric}; {count} pictures, 95 % intervals",
    tables=("metric",),
    rows=("llm", "control"),
    columns=("corruption",),
    row_label="{control}",
    labels={
        "metric": {
            "lpips": "LPIPS, lower is better",
            "fid": "FID, lower is better",
            "psnr": "PSNR in dB, higher is better",
            "ssim": "SSIM, higher is better",
            "token_accuracy": "Words restored exactly, in % of those asked for",
        },
        "corruption": {name: name.capitalize() for name in CORRUPTIONS},
        "control": {
            "none": "Restored by the language model\n{llm}",
            "no_tokens": "Control: no examples",
            "shuffled": "Control: another picture's examples",
            "vote": "Control: no language model, the most frequent word of the example outputs",
            "corrupted": "The damaged picture as it is",
            "reconstruction": "Bound: the true words, decoded",
        },
    },
    numbers={
        "lpips": Number(4),
        "fid": Number(2),
        "psnr": Number(2),
        "ssim": Number(3),
        "token_accuracy": Number(1, 100.0),
    },
    published=(
        *(
            Published(
                f"Paper: {tokenizer}, LLaMA-2 7B to 70B\nnot in the transcript at hand",
                {},
                {"metric": metric},
            )
            for metric in ("fid", "lpips")
            for tokenizer in ("VQ-GAN", "LQAE*", "SPAE*")
        ),
        *_published(
            "fid",
            _7B=(13.13, 15.28, 10.09, 10.64, 10.53),
            _13B=(11.70, 12.56, 10.60, 11.36, 11.84),
            _70B=(10.11, 10.73, 10.42, 10.48, 10.79),
        ),
        *_published(
            "lpips",
            _7B=(0.1219, 0.1442, 0.1033, 0.1064, 0.1058),
            _13B=(0.1134, 0.1275, 0.1085, 0.1128, 0.1176),
            _70B=(0.1021, 0.1128, 0.1058, 0.1058, 0.1093),
        ),
    ),
)
"""Table 4 of Zhu et al. 2024: a table for each metric. Rows of other tokenizers are in the paper
but in no source at hand; its text says that V2L's are the best.
"""


def settings(config: ConfigDict) -> list[dict[str, Scalar]]:
    """The bound, then for each corruption the damaged image, the vote, the result, its controls."""
    c = config.evaluate.denoising
    fixed = {key: c[key] for key in ("images", "window", "context", "counted_globals", "inception")}
    fixed["rates"] = " ".join(f"{rate:g}" for rate in c.rates)
    controls = ("corrupted", "vote", "none", *c.controls)
    cells = [("none", "reconstruction")]
    cells += [(name, control) for name in c.corruptions for control in controls]
    return [{"corruption": name, "control": control, **fixed} for name, control in cells]


def check(config: ConfigDict) -> None:
    """Raises ConfigError for a grid that has no halves, DataError for more images than are held
    out and prompts that cannot fit, AssetError where there is no such Inception.
    """
    c = config.evaluate.denoising
    side = config.model.image_size // 2 ** (len(config.model.channel_multipliers) - 1)
    if side % 4 and set(c.corruptions) & set(FILLING):
        raise ConfigError(
            "in- and outpainting need a grid whose side is a multiple of 4, but the model's is "
            f"{side} × {side}"
        )
    available, wanted = len(loading.photos(config).held_out), max(c.images, 2) + config.published
    _check_fits(config, side)
    if c.inception:
        loading.locate(c.inception)
    if wanted > available:
        raise DataError(
            f"config.evaluate.denoising.images asks for {wanted} held-out photos, but there are "
            f"{available}; ask for fewer, or raise config.data.held_out"
        )


def _check_fits(config: ConfigDict, side: int) -> None:
    """Raises DataError where a prompt does not fit the language model; its length is known."""
    options, tokenizer = Options(**config.evaluate.denoising), loading.text_tokenizer(config)
    pieces = prompt_pieces(tokenizer, options.window, config.published)
    for name in options.corruptions:
        window = windows_of(name, (side, side), options)[-1]
        check_length_fits(config, name, prompt_length(pieces, window, len(options.rates)))


def replaced_words(options: Options, positions: int) -> tuple[int, ...]:
    """How many of an image's `positions` words each example replaces; the published code's 21
    counted globals turn 50 % of 256 into 138.
    """
    counted = positions + options.counted_globals
    return tuple(min(int(rate * counted), positions) for rate in options.rates)


def prompt_pieces(tokenizer: TextTokenizer, window: int, published: bool = False) -> PromptPieces:
    """The published texts in the tokens of one language model.

    Args:
      tokenizer: the language model's.
      window: words predicted at once.
      published: encode each text by itself, as the published code does, and not as it stands
        between others.
    """
    encode = tokenizer.encode if published else tokenizer.encode_inside
    first = f"Learning a new language and predict the {window} tokens following the examples.\n"
    return PromptPieces(
        tuple(tokenizer.encode_prompt(first)),
        tuple(encode("###\nInput: < ")),
        tuple(encode(" >\nOutput: ")),
    )


def windows_of(corruption: Corruption, grid: tuple[int, int], options: Options) -> list[Window]:
    """What is asked of an image of `grid` words (height, width), in order."""
    targets = cover(hole(corruption, *grid).reshape(-1), options.window)
    if corruption not in FILLING:
        return [Window(target, target) for target in targets]
    before = [slice(max(target.start - options.context, 0), target.start) for target in targets]
    return list(map(Window, before, targets))


def window_prompts(
    pieces: PromptPieces, vocabulary: SingleTokens, examples: NoisedExamples
) -> WindowPrompts:
    """The prompts of all windows, in token ids of the language model."""
    ids = vocabulary.token_ids
    return WindowPrompts(pieces, ids[examples.inputs], ids[examples.outputs])


def restore(
    engine: LLMEngine,
    pieces: PromptPieces,
    vocabulary: SingleTokens,
    shown: Int[np.ndarray, "images h w"],
    examples: NoisedExamples,
    corruption: Corruption,
    options: Options = Options(),
    description: str = "denoising",
) -> Int[np.ndarray, "images h w"]:
    """Local words with the missing ones as the language model predicts them: greedily, among the
    words of the local codebook.

    Args:
      engine: the frozen language model.
      pieces: the prompts' fixed texts, in its tokens.
      vocabulary: the local codebook, in its tokens.
      shown: local words of the damaged images; in a hole they are not looked at.
      examples: what each image's prompts show before the query.
      corruption: where words are missing, and what inputs show.
      options: sizes of windows and contexts.
      description: for the progress bar.

    Raises:
      DataError: a prompt does not fit the model's context.
    """
    filling = WindowFilling(
        engine,
        window_prompts(pieces, vocabulary, examples),
        windows_of(corruption, shown.shape[1:], options),
        np.sort(vocabulary.token_ids).tolist(),
        description,
    )
    query = vocabulary.token_ids[shown].reshape(len(shown), -1)
    filled = filling.in_order(query) if corruption in FILLING else filling.at_once(query)
    return vocabulary.rows(filled).reshape(shown.shape)


def vote(
    shown: Int[np.ndarray, "images h w"], examples: NoisedExamples, corruption: Corruption
) -> Int[np.ndarray, "images h w"]:
    """What the examples give away: `shown` with the missing words as most example outputs have
    them, without a language model.
    """
    return np.where(
        hole(corruption, *shown.shape[1:]), examples.majority().reshape(shown.shape), shown
    )


@dataclasses.dataclass(frozen=True)
class _Originals:
    """The images that are damaged.

    Attributes:
      indices: which of the held-out ones.
      images: as the tokenizer sees them, in [-1, 1].
      true: their words.
    """

    indices: Int[np.ndarray, " images"]
    images: Float[np.ndarray, "images side side 3"]
    true: TokenStreams

    @classmethod
    def draw(cls, run: Run, count: int) -> "_Originals":
        """Held-out images drawn by the seed; all where `count` is 0. The published code takes the
        first ones, and one more.
        """
        held_out = run.photos.held_out
        order = np.random.default_rng(run.config.seed).permutation(len(held_out))
        indices = np.sort(order[: count or None])
        if run.config.published:
            indices = np.arange(len(held_out))[: count + 1 if count else None]
        images = np.stack([_prepare(run, held_out[int(i)]["image"]) for i in indices])
        return cls(indices, images, jax.tree.map(lambda ids: ids[indices], run.tokens("held_out")))

    def damaged(self, run: Run, name: Corruption) -> Float[np.ndarray, "images side side 3"]:
        """The same images, corrupted."""
        source, seed = run.photos.held_out, run.config.seed
        photos = [(source[int(i)]["image"], int(i)) for i in self.indices]
        return np.stack(
            [corrupt(photo, lambda x: _prepare(run, x), name, seed, i) for photo, i in photos]
        )


def _prepare(run: Run, photo: np.ndarray) -> np.ndarray:
    transform = building.image_transform(run.config, augment=False)
    return transform({"image": photo, "label": -1}, np.random.default_rng(0))["image"]


def measure(run: Run, missing: Sequence[dict[str, Scalar]]) -> None:
    """PSNR, SSIM, LPIPS, FID where an Inception is given, and the share of missing words that is
    restored exactly.
    """
    check_local_words(run, "denoising")
    options = Options(**run.config.evaluate.denoising)
    originals = _Originals.draw(run, options.images)
    quality = PictureQuality(run, originals.images, options.inception)
    save_pictures(_folder(run) / "original", originals.images[: options.pictures])
    for setting in missing:
        if setting["corruption"] == "none":
            pictures = from_words(run, originals.true)
            save_pictures(_folder(run) / "reconstruction", pictures[: options.pictures])
            run.record("denoising", setting, quality(pictures))
    for name in options.corruptions:
        if wanted := [setting for setting in missing if setting["corruption"] == name]:
            _measure_corruption(run, options, originals, quality, name, wanted)


def _measure_corruption(
    run: Run,
    options: Options,
    originals: _Originals,
    quality: PictureQuality,
    name: Corruption,
    wanted: Sequence[dict[str, Scalar]],
) -> None:
    true, damaged = originals.true["local"], originals.damaged(run, name)
    image_embedding = run.split_features("held_out")[originals.indices]
    shown = true if name in FILLING else to_words(run, damaged, image_embedding)
    counts = replaced_words(options, true[0].size)
    examples = NoisedExamples.draw(true, shown, len(run.local_words), counts, run.config.seed)
    for setting in wanted:
        control = str(setting["control"])
        if control == "corrupted":
            changed = (damaged != originals.images).any((1, 2, 3))
            pictures = damaged
            rows = [proportion("pictures_changed", int(changed.sum()), len(changed))]
        else:
            restored = _restored(run, options, name, control, shown, examples)
            right = (restored == true)[:, hole(name, *true.shape[1:])].mean(-1)
            pictures = from_words(run, originals.true | {"local": restored})
            rows = [mean("token_accuracy", right)]
            if control == "none":
                _write_example(run, options, name, true, shown, restored, examples)
        save_pictures(_folder(run) / name / control, pictures[: options.pictures])
        run.record("denoising", setting, [*quality(pictures), *rows])


def _restored(
    run: Run,
    options: Options,
    name: Corruption,
    control: str,
    shown: Int[np.ndarray, "images h w"],
    examples: NoisedExamples,
) -> Int[np.ndarray, "images h w"]:
    """Local words as the language model restores them, or, for "vote", as the examples have
    them.
    """
    if control == "vote":
        return vote(shown, examples, name)
    if control == "no_tokens":
        examples = examples.without()
    if control == "shuffled":
        examples = examples.of_images(derangement(len(shown), run.config.seed))
    pieces = prompt_pieces(run.llm.tokenizer, options.window, run.config.published)
    vocabulary = SingleTokens.of(run.local_words)
    label = name if control == "none" else f"{name}, {_BELOW[control].removeprefix('… ')}"
    return restore(run.engine, pieces, vocabulary, shown, examples, name, options, label)


def _folder(run: Run) -> pathlib.Path:
    """Pictures and example of this language model."""
    folder = run.folder("denoising") / re.sub(r"[^\w.]+", "-", run.config.llm)
    folder.mkdir(exist_ok=True)
    return folder


def _write_example(
    run: Run,
    options: Options,
    name: Corruption,
    true: Int[np.ndarray, "images h w"],
    shown: Int[np.ndarray, "images h w"],
    restored: Int[np.ndarray, "images h w"],
    examples: NoisedExamples,
) -> None:
    """Keeps the first prompt of the first image for the report."""
    path = _folder(run) / "example.json"
    if path.exists():
        return
    tokenizer, vocabulary = run.llm.tokenizer, SingleTokens.of(run.local_words)
    pieces = prompt_pieces(tokenizer, options.window, run.config.published)
    prompts = window_prompts(pieces, vocabulary, examples)
    window = windows_of(name, shown.shape[1:], options)[0]
    as_ids = vocabulary.token_ids.__getitem__
    prompt = prompts(as_ids(shown).reshape(len(shown), -1), window, slice(1))[0]
    answer, expected = (
        tokenizer.decode(as_ids(words[0].reshape(-1)[window.target]).tolist())
        for words in (restored, true)
    )
    write_json(path, {"prompt": tokenizer.decode(prompt), "answer": answer, "expected": expected})


def section(run: Run, results: Sequence[Result]) -> TaskSection | None:
    """Tables in the paper's layout, pictures before and after, and a prompt."""
    folder, lead = _folder(run), _LEAD
    for row in results:
        if row.metric == "pictures_changed" and row.value < 1:
            unchanged = row.count - round(row.value * row.count)
            name = str(row.measured_on["corruption"]).capitalize()
            lead += f" {name} leaves {unchanged} of {row.count} photos, square ones, as they are."
    example = read_json(folder / "example.json", None)
    return TaskSection(
        "denoising",
        "Damaged pictures, restored word by word",
        lead,
        tables=tables(results),
        galleries=[gallery for name in CORRUPTIONS for gallery in _gallery(folder, name)],
        examples=[PromptExample(**example)] if example else [],
    )


def tables(results: Sequence[Result]) -> list[Table]:
    """A table for each metric; the bound, which is of no corruption, stands in every column."""
    shown = [r for r in _in_every_column(results) if r.metric in TABLE.numbers]
    return render(shown, TABLE)


def _in_every_column(results: Sequence[Result]) -> Iterator[Result]:
    names = dict.fromkeys(r.measured_on["corruption"] for r in results)
    names.pop("none", None)
    for result in results:
        if result.measured_on["corruption"] == "none":
            yield from (with_fields(result, corruption=name) for name in names)
        else:
            yield result


def _gallery(folder: pathlib.Path, name: Corruption) -> list[Gallery]:
    """Each image: before, damaged, restored in several ways, and the bound."""
    if not (folder / name / "none").exists():
        return []
    folders = {folder / "original": "the photo"}
    folders |= {folder / name / control: below for control, below in _BELOW.items()}
    folders[folder / "reconstruction"] = "the true words, decoded"
    return kept_gallery(name.capitalize(), folders)
