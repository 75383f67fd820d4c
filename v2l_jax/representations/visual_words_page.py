"""Pictures of visual words for the page: images with their patches coloured by word, and for each
word the patches nearest to it.
"""

import colorsys
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from v2l_jax.data.transforms import fit_square, resize
from v2l_jax.ops.unit_vectors import unit_vectors
from v2l_jax.report.data import Gallery, Picture
from v2l_jax.representations.word_rows import nearest_patches
from v2l_jax.representations.word_sequences import Sequence_, boxes
from v2l_jax.run import adapters
from v2l_jax.run.run import Run

if TYPE_CHECKING:
    from v2l_jax.representations.visual_words import Options

_SIDE, _PATCH = 224, 56
_GOLDEN = 0.618034  # neighbouring numbers get colours far apart


def galleries(options: "Options", run: Run, images: int = 6, words: int = 10) -> list[Gallery]:
    """Images coloured by word, and contact sheets of the words that these images use most.

    Args:
      options: of the representation; its vocabulary and features lie in the workdir.
      run: the run.
      images: held-out images shown.
      words: contact sheets.
    """
    source = run.photos.held_out
    if not options.path_of_words(run, "held_out", source).exists():
        return []
    written = options.sequences(run, "held_out", source)
    grid = written["grid"]
    order = np.random.default_rng(run.config.seed).permutation(len(source))[:images]
    rows = []
    for i in map(int, order):
        square = fit_square(source[i]["image"], _SIDE, options.fit)
        sequence = written["images"][i]
        text = " ".join(str(word) for word, _ in sequence)
        rows.append(
            [Picture(square), Picture(coloured(square, sequence, grid), f"words {_short(text)}")]
        )
    used = Counter(word for i in order for word, _ in written["images"][int(i)])
    chosen = [word for word, _ in used.most_common(words)]
    return [
        Gallery("Patches coloured by visual word; one colour is one word", rows),
        Gallery(
            "Visual words of these images: the training patches nearest to each, and the language "
            "model's words whose embeddings are most similar to its row",
            _sheets(options, run, chosen),
        ),
    ]


def coloured(
    square: UInt8[np.ndarray, "side side 3"], sequence: Sequence_, grid: tuple[int, int]
) -> UInt8[np.ndarray, "side side 3"]:
    """An image under a half transparent colour of each patch's word."""
    shown, side = square.astype(np.float32), len(square)
    for word, cells in sequence:
        tint = 255 * np.asarray(colorsys.hsv_to_rgb(word * _GOLDEN % 1, 0.8, 1.0), np.float32)
        for box in boxes(cells, grid):
            left, top, right, bottom = (round(side * x) for x in box)
            part = shown[top:bottom, left:right]
            part[:] = 0.5 * part + 0.5 * tint
            part[0], part[:, 0] = 255, 255
    return shown.astype(np.uint8)


def _sheets(options: "Options", run: Run, chosen: list[int]) -> list[list[Picture]]:
    """A row of patches for each word, the first with the word's number and its neighbours."""
    vocabulary, source = options.vocabulary(run), run.photos.train
    features = options.patches.of(run, "train", source)
    cells, of = nearest_patches(vocabulary, features, 8)
    grid = (features.shape[1], features.shape[2])
    near = nearest_texts(run, _rows(options, run)[chosen])
    sheets = []
    for word, texts in zip(chosen, near):
        row = []
        for place, (cell, image) in enumerate(zip(cells[word], of[word])):
            square = fit_square(source[int(image)]["image"], _SIDE, options.fit)
            (box,) = boxes((int(cell),), grid)
            left, top, right, bottom = (round(_SIDE * x) for x in box)
            patch = resize(square[top:bottom, left:right], _PATCH, _PATCH, "nearest")
            row.append(Picture(patch, f"{word}: {', '.join(texts)}" if not place else ""))
        sheets.append(row)
    return sheets


def _rows(options: "Options", run: Run) -> Float[np.ndarray, "rows hidden"]:
    """The trained rows where the finetune job left some, else those they start from."""
    trained = None
    if adapters.are_there(run.config, run.workdir):
        trained = adapters.trained_rows(run)
    return options.new_rows(run) if trained is None else trained


def nearest_texts(
    run: Run, rows: Float[np.ndarray, "rows hidden"], count: int = 3
) -> list[list[str]]:
    """The language model's tokens whose embeddings have the highest cosine with each row, about
    the mean of all.
    """
    own = np.asarray(run.llm.params["embedding"], np.float32)
    mean = own.mean(0)
    own, rows = unit_vectors(own - mean, 1e-12), rows - mean
    best = np.argsort(-rows @ own.T, axis=1, kind="stable")[:, :count]
    return [[repr(run.llm.tokenizer.decode([int(i)]))[1:-1] for i in row] for row in best]


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: text.rfind(" ", 0, most)] + " …"
