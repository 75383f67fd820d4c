"""Progressive in-context decoding (Yu et al. 2023, SPAE): a language model writes a pyramid of
words layer by layer.

The first layers of an image are given. The others are cut into segments, each asked in a prompt of
its own, that shows what stands before it: the given words and the segments already written. The
examples of a prompt are copies of the image's words with a part of them replaced at random
(in-context denoising), so the prompt holds the answer: compare with the most frequent word of the
examples, which needs no language model, and with another image's examples.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from v2l_jax.codebook.single_tokens import SingleTokens
from v2l_jax.errors import ConfigError, DataError
from v2l_jax.metrics.results import Result, Scalar, mean
from v2l_jax.options import CONTROLS, POSITIVE, SHARE, each, option
from v2l_jax.report.data import TaskSection
from v2l_jax.report.tables import Number, TableSpec, render
from v2l_jax.representations.controls import derangement
from v2l_jax.run import building, loading
from v2l_jax.run.pictures import PictureQuality, from_words
from v2l_jax.run.run import Run
from v2l_jax.tasks.denoising import prompt_pieces
from v2l_jax.tasks.harness.fit import check_length_fits
from v2l_jax.tasks.harness.noised_examples import NoisedExamples
from v2l_jax.tasks.harness.windows import Window, WindowFilling, WindowPrompts, prompt_length
from v2l_jax.tokenizers.base import TokenStreams

POSITION = 62
"""Where its section stands on the page."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of progressive decoding; for tokenizers with layers, such as SPAE."""

    given: int = option(2, "first layers that are given", POSITIVE)
    layers: int = option(4, "layers that the picture is painted from", POSITIVE)
    segment: int = option(4, "words asked at once", POSITIVE)
    images: int = option(32, "held-out images", POSITIVE)
    rates: tuple[float, ...] = option(
        (0.50, 0.47, 0.44, 0.41, 0.38, 0.35, 0.32, 0.29, 0.26, 0.23),
        "share of words replaced, an example each",
        each(SHARE, least=1),
    )
    controls: tuple[str, ...] = option(
        ("no_tokens", "shuffled"),
        "no examples, and another image's examples",
        CONTROLS,
        in_row=True,
    )


def settings(config: ConfigDict) -> list[dict[str, Scalar]]:
    """The bound, what is given alone, the vote, the result, its controls."""
    c = config.evaluate.progressive
    fixed = {key: c[key] for key in ("given", "layers", "segment", "images")}
    controls = ("all_layers", "given_layers", "vote", "none", *c.controls)
    return [{"control": control, **fixed} for control in controls]


def check(config: ConfigDict) -> None:
    """Raises ConfigError where the tokenizer has no such layers, DataError for more images than
    are held out and prompts that cannot fit.
    """
    c, sides = config.evaluate.progressive, config.model.spae.sides
    if config.model.kind != "spae":
        raise ConfigError(
            f"the task progressive wants a tokenizer with layers, but config.model.kind is "
            f"{config.model.kind!r}; set it to 'spae'"
        )
    if not c.given < c.layers <= len(sides):
        raise ConfigError(
            f"config.evaluate.progressive gives {c.given} layers and paints from {c.layers}, but "
            f"must give fewer than it paints from, and there are {len(sides)}"
        )
    available = len(loading.photos(config).held_out)
    if max(c.images, 2) > available:
        raise DataError(
            f"config.evaluate.progressive.images asks for {max(c.images, 2)} held-out photos, but "
            f"there are {available}; ask for fewer, or raise config.data.held_out"
        )
    last = segments([side**2 for side in sides[: c.layers]], c.given, c.segment)[-1]
    pieces = prompt_pieces(loading.text_tokenizer(config), c.segment)
    check_length_fits(config, "progressive", prompt_length(pieces, last, len(c.rates)))


def segments(lengths: Sequence[int], given: int, size: int) -> list[Window]:
    """What is asked in order: never words of two layers at once; all before is shown.

    Args:
      lengths: words of each layer.
      given: first layers that are not asked.
      size: words of a segment.
    """
    windows, start = [], sum(lengths[:given])
    for length in lengths[given:]:
        stop = start + length
        while start < stop:
            end = min(start + size, stop)
            windows.append(Window(slice(0, start), slice(start, end)))
            start = end
    return windows


def measure(run: Run, missing: Sequence[dict[str, Scalar]]) -> None:
    """Share of words written as they were, and quality of the pictures that they decode to."""
    c, config = run.config.evaluate.progressive, run.config
    held_out = run.tokens("held_out")
    names = list(run.trained.tokenizer.codebooks)[: c.layers]
    order = np.random.default_rng(config.seed).permutation(len(held_out[names[0]]))
    chosen = np.sort(order[: c.images])
    layers = {name: np.asarray(held_out[name])[chosen] for name in names}
    true = flat(layers)
    lengths = [layers[name][0].size for name in names]
    quality = PictureQuality(run, originals(run, chosen))
    counts = [int(rate * true.shape[1]) for rate in c.rates]
    examples = NoisedExamples.draw(true, true, len(run.local_words), counts, config.seed)
    start = sum(lengths[: c.given])
    for setting in missing:
        control, rows = str(setting["control"]), []
        if control == "given_layers":
            pictures = from_words(run, {name: layers[name] for name in names[: c.given]})
        elif control == "all_layers":
            pictures = from_words(run, layers)
        else:
            written = write(run, control, true, lengths, examples)
            pictures = from_words(run, layered(written, layers))
            right = (written == true)[:, start:].mean(1)
            rows = [mean("words_as_they_were", right)]
        run.record("progressive", setting, [*quality(pictures), *rows])


def write(
    run: Run,
    control: str,
    true: Int[np.ndarray, "images positions"],
    lengths: Sequence[int],
    examples: NoisedExamples,
) -> Int[np.ndarray, "images positions"]:
    """The words of all layers, those after the given ones as the language model writes them; for
    "vote", as most examples have them.
    """
    c = run.config.evaluate.progressive
    start = sum(lengths[: c.given])
    if control == "vote":
        return np.concatenate([true[:, :start], examples.majority()[:, start:]], axis=1)
    if control == "no_tokens":
        examples = examples.without()
    if control == "shuffled":
        examples = examples.of_images(derangement(len(true), run.config.seed))
    vocabulary = SingleTokens.of(run.local_words)
    ids = vocabulary.token_ids
    filling = WindowFilling(
        run.engine,
        WindowPrompts(
            prompt_pieces(run.llm.tokenizer, c.segment), ids[examples.inputs], ids[examples.outputs]
        ),
        segments(lengths, c.given, c.segment),
        np.sort(ids).tolist(),
        f"writing layers, {control}",
    )
    return vocabulary.rows(filling.in_order(ids[true]))


def flat(layers: TokenStreams) -> Int[np.ndarray, "images positions"]:
    """The layers' words one after the other, each in raster order."""
    return np.concatenate([ids.reshape(len(ids), -1) for ids in layers.values()], axis=1)


def layered(words: Int[np.ndarray, "images positions"], like: TokenStreams) -> TokenStreams:
    """Inverse of `flat`, in the shapes of `like`."""
    found, start = {}, 0
    for name, ids in like.items():
        stop = start + ids[0].size
        found[name] = words[:, start:stop].reshape(ids.shape).astype(ids.dtype)
        start = stop
    return found


def originals(run: Run, chosen: Int[np.ndarray, " images"]) -> np.ndarray:
    """Held-out images as the tokenizer sees them, in [-1, 1]."""
    transform = building.image_transform(run.config, augment=False)
    rng, photos = np.random.default_rng(0), run.photos.held_out
    return np.stack([transform(photos[int(i)], rng)["image"] for i in chosen])


TABLE = TableSpec(
    caption=(
        "{dataset}, {count} images: {given} layers given, pictures from {layers}; 95 % intervals; "
        "{llm}"
    ),
    rows=("control",),
    columns=("metric",),
    tables=("dataset", "llm", "given", "layers", "segment"),
    labels={
        "control": {
            "none": "Written by the language model",
            "no_tokens": "control: no examples",
            "shuffled": "control: another image's examples",
            "vote": "control: no language model, the most frequent word of the examples",
            "given_layers": "The given layers alone, decoded",
            "all_layers": "Bound: the true words, decoded",
        },
        "metric": {
            "words_as_they_were": "Words as they were, %",
            "psnr": "PSNR, dB",
            "ssim": "SSIM",
            "lpips": "LPIPS",
        },
    },
    numbers={
        "words_as_they_were": Number(1, scale=100.0),
        "psnr": Number(2),
        "ssim": Number(3),
        "lpips": Number(3),
    },
)


def section(run: Run, results: Sequence[Result]) -> TaskSection | None:
    """A table with controls and the bound."""
    del run
    lead = (
        "The first layers of an image's words are given, and the language model writes the next "
        "layers a few words at a time. The examples are copies of the image's own words with a "
        "part replaced at random, as SPAE's in-context denoising has them, so compare with the "
        "most frequent word of the examples and with another image's examples."
    )
    return TaskSection("progressive", "Words written layer by layer", lead, render(results, TABLE))
