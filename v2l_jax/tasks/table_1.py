"""The layout of the paper's Table 1: few-shot accuracy by ways, shots, repetitions and induction,
published rows below ours.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from v2l_jax.report.data import Table
from v2l_jax.report.rows import Measure, by_setting, measure
from v2l_jax.tasks.few_shot_tables import control_label, control_of, is_few_shot, is_plain


class Prompting(NamedTuple):
    """How examples are shown: shots of each class, how often the list is repeated, whether the task
    is stated first.
    """

    shots: int
    repetitions: int
    induction: bool


TABLE_1 = (
    Prompting(1, 0, False),
    Prompting(1, 0, True),
    Prompting(3, 0, True),
    Prompting(5, 0, True),
    Prompting(1, 1, True),
    Prompting(1, 3, True),
    Prompting(1, 5, True),
)
"""The columns of the paper's Table 1 at each number of ways; its last column is their mean."""

_HEAD = (
    "1 shot, no induction",
    "1 shot",
    "3 shots",
    "5 shots",
    "repeated 1×",
    "repeated 3×",
    "repeated 5×",
    "mean",
)


class PublishedRow(NamedTuple):
    """Published accuracies in percent on Mini-ImageNet: 1, 3, 5 shots, then 1 shot repeated 1, 3, 5
    times, then the mean.

    The mean is over seven settings; the one without induction is in no source at hand but follows
    from it.
    """

    method: str
    llm: str
    accuracies: Mapping[int, tuple[float | None, ...]]


PUBLISHED = (
    PublishedRow("Frozen", "", {2: (33.7, 66.0, None, 63.0, 65.0, 63.7, 51.3), 5: (14.5, 34.7, None, 33.8, 33.3, 32.8, 26.3)}),
    PublishedRow("LQAE, 256 tokens", "GPT-3.5", {2: (35.2, 68.2, 69.8, 68.5, 68.7, 65.9, 54.0), 5: (15.7, 35.9, 36.5, 31.9, 36.4, 45.9, 29.0)}),
    PublishedRow("SPAE, 5 tokens", "PaLM-2 340B", {2: (84.0, 88.5, 88.4, 85.1, 83.6, 82.4, 77.7), 5: (64.2, 68.0, 69.9, 63.4, 62.0, 60.2, 58.8)}),
    PublishedRow("V2L, 5 tokens", "LLaMA-2 7B", {2: (73.1, 89.0, 93.4, 79.6, 80.6, 79.1, 75.6), 5: (54.6, 88.6, 91.1, 70.7, 72.8, 74.4, 69.8)}),
    PublishedRow("V2L, 5 tokens", "LLaMA-2 13B", {2: (77.9, 91.9, 94.4, 81.5, 82.8, 82.0, 79.3), 5: (69.6, 89.9, 91.3, 75.8, 75.7, 77.2, 75.0)}),
    PublishedRow("V2L, 5 tokens", "LLaMA-2 70B", {2: (87.1, 94.8, 96.1, 88.9, 89.2, 89.1, 83.9), 5: (81.5, 92.3, 93.0, 85.7, 86.1, 86.3, 81.5)}),
    PublishedRow("SPAE, 21 tokens", "PaLM-2 340B", {2: (84.8, 92.5, 92.6, 84.8, 85.2, 85.4, 79.0), 5: (65.1, 73.7, 74.3, 66.4, 67.0, 66.3, 61.9)}),
    PublishedRow("V2L, 21 tokens", "LLaMA-2 7B", {2: (76.3, 91.2, 95.3, 84.0, 84.4, 83.7, 78.8), 5: (44.8, 91.8, 94.0, 73.9, 82.2, 85.3, 72.7)}),
    PublishedRow("V2L, 21 tokens", "LLaMA-2 13B", {2: (73.1, 92.4, 95.7, 80.9, 83.8, 82.0, 79.5), 5: (62.7, 93.0, 94.5, 72.8, 79.6, 82.0, 75.2)}),
    PublishedRow("V2L, 21 tokens", "LLaMA-2 70B", {2: (89.1, 96.9, 97.8, 91.4, 92.7, 92.9, 86.7), 5: (79.7, 94.9, 95.6, 89.3, 90.7, 90.2, 83.5)}),
)  # fmt: skip
"""Table 1 of Zhu et al. 2024."""


def table_1(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """The paper's Table 1, one table for each number of ways: our rows, with controls, then the
    published ones.

    Nothing where no setting of ours has a column that the plain tables lack.
    """
    ours = [row for row in rows if is_few_shot(row)]
    if all(map(is_plain, ours)):
        return []
    tables = []
    for ways in sorted({row["ways"] for row in ours}):
        members = [row for row in ours if row["ways"] == ways]
        datasets = sorted({row["dataset"] for row in members if "dataset" in row})
        written = [
            _own_row(setting, cells, len(datasets) > 1) for setting, cells in _by_variant(members)
        ]
        written += [_published_row(row, ways) for row in PUBLISHED if ways in row.accuracies]
        caption = (
            f"{ways}-way accuracy in percent; guessing gets {100 / ways:.3g}, or next to nothing without induction. "
            f"Ours on {', '.join(datasets) or 'photos of one set'}; published rows on Mini-ImageNet, with other language models: "
            "no comparison on equal terms."
        )
        tables.append(Table(caption, ("Words shown to", *_HEAD), written))
    return tables


def _by_variant(
    rows: Sequence[Mapping[str, Any]],
) -> list[tuple[Mapping[str, Any], Mapping[Prompting, Measure]]]:
    """Cells of each row of the table: what was measured on the same thing under the same control."""
    variants: dict[tuple, tuple[Mapping[str, Any], dict[Prompting, Measure]]] = {}
    for row in rows:
        setting, _ = by_setting([row])[0]
        prompting = Prompting(
            row["shots"], setting.pop("repetitions", 0), setting.pop("induction", True)
        )
        setting["control"] = control_of(row)
        variants.setdefault(tuple(sorted(setting.items())), (setting, {}))[1][prompting] = measure(
            row
        )
    return list(variants.values())


def _own_row(
    setting: Mapping[str, Any], cells: Mapping[Prompting, Measure], name_dataset: bool
) -> tuple[str, ...]:
    control = f", {control_label(setting['control']).lower()}" if setting["control"] else ""
    scoring = f"{setting.get('rule', '')}{', calibrated' if setting.get('calibrate') else ''}"
    details = [
        setting.get("llm", ""),
        scoring,
        f"{setting['words']} words" if "words" in setting else "",
        setting.get("dataset", "") if name_dataset else "",
    ]
    name = f"Ours, {setting.get('tokens', '?')} tokens{control}\n{'; '.join(filter(None, details))}"
    found = [cells.get(column) for column in TABLE_1]
    whole = all(cell is not None and not math.isnan(cell.value) for cell in found)
    mean = f"{sum(100 * cell.value for cell in found) / len(found):.1f}" if whole else "–"
    return (name, *map(_cell, found), mean)


def _cell(found: Measure | None) -> str:
    if found is None or math.isnan(found.value):
        return "–"
    interval = "" if found.low is None else f"\n{100 * found.low:.1f}–{100 * found.high:.1f}"
    return f"{100 * found.value:.1f}{interval}"


def _published_row(row: PublishedRow, ways: int) -> tuple[str, ...]:
    *known, mean = row.accuracies[ways]
    without_induction = "–" if None in known else f"≈{len(TABLE_1) * mean - sum(known):.0f}"
    written = [
        without_induction,
        *("–" if value is None else f"{value:.1f}" for value in known),
        f"{mean:.1f}",
    ]
    return (f"{row.method}\n{row.llm or 'language model not named'}; published", *written)


def table_text(table: Table) -> str:
    """A table for the terminal: columns in line, intervals left out."""
    cells = [tuple(table.head)] + [
        (" — ".join(row[0].split("\n")), *(cell.split("\n")[0] for cell in row[1:]))
        for row in table.rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in cells
    ]
    return "\n".join([table.caption, *lines])
