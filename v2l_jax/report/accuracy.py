"""Few-shot rows of results.json as the tables a reader compares: accuracy by ways and shots, beside
controls and chance.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from v2l_jax.report.rows import FEW_SHOT, Measure, by_setting, measure

_CONTROL_LABELS = {"shuffled": "Words shuffled", "no_tokens": "No words"}


class FewShotRow(NamedTuple):
    """Accuracy at one number of shots: with the photos' own words, under each control, and the one
    to beat.
    """

    shots: int
    accuracy: Measure | None
    controls: Mapping[str, Measure]
    to_beat: float | None


class FewShotGroup(NamedTuple):
    """The rows at one number of ways; chance is 1 / ways."""

    ways: int
    chance: float
    rows: Sequence[FewShotRow]


class FewShotTable(NamedTuple):
    """All groups measured on the same thing (dataset, models, tokens, …), which `setting` names."""

    setting: Mapping[str, Any]
    controls: Sequence[str]
    groups: Sequence[FewShotGroup]


class Headline(NamedTuple):
    """The one accuracy that the summary quotes; `shuffled` is its control, where there is one."""

    ways: int
    shots: int
    tokens: int | None
    chance: float
    accuracy: Measure
    shuffled: Measure | None
    above_chance: bool
    control_at_chance: bool


def few_shot_tables(
    rows: Sequence[Mapping[str, Any]], to_beat: Mapping[tuple[int, int], float] | None = None
) -> list[FewShotTable]:
    """Arranges the few-shot rows, one table for each setting they were measured on, in the order
    they came.
    """
    tables = []
    for setting, members in by_setting(row for row in rows if is_plain(row)):
        cells = {(row["ways"], row["shots"], control_of(row)): measure(row) for row in members}
        controls = list(dict.fromkeys(control for _, _, control in cells if control))
        groups = []
        for ways in sorted({ways for ways, _, _ in cells}):
            shots = sorted({shots for other, shots, _ in cells if other == ways})
            groups.append(
                FewShotGroup(
                    ways,
                    1 / ways,
                    [
                        FewShotRow(
                            shot,
                            cells.get((ways, shot, "")),
                            {
                                name: cells[ways, shot, name]
                                for name in controls
                                if (ways, shot, name) in cells
                            },
                            (to_beat or {}).get((ways, shot)),
                        )
                        for shot in shots
                    ],
                )
            )
        tables.append(FewShotTable(setting, controls, groups))
    return tables


def headline(tables: Sequence[FewShotTable]) -> Headline | None:
    """Picks the accuracy to quote by rule, not by value: most ways, then fewest shots, of the first
    table.
    """
    for table in tables:
        for group in reversed(table.groups):
            for row in group.rows:
                if row.accuracy is None or math.isnan(row.accuracy.value):
                    continue
                low, shuffled = row.accuracy.low, row.controls.get("shuffled")
                return Headline(
                    group.ways,
                    row.shots,
                    table.setting.get("tokens"),
                    group.chance,
                    row.accuracy,
                    shuffled,
                    low is not None and low > group.chance,
                    shuffled is not None
                    and shuffled.low is not None
                    and shuffled.high is not None
                    and shuffled.low <= group.chance <= shuffled.high,
                )
    return None


def control_label(control: str) -> str:
    """Names a control for a column head."""
    return _CONTROL_LABELS.get(control, control.replace("_", " ").capitalize())


def is_plain(row: Mapping[str, Any]) -> bool:
    """Whether a row is a few-shot accuracy with the task stated and each example shown once."""
    return is_few_shot(row) and not row.get("repetitions") and row.get("induction", True)


def control_of(row: Mapping[str, Any]) -> str:
    """The control that a row was measured under; "" for the photos' own words."""
    control = row.get("control")
    return "" if control in (None, "none", "") else control


def is_few_shot(row: Mapping[str, Any]) -> bool:
    """Whether a row is an accuracy of the few-shot task."""
    return row["metric"] == FEW_SHOT and row.get("task", "few_shot") == "few_shot"
