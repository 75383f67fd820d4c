"""How near words are to their photos, as a table in the layout of Table 2 of Zhu et al. 2024, the
paper's rows beside ours.
"""

from collections.abc import Sequence

from v2l_jax.metrics.results import Result
from v2l_jax.report.cells import result_cell
from v2l_jax.report.data import Table

_LEAD = (
    "A word is as near to a photo as the cosine of their two vectors says. The score of a photo is the mean over its words; the "
    "relative score divides it by that of the best word of the whole vocabulary, so that 1 is the bound. The same tower chose the "
    "words and judges them, as in the paper, so compare with the controls: another photo's words (where classes are few, it is often of "
    "the same class), and the mean over all words. "
    "(There is no row without words: no words, no cosine.) The last column is another reading of a relative score, 0 for the worst word of the "
    "vocabulary and 1 for the best; the paper gives no formula for its CLIP-R."
)
_NOT_CLIP = (
    " These are scores of a ConSE tower, not of CLIP: its cosines have another scale and it knows only its classifier's classes, so "
    "the paper's numbers stand in a table of their own."
)
_PAPER = (  # method, codebook, tokens, CLIP, CLIP-R
    ("SPAE", "PaLM-2", 5, "0.1868", "0.7147"),
    ("V2L (the paper)", "E-LLaMA-2", 5, "0.2576", "0.9165"),
    ("SPAE", "PaLM-2", 21, "0.1815", "0.6901"),
    ("V2L (the paper)", "E-LLaMA-2", 21, "0.2427", "0.8520"),
)
_CONTROLS = {
    "none": "The photo's words",
    "shuffled": "Control: another photo's words",
    "random": "Control: any word, on average",
}
_TOWER_NAMES = {"clip": "CLIP", "conse": "ConSE"}


def semantic_quality_lead(kind: str) -> str:
    """What the numbers mean; `kind` is the tower's, "clip" or "conse"."""
    return _LEAD + (_NOT_CLIP if kind == "conse" else "")


def semantic_quality_tables(results: Sequence[Result], kind: str) -> list[Table]:
    """Our rows and the paper's: one table for a CLIP, two for another tower, whose scores are not
    comparable.

    Args:
      results: rows of metrics "<kind>_score", "<kind>_r" and "<kind>_r_min_max", with the fields
        "tokens", "control", "llm", "tower", "dataset" and "vocabulary" (how many words were to
        choose from).
      kind: "clip" or "conse".
    """
    head = ("", "Words a photo", *(_head(kind, metric) for metric in ("score", "r", "r_min_max")))
    setting = results[0].measured_on
    caption = (
        f"{results[0].count} photos of {setting['dataset']}, {setting['vocabulary']:,} words to choose from, 95 % intervals; "
        f"tower {setting['tower']}"
    )
    ours = Table(caption, head, _our_rows(results, kind))
    paper = [
        (f"{method}\n{codebook}, ImageNet-1K", str(tokens), score, r, "–")
        for method, codebook, tokens, score, r in _PAPER
    ]
    if kind == "clip":
        return [Table(caption, head, [*ours.rows, *paper])]
    caption = "Table 2 of the paper: CLIP scores, which do not compare with the table above"
    return [
        ours,
        Table(caption, ("", "Words a photo", "CLIP", "CLIP-R"), [row[:4] for row in paper]),
    ]


def _head(kind: str, metric: str) -> str:
    return {
        "score": f"{_TOWER_NAMES[kind]} score",
        "r": f"{_TOWER_NAMES[kind]}-R",
        "r_min_max": "Min–max",
    }[metric]


def _our_rows(results: Sequence[Result], kind: str) -> list[tuple[str, ...]]:
    cells = {
        (r.measured_on["llm"], r.measured_on["control"], r.measured_on["tokens"], r.metric): r
        for r in results
    }
    metrics = [f"{kind}_{metric}" for metric in ("score", "r", "r_min_max")]
    rows = []
    for llm in dict.fromkeys(llm for llm, *_ in cells):
        for control, label in _CONTROLS.items():
            for tokens in sorted({t for name, c, t, _ in cells if (name, c) == (llm, control)}):
                values = (
                    result_cell(cells.get((llm, control, tokens, metric)), 4) for metric in metrics
                )
                name = f"{label}\n{llm}" if control == "none" else label
                rows.append((name, str(tokens), *values))
    return rows
