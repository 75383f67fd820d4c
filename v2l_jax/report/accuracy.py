"""Few-shot accuracies on the page: by ways and shots, beside controls and chance, and the one that
the summary quotes.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from v2l_jax.metrics.results import Result
from v2l_jax.report.data import Table
from v2l_jax.report.tables import Number, TableSpec, metric_label, render, setting_of, with_fields

METRIC = "few_shot_accuracy"
_CONTROL_LABELS = {"shuffled": "Words shuffled", "no_tokens": "No words"}

TABLE = TableSpec(
    caption="Accuracy, 95 % interval below it. {setting}",
    tables=None,
    rows=("ways", "shots"),
    columns=("control",),
    row_label="{ways}-way",
    row_columns={"shots": "Shots"},
    corner="Ways",
    counts="Trials",
    labels={
        "control": {"none": "Accuracy", **_CONTROL_LABELS, "chance": "Chance", "to_beat": "To beat"}
    },
    numbers={METRIC: Number(1, 100.0, unit="\u00a0%")},
)


class AccuracyGroup(NamedTuple):
    """Accuracies at one number of ways: by shots, then by control, "" being no control."""

    ways: int
    by_shots: Mapping[int, Mapping[str, Result]]

    @property
    def chance(self) -> float:
        """How often guessing is right."""
        return 1 / self.ways


class Headline(NamedTuple):
    """The one accuracy that the summary quotes; `shuffled` is its control, where there is one."""

    ways: int
    shots: int
    tokens: int | None
    accuracy: Result
    shuffled: Result | None

    @property
    def chance(self) -> float:
        """How often guessing is right."""
        return 1 / self.ways

    @property
    def above_chance(self) -> bool:
        """Whether the whole interval lies above chance."""
        return self.accuracy.ci95 is not None and self.accuracy.ci95[0] > self.chance

    @property
    def control_at_chance(self) -> bool:
        """Whether chance lies in the control's interval."""
        if self.shuffled is None or self.shuffled.ci95 is None:
            return False
        return self.shuffled.ci95[0] <= self.chance <= self.shuffled.ci95[1]


def accuracy_tables(
    results: Iterable[Result], to_beat: Mapping[tuple[int, int], float] | None = None
) -> list[Table]:
    """A table for each setting that accuracies were measured on.

    Args:
      results: of any task; others than plain few-shot accuracies are left out.
      to_beat: accuracies that an earlier system reached, by ways and shots.
    """
    rows = []
    for result in filter(is_plain, results):
        ways, shots = (int(result.measured_on[name]) for name in ("ways", "shots"))
        references = {"chance": 1 / ways, "to_beat": (to_beat or {}).get((ways, shots))}
        rows.append(with_fields(result, control=control_of(result) or "none"))
        for control, value in references.items():
            if value is not None:
                reference = Result(METRIC, value, result.count, None, result.measured_on)
                rows.append(with_fields(reference, control=control))
    return render(rows, TABLE)


def accuracy_groups(results: Iterable[Result]) -> list[list[AccuracyGroup]]:
    """The same numbers for plots: for each setting, in the order of the tables, its groups."""
    settings: dict[tuple, dict[int, dict[int, dict[str, Result]]]] = {}
    for result in filter(is_plain, results):
        on = result.measured_on
        setting = tuple(sorted(setting_of(result, {"ways", "shots", "control"}).items()))
        by_ways = settings.setdefault(setting, {})
        by_shots = by_ways.setdefault(int(on["ways"]), {})
        by_shots.setdefault(int(on["shots"]), {})[control_of(result)] = result
    return [
        [AccuracyGroup(ways, dict(sorted(shots.items()))) for ways, shots in sorted(group.items())]
        for group in settings.values()
    ]


def headline(groups: Sequence[Sequence[AccuracyGroup]]) -> Headline | None:
    """Picks the accuracy to quote by rule, not by value: most ways, then fewest shots, of the first
    setting.
    """
    for setting in groups:
        for group in reversed(setting):
            for shots, by_control in group.by_shots.items():
                own = by_control.get("")
                if own is not None and not math.isnan(own.value):
                    tokens, shuffled = own.measured_on.get("tokens"), by_control.get("shuffled")
                    return Headline(group.ways, shots, tokens, own, shuffled)
    return None


def control_label(control: str) -> str:
    """Names a control for a column head."""
    return _CONTROL_LABELS.get(control, metric_label(control))


def is_plain(result: Result) -> bool:
    """Whether a result is a few-shot accuracy with the task stated and each example shown once."""
    on = result.measured_on
    return is_few_shot(result) and not on.get("repetitions") and bool(on.get("induction", True))


def control_of(result: Result) -> str:
    """The control that a result was measured under; "" for the images' own words."""
    control = result.measured_on.get("control")
    return "" if control in (None, "none", "") else str(control)


def is_few_shot(result: Result) -> bool:
    """Whether a result is an accuracy of the few-shot task."""
    return result.metric == METRIC and result.measured_on.get("task", "few_shot") == "few_shot"
