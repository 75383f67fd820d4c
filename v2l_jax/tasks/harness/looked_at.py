"""Which parts of an image an answer was read off: attention to the image's words, its rollout, and
what leaving each word out does to the answer.
"""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.stats import spearmanr

from v2l_jax.data.transforms import fit_square
from v2l_jax.llm.attention_maps import attention_maps, rollout, sinks
from v2l_jax.report.data import Gallery, Picture
from v2l_jax.representations.base import Ids
from v2l_jax.representations.word_sequences import boxes
from v2l_jax.run.run import Run
from v2l_jax.run.workdir import read_json, write_json
from v2l_jax.tasks.harness.prompts import Prompt, encode

_SIDE = 224
_TINT = np.array([255, 80, 0], np.float32)


class LookedAt(NamedTuple):
    """One answer, a number for each token of the image.

    Attributes:
      share: mean attention over layers and heads of the token that predicts the answer's first.
      by_layer: [layers], the sum of these shares in each layer.
      reached: of the rollout, sinks left out.
      effect: how much less likely the answer is without the token, nats.
    """

    share: Float[np.ndarray, " tokens"]
    by_layer: Float[np.ndarray, " layers"]
    reached: Float[np.ndarray, " tokens"]
    effect: Float[np.ndarray, " tokens"]


def looked_at(
    run: Run, ids: Sequence[int], answer: Sequence[int], shown: Int[np.ndarray, " tokens"]
) -> LookedAt:
    """Where an answer to a prompt was read off.

    Args:
      run: with the language model that answered.
      ids: of the prompt.
      answer: its ids.
      shown: places of the image's tokens among `ids`.
    """
    maps = attention_maps(run.llm.model, run.engine.params, np.asarray(ids, np.int32))
    shares = np.asarray(maps.shares)[:, :, -1, shown]
    reached = rollout(maps, sinks(maps))[-1, shown]
    without = [[*ids[:place], *ids[place + 1 :]] for place in shown]
    prompts = [list(ids), *without]
    scored = run.engine.score_continuations(prompts, [[list(answer)]] * len(prompts), "leaving out")
    whole, *rest = (float(one[0]) for one in scored)
    return LookedAt(shares.mean((0, 1)), shares.mean(1).sum(-1), reached, whole - np.asarray(rest))


def keep_looked_at(
    run: Run,
    folder: pathlib.Path,
    images: Sequence[int],
    prompts: Sequence[Prompt],
    answers: Sequence[tuple[str, Sequence[int]]],
) -> None:
    """Writes looked_at.json: of each answer, the image's number, its text, and `LookedAt`.

    Args:
      run: with the language model that answered.
      folder: made if it is not there.
      images: numbers of the images.
      prompts: what was asked; ids after the model's vocabulary are the image's.
      answers: text and ids of each.
    """
    kept, size = [], run.llm.model.config.vocab_size
    for image, prompt, (text, answer) in zip(images, prompts, answers, strict=True):
        ids = encode(run.llm.tokenizer, prompt, run.engine)
        written = [s for s in prompt if isinstance(s, Ids)]
        if len(written) != 1 or len(written[0].ids) < 3:
            continue
        places = np.flatnonzero(np.asarray(ids) >= size)[1:-1]  # but the marks about the image
        found = looked_at(run, ids, answer, places)
        numbers = {name: np.round(x, 6).tolist() for name, x in found._asdict().items()}
        kept.append({"image": int(image), "answer": text} | numbers)
    write_json(folder / "looked_at.json", kept)


def gallery(run: Run, folder: pathlib.Path, places: Any) -> list[Gallery]:
    """A row for each answer that was kept: the image, then its patches by share, rollout and
    effect.

    Args:
      run: the run.
      folder: of `keep_looked_at`.
      places: of `Representation.places`, for the run's own images.
    """
    kept = read_json(folder / "looked_at.json", [])
    if not kept or places is None:
        return []
    grid, cells, fit = places
    rows = []
    for one in kept:
        place, source = one["image"], run.photos.train
        if place >= len(source):
            place, source = place - len(source), run.photos.held_out
        square = fit_square(source[place]["image"], _SIDE, fit)
        where = [boxes(tuple(c), grid) for c in cells[one["image"]]]
        tinted = [
            Picture(heat(square, where, one[name]), f"{label}{_agreement(one, name)}")
            for name, label in (
                ("share", "attention"), ("reached", "rollout without sinks"),
                ("effect", "less likely without this patch"),
            )
        ]  # fmt: skip
        rows.append([Picture(square, f"“{one['answer'].strip()}”"), *tinted])
    by_layer = np.mean([one["by_layer"] for one in kept], axis=0)
    most = int(np.argmax(by_layer))
    caption = (
        "Where an answer looks. Attention to the image's words is "
        f"{100 * by_layer.mean():.0f} % of all on average, most in layer {most + 1} of "
        f"{len(by_layer)} ({100 * by_layer[most]:.0f} %). ρ: rank correlation with the effect of "
        "leaving the word out, which is what the answer depends on"
    )
    return [Gallery(caption, rows)]


def heat(
    square: UInt8[np.ndarray, "side side 3"],
    where: Sequence[Sequence[tuple[float, float, float, float]]],
    values: Sequence[float],
) -> UInt8[np.ndarray, "side side 3"]:
    """An image, grey but for what has the largest values; negative ones count as none.

    Args:
      square: the image.
      where: for each value its boxes, (left, top, right, bottom) from 0 to 1.
      values: of the boxes.
    """
    shown = np.repeat(square.mean(-1, keepdims=True), 3, axis=-1).astype(np.float32)
    most = max(max(values, default=0.0), 1e-9)
    for found, value in zip(where, values):
        weight = 0.75 * max(value, 0.0) / most
        for box in found:
            left, top, right, bottom = (round(len(square) * x) for x in box)
            part = shown[top:bottom, left:right]
            part[:] = (1 - weight) * part + weight * _TINT
    return shown.astype(np.uint8)


def _agreement(one: dict[str, Any], name: str) -> str:
    """Spearman's correlation with the effect, where both vary."""
    if name == "effect" or min(np.ptp(one[name]), np.ptp(one["effect"])) == 0:
        return ""
    return f", ρ {float(np.asarray(spearmanr(one[name], one['effect']))[0]):.2f}"
