"""Rows of results.json arranged as the tables a reader compares: accuracy by ways and shots, reconstruction quality."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from v2l_jax.metrics.results import Result

FEW_SHOT = "few_shot_accuracy"
_MEASURED = {"metric", "value", "count", "ci95", "ways", "shots", "control", "job"}
_ACRONYMS = {"clip", "fid", "gan", "gpu", "lpips", "psnr", "ssim", "vq"}
_CONTROL_LABELS = {"shuffled": "Words shuffled", "no_tokens": "No words"}


class Quality(NamedTuple):
    """How a reconstruction metric is written: its label, decimals, unit, and what its direction means."""

    label: str
    decimals: int
    unit: str
    hint: str


_QUALITIES = {
    "psnr": Quality("PSNR", 2, " dB", "higher is closer, pixel by pixel"),
    "ssim": Quality("SSIM", 3, "", "1 is the same structure"),
    "lpips": Quality("LPIPS", 3, "", "lower looks more alike"),
    "fid": Quality("FID", 2, "", "lower is closer as a set"),
    "codebook_usage": Quality("Codebook usage", 1, " %", "share of the words that some photo uses"),
    "effective_tokens": Quality("Effective tokens", 0, "", "words that some photo uses"),
}


class Measure(NamedTuple):
    """A number with its 95 % interval (None where not given) and the number of samples behind it."""

    value: float
    low: float | None
    high: float | None
    count: int | None


class FewShotRow(NamedTuple):
    """Accuracy at one number of shots: with the photos' own words, under each control, and the one to beat."""

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


class QualityRow(NamedTuple):
    """One reconstruction metric, written out."""

    label: str
    hint: str
    value: str
    interval: str
    count: int | None


class QualityTable(NamedTuple):
    """Reconstruction metrics measured on the same thing."""

    setting: Mapping[str, Any]
    rows: Sequence[QualityRow]


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


def as_rows(results: Iterable[Result | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Turns results into flat rows, as in results.json; what is null is left out of a row."""
    rows = (result.to_json() if isinstance(result, Result) else result for result in results)
    return [{key: value for key, value in row.items() if value is not None} for row in rows]


def few_shot_tables(
    rows: Sequence[Mapping[str, Any]], to_beat: Mapping[tuple[int, int], float] | None = None
) -> list[FewShotTable]:
    """Arranges the few-shot rows, one table for each setting they were measured on, in the order they came."""
    tables = []
    for setting, members in _by_setting(row for row in rows if row["metric"] == FEW_SHOT):
        cells = {(row["ways"], row["shots"], _control(row)): _measure(row) for row in members}
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
                            {name: cells[ways, shot, name] for name in controls if (ways, shot, name) in cells},
                            (to_beat or {}).get((ways, shot)),
                        )
                        for shot in shots
                    ],
                )
            )
        tables.append(FewShotTable(setting, controls, groups))
    return tables


def quality_tables(rows: Sequence[Mapping[str, Any]]) -> list[QualityTable]:
    """Arranges the reconstruction rows, one table for each setting."""
    chosen = (row for row in rows if row["metric"] in _QUALITIES)
    return [QualityTable(setting, [_quality_row(row) for row in members]) for setting, members in _by_setting(chosen)]


def other_rows(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any], Measure]]:
    """Lists the rows that no other table shows: metric, what it was measured on, and the number."""
    rest = (row for row in rows if row["metric"] != FEW_SHOT and row["metric"] not in _QUALITIES)
    return [(row["metric"], _setting(row, keep={"ways", "shots", "control"}), _measure(row)) for row in rest]


def headline(tables: Sequence[FewShotTable]) -> Headline | None:
    """Picks the accuracy to quote by rule, not by value: most ways, then fewest shots, of the first table."""
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
                    shuffled is not None and shuffled.low is not None and shuffled.low <= group.chance <= shuffled.high,
                )
    return None


def metric_label(metric: str) -> str:
    """Names a metric as the field writes it: PSNR, Few shot throughput."""
    if metric in _QUALITIES:
        return _QUALITIES[metric].label
    words = metric.replace("_", " ").replace("/", " ").split()
    text = " ".join(word.upper() if word in _ACRONYMS else word for word in words)
    return text[:1].upper() + text[1:]


def control_label(control: str) -> str:
    """Names a control for a column head."""
    return _CONTROL_LABELS.get(control, control.replace("_", " ").capitalize())


def _control(row: Mapping[str, Any]) -> str:
    control = row.get("control")
    return "" if control in (None, "none", "") else control


def _measure(row: Mapping[str, Any]) -> Measure:
    """Reads a row's number, which is NaN where the file says null; an interval without both ends is none."""
    low, high = row.get("ci95") or (None, None)
    if low is None or high is None:
        low = high = None
    return Measure(float(row.get("value", math.nan)), low, high, row.get("count"))


def _setting(row: Mapping[str, Any], keep: Iterable[str] = ()) -> dict[str, Any]:
    """What a row was measured on; floats are further measurements (seconds, throughput), not settings."""
    hidden = _MEASURED - set(keep)
    return {key: value for key, value in row.items() if key not in hidden and isinstance(value, str | int)}


def _by_setting(rows: Iterable[Mapping[str, Any]]) -> list[tuple[dict[str, Any], list[Mapping[str, Any]]]]:
    groups: dict[tuple, tuple[dict[str, Any], list[Mapping[str, Any]]]] = {}
    for row in rows:
        setting = _setting(row)
        groups.setdefault(tuple(sorted(setting.items())), (setting, []))[1].append(row)
    return list(groups.values())


def _quality_row(row: Mapping[str, Any]) -> QualityRow:
    quality, measure = _QUALITIES[row["metric"]], _measure(row)
    scale = 100.0 if quality.unit == " %" else 1.0

    def written(number: float) -> str:
        return "undefined" if math.isnan(number) else f"{number * scale:.{quality.decimals}f}"

    interval = "" if measure.low is None else f"{written(measure.low)}–{written(measure.high)}"
    value = written(measure.value) + quality.unit.replace(" ", "\u00a0")
    return QualityRow(quality.label, quality.hint, value, interval, measure.count)
