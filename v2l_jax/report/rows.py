"""Rows of results.json as tables: what they were measured on, reconstruction quality, and the
rest.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from v2l_jax.metrics.results import Result

FEW_SHOT = "few_shot_accuracy"
OF_THE_RUN = frozenset({"job", "task", "identity", "commit", "device"})
"""Fields that say which run made a row; a table of what was measured leaves them out."""

_MEASURED = {"metric", "value", "count", "ci95", "ways", "shots", "control", *OF_THE_RUN}
_ACRONYMS = {"clip", "fid", "gan", "gpu", "lpips", "psnr", "ssim", "vq"}


class Quality(NamedTuple):
    """How a reconstruction metric is written: its label, decimals, unit, and what its direction
    means.
    """

    label: str
    decimals: int
    unit: str
    hint: str


_QUALITIES = {
    "psnr": Quality("PSNR", 2, " dB", "higher is closer, pixel by pixel"),
    "ssim": Quality("SSIM", 3, "", "1 is the same structure"),
    "lpips": Quality("LPIPS", 3, "", "lower looks more alike"),
    "fid": Quality("FID", 2, "", "lower is closer as a set"),
    "inception_score": Quality(
        "IS", 2, "", "higher: each image of one class, many classes among them"
    ),
    "codebook_usage": Quality("Codebook usage", 1, " %", "share of the words that some photo uses"),
    "effective_tokens": Quality("Effective tokens", 0, "", "words that some photo uses"),
}


class Measure(NamedTuple):
    """A number with its 95 % interval (None where not given) and the number of samples behind
    it.
    """

    value: float
    low: float | None
    high: float | None
    count: int | None


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


def as_rows(results: Iterable[Result | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Turns results into flat rows, as in results.json; what is null is left out of a row."""
    rows = (result.to_json() if isinstance(result, Result) else result for result in results)
    return [{key: value for key, value in row.items() if value is not None} for row in rows]


def quality_tables(rows: Sequence[Mapping[str, Any]]) -> list[QualityTable]:
    """Arranges the reconstruction rows, one table for each setting."""
    chosen = (row for row in rows if is_reconstruction(row))
    return [
        QualityTable(setting, [_quality_row(row) for row in members])
        for setting, members in by_setting(chosen)
    ]


def is_reconstruction(row: Mapping[str, Any]) -> bool:
    """Whether a row says how well photos come back from their words; other tasks measure PSNR and
    the like too.
    """
    return row["metric"] in _QUALITIES and row.get("task") in (None, "reconstruction")


def other_rows(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any], Measure]]:
    """Lists the rows that no other table shows: metric, what it was measured on, and the number."""
    rest = (row for row in rows if row["metric"] != FEW_SHOT and not is_reconstruction(row))
    return [
        (row["metric"], _setting(row, keep={"ways", "shots", "control"}), measure(row))
        for row in rest
    ]


def metric_label(metric: str) -> str:
    """Names a metric as the field writes it: PSNR, Few shot throughput."""
    if metric in _QUALITIES:
        return _QUALITIES[metric].label
    words = metric.replace("_", " ").replace("/", " ").split()
    text = " ".join(word.upper() if word in _ACRONYMS else word for word in words)
    return text[:1].upper() + text[1:]


def measure(row: Mapping[str, Any]) -> Measure:
    """Reads a row's number, which is NaN where the file says null; an interval without both ends is
    none.
    """
    low, high = row.get("ci95") or (None, None)
    if low is None or high is None:
        low = high = None
    return Measure(float(row.get("value", math.nan)), low, high, row.get("count"))


def by_setting(
    rows: Iterable[Mapping[str, Any]],
) -> list[tuple[dict[str, Any], list[Mapping[str, Any]]]]:
    """Rows measured on the same thing, with what that is, in the order they came."""
    groups: dict[tuple, tuple[dict[str, Any], list[Mapping[str, Any]]]] = {}
    for row in rows:
        setting = _setting(row)
        groups.setdefault(tuple(sorted(setting.items())), (setting, []))[1].append(row)
    return list(groups.values())


def _setting(row: Mapping[str, Any], keep: Iterable[str] = ()) -> dict[str, Any]:
    """What a row was measured on; floats are further measurements (seconds, throughput), not
    settings.
    """
    hidden = _MEASURED - set(keep)
    return {
        key: value
        for key, value in row.items()
        if key not in hidden and isinstance(value, str | int)
    }


def _quality_row(row: Mapping[str, Any]) -> QualityRow:
    quality, number = _QUALITIES[row["metric"]], measure(row)
    scale = 100.0 if quality.unit == " %" else 1.0

    def written(value: float) -> str:
        return "undefined" if math.isnan(value) else f"{value * scale:.{quality.decimals}f}"

    interval = "" if number.low is None else f"{written(number.low)}–{written(number.high)}"
    value = written(number.value) + quality.unit.replace(" ", "\u00a0")
    return QualityRow(quality.label, quality.hint, value, interval, number.count)
