"""Accuracies of visual question answering as tables: ways of answering and controls down, types of
answer across.
"""

from collections.abc import Sequence

from v2l_jax.metrics.results import Result
from v2l_jax.report.cells import result_cell
from v2l_jax.report.data import Table

LEAD = (
    "A language model that never saw a picture answers questions about pictures from their words alone, after a few examples. Much "
    "of an answer can be guessed from the question, so only what stands above the controls was read off the words: without words, "
    "and with another picture's words. Open answers are generated and count if they are the true one after the published "
    "normalisation; closed ones are the likeliest of the set's answers."
)

DRAWN_SHAPES = (
    " The pictures of easy-VQA are drawn shapes. A ConSE tower names photographed things and sees neither their form nor their "
    "colour, so its rows show what the questions alone give away."
)

_ANSWERING = {"open": "Open answers", "closed": "Closed answers"}
_CONTROLS = {
    "none": "the picture's words",
    "no_tokens": "control: no words",
    "shuffled": "control: another picture's words",
}
_SETTING = ("dataset", "llm", "tower", "shots", "shot_choice", "tokens")


def lead(results: Sequence[Result]) -> str:
    """What was asked and how to read it, and what the tower cannot see of the pictures."""
    blind = any(
        "easy" in str(r.measured_on["dataset"]) and str(r.measured_on["tower"]).startswith("conse")
        for r in results
    )
    return LEAD + (DRAWN_SHAPES if blind else "")


def vqa_tables(results: Sequence[Result]) -> list[Table]:
    """A table for each data set and setting that was measured.

    Args:
      results: rows of metric "vqa_accuracy" with the fields "dataset", "llm", "tower", "shots",
        "shot_choice", "tokens", "answering", "control" and "answer_type", which is "all" for the
        whole set.
    """
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        groups.setdefault(tuple(result.measured_on[key] for key in _SETTING), []).append(result)
    return [
        _table(dict(zip(_SETTING, setting, strict=True)), rows) for setting, rows in groups.items()
    ]


def _table(setting: dict, rows: Sequence[Result]) -> Table:
    types = sorted({row.measured_on["answer_type"] for row in rows} - {"all"})
    cells = {
        tuple(row.measured_on[key] for key in ("answering", "control", "answer_type")): row
        for row in rows
    }
    body = [
        (
            f"{way}\n{label}",
            *(result_cell(cells.get((answering, control, kind)), 2) for kind in ("all", *types)),
        )
        for answering, way in _ANSWERING.items()
        for control, label in _CONTROLS.items()
        if (answering, control, "all") in cells
    ]
    counts = {
        kind: next(row.count for row in rows if row.measured_on["answer_type"] == kind)
        for kind in ("all", *types)
    }
    chosen = (
        "the most similar questions" if setting["shot_choice"] == "similar" else "drawn by the seed"
    )
    caption = (
        f"{setting['dataset']}: accuracy with 95 % intervals; {setting['shots']} examples, {chosen}; {setting['tokens']} words a picture; "
        f"{setting['llm']}, {setting['tower']}"
    )
    return Table(
        caption, ("", *(f"{kind.capitalize()} ({count})" for kind, count in counts.items())), body
    )
