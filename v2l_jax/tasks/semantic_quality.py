"""How near words are to their photos: CLIP score and CLIP-R (Zhu et al. 2024, Table 2), and photos
ringed by words (Figure 6).
"""

import dataclasses
import pathlib
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from v2l_jax.atomic_write import atomic_write
from v2l_jax.errors import ConfigError, DataError
from v2l_jax.metrics.clip_score import (
    VocabularyScores,
    normalized_scores,
    relative_scores,
    unit_rows,
    vocabulary_scores,
    word_scores,
)
from v2l_jax.metrics.results import Result, Scalar, mean
from v2l_jax.options import COUNT, POSITIVE, each, one_of, option
from v2l_jax.report.data import Table, TaskSection
from v2l_jax.report.tables import Number, Published, TableSpec, render
from v2l_jax.report.word_ring import word_ring
from v2l_jax.representations.controls import derangement
from v2l_jax.run import loading
from v2l_jax.run.run import Run
from v2l_jax.tasks.harness.classes import shown_names

POSITION = 40
"""Where its section stands on the page."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of semantic quality."""

    tokens: tuple[int, ...] = option(
        (5, 21), "words an image", each(POSITIVE, least=1), in_row=True
    )
    controls: tuple[str, ...] = option(
        ("shuffled", "random"),
        "another image's words; any word, on average",
        each(one_of("shuffled", "random")),
        in_row=True,
    )
    rings: int = option(
        9, "images drawn with their words around them", COUNT, changes_results=False
    )
    ring_words: int = option(21, "words around each", POSITIVE, changes_results=False)


def settings(config: ConfigDict) -> list[dict[str, Scalar]]:
    """A row set for each number of words and control; any word, on average, is the same for all
    numbers.
    """
    c = config.evaluate.semantic_quality
    pairs = [
        (k, control) for k in c.tokens for control in ("none", *c.controls) if control != "random"
    ]
    pairs += [(1, "random")] * ("random" in c.controls)
    return [{"tokens": k, "control": control, "split": "held-out"} for k, control in pairs]


def check(config: ConfigDict) -> None:
    """Raises DataError where there are too few photos for the shuffled control."""
    if (
        "shuffled" in config.evaluate.semantic_quality.controls
        and len(loading.photos(config).held_out) < 2
    ):
        raise DataError(
            "the control with another photo's words needs at least two held-out photos; raise "
            "config.data.held_out"
        )


def measure(run: Run, missing: Sequence[dict[str, Scalar]]) -> None:
    """Scores of the held-out photos, relative to all n-grams of the language model's vocabulary."""
    c = run.config.evaluate.semantic_quality
    most = max(*c.tokens, c.ring_words)
    if most > len(run.global_words):
        raise ConfigError(
            f"{most} words a photo are asked, but the global codebook has {len(run.global_words)}"
        )
    vectors, kind = run.split_features("held_out"), run.config.tower.partition(":")[0]
    candidates = run.candidates
    bounds = vocabulary_scores(vectors, np.asarray(candidates.embeddings))
    nearest = run.nearest_ids(vectors, most)
    _write_rings(run, vectors, nearest)
    for setting in missing:
        ids = nearest[:, : setting["tokens"]]
        if setting["control"] == "shuffled":
            ids = ids[derangement(len(ids), run.config.seed)]
        scores = (
            bounds.mean
            if setting["control"] == "random"
            else word_scores(vectors, run.global_words.embeddings, ids)
        )
        run.record("semantic_quality", setting, _rows(scores, bounds, kind, len(candidates)))


def _rows(
    scores: Float[np.ndarray, " images"], bounds: VocabularyScores, kind: str, vocabulary: int
) -> list[Result]:
    return [
        mean(f"{kind}_score", scores, vocabulary=vocabulary),
        mean(f"{kind}_r_min_max", normalized_scores(scores, bounds), vocabulary=vocabulary),
        mean(f"{kind}_ratio", relative_scores(scores, bounds), vocabulary=vocabulary),
    ]


def _folder(run: Run) -> pathlib.Path:
    """Figures of this language model's words."""
    return run.folder("semantic_quality") / re.sub(r"[^\w.]+", "-", run.config.llm)


def _rings(run: Run) -> list[pathlib.Path]:
    return sorted(_folder(run).glob("ring_*.svg"))


def _write_rings(
    run: Run, vectors: Float[np.ndarray, "images dim"], nearest: Int[np.ndarray, "images k"]
) -> None:
    """Draws the first photos of each class, class by class in turn."""
    c, photos, words = run.config.evaluate.semantic_quality, run.photos.held_out, run.global_words
    for ring in _rings(run):
        ring.unlink()
    labels = np.asarray(photos.labels)
    turn = [(np.sum(labels[:i] == label), label, i) for i, label in enumerate(labels)]
    names = shown_names(photos.class_names)
    for number, (_, label, i) in enumerate(sorted(turn)[: c.rings]):
        ids = nearest[i, : c.ring_words]
        cosines = unit_rows(np.asarray(words.embeddings)[ids]) @ unit_rows(vectors[i : i + 1])[0]
        caption = f"class: {names[label]}" if label >= 0 else ""
        svg = word_ring(
            photos[i]["image"], [words.texts[j] for j in ids], cosines.tolist(), caption
        )
        with atomic_write(_folder(run) / f"ring_{number:03}.svg") as draft:
            draft.write_text(svg, encoding="utf-8")


_LEAD = (
    "A word is as near to a photo as the cosine of their two vectors says. The score of a photo is "
    "the mean over its words. CLIP-R is SPAE's: 0 for the word of the whole vocabulary that is "
    "farthest from the photo, 1 for the nearest, and linear between. The ratio divides the score "
    "by the nearest word's. The same tower chose the words and judges them, as in the "
    "paper, so compare with the controls: another photo's words (where classes are few, it is "
    "often of the same class), and the mean over all words. (There is no row without words: no "
    "words, no cosine.)"
)
_NOT_CLIP = (
    " These are scores of a ConSE tower, not of CLIP: its cosines have another scale and it knows "
    "only its classifier's classes, so the paper's numbers stand in a table of their own."
)
PUBLISHED = tuple(
    Published(
        f"{method}\n{codebook}, ImageNet-1K",
        {"clip_score": score, "clip_r_min_max": r},
        {"tokens": tokens},
    )
    for method, codebook, tokens, score, r in (
        ("SPAE", "PaLM-2", 5, 0.1868, 0.7147),
        ("V2L (the paper)", "E-LLaMA-2", 5, 0.2576, 0.9165),
        ("SPAE", "PaLM-2", 21, 0.1815, 0.6901),
        ("V2L (the paper)", "E-LLaMA-2", 21, 0.2427, 0.8520),
    )
)
"""Table 2 of Zhu et al. 2024."""

_HEADS = {
    f"{kind}_{metric}": head.format(name)
    for kind, name in (("clip", "CLIP"), ("conse", "ConSE"))
    for metric, head in (
        ("score", "{} score"),
        ("r_min_max", "{}-R"),
        ("ratio", "Ratio to the nearest word"),
        ("r", "Ratio to the nearest word"),
    )
}
"""The last is what rows of earlier versions call the ratio."""
TABLE = TableSpec(
    caption=(
        "{count} photos of {dataset}, {vocabulary:,} words to choose from, 95 % intervals; tower "
        "{tower}"
    ),
    rows=("llm", "control", "tokens"),
    columns=("metric",),
    tables=("dataset", "vocabulary", "tower"),
    labels={
        "control": {
            "none": "The photo's words\n{llm}",
            "shuffled": "Control: another photo's words",
            "random": "Control: any word, on average",
        },
        "metric": _HEADS,
    },
    row_label="{control}",
    row_columns={"tokens": "Words a photo"},
    numbers={metric: Number(4) for metric in _HEADS},
    published=PUBLISHED,
)
_OWN_SCALE = dataclasses.replace(
    TABLE,
    published_apart="Table 2 of the paper: CLIP scores, which do not compare with the table above",
)


def section(run: Run, results: Sequence[Result]) -> TaskSection | None:
    """Table 2 with controls and the paper's rows, and photos ringed by their words."""
    kind = results[0].metric.partition("_")[0]
    return TaskSection(
        "semantic_quality",
        "How near words are to their photos",
        _LEAD + ("" if kind == "clip" else _NOT_CLIP),
        tables=tables(results),
        figures=[ring.read_text(encoding="utf-8") for ring in _rings(run)],
    )


def tables(results: Sequence[Result]) -> list[Table]:
    """Our rows and the paper's: below ours for a CLIP, apart for another tower, whose scores are
    not comparable.
    """
    clip = results[0].metric.startswith("clip")
    return render(results, TABLE if clip else _OWN_SCALE)
