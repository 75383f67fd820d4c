"""Results: a number with its sample count, its 95 % interval and what it was measured on; stored as
JSON.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from v2l_jax.atomic_write import atomic_write
from v2l_jax.errors import DataError
from v2l_jax.formats.text_files import read_json

Scalar = str | int | float | bool | None | np.generic
Interval = tuple[float, float]

_OWN_KEYS = ("metric", "value", "count", "ci95")
_REMEDY = "delete it: rows are measured again"
_Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclasses.dataclass(frozen=True)
class Result:
    """One row of results.json.

    Attributes:
      metric: what was measured, for example "few_shot_accuracy" or "psnr_db".
      value: the estimate.
      count: independent samples behind it (episodes, images).
      ci95: its 95 % confidence interval (low, high); None where none is defined.
      measured_on: dataset, llm, tower, ways, shots, tokens, control, …; flat, JSON scalars only.
    """

    metric: str
    value: float
    count: int
    ci95: Interval | None = None
    measured_on: Mapping[str, Scalar] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if clash := sorted(set(_OWN_KEYS) & set(self.measured_on)):
            raise ValueError(f"measured_on may not use the names {clash}")

    def to_json(self) -> dict[str, Any]:
        """The row as written: own fields first, measured_on flattened beside them; NaN becomes
        null.
        """
        own = {
            "metric": self.metric,
            "value": _finite(self.value),
            "count": int(self.count),
            "ci95": None if self.ci95 is None else [_finite(end) for end in self.ci95],
        }
        return own | {key: _plain(value) for key, value in self.measured_on.items()}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Result":
        """Inverse of `to_json`."""
        rest = {key: value for key, value in row.items() if key not in _OWN_KEYS}
        nan = float("nan")
        ends = row.get("ci95")
        ci95 = None if ends is None else tuple(nan if end is None else float(end) for end in ends)
        value = nan if row["value"] is None else float(row["value"])
        return cls(row["metric"], value, int(row["count"]), ci95, rest)


def proportion(metric: str, hits: int, count: int, **measured_on: Scalar) -> Result:
    """A Result for `hits` out of `count`, with the Wilson interval."""
    return Result(
        metric,
        hits / count if count else math.nan,
        count,
        wilson_interval(hits, count),
        measured_on,
    )


def mean(metric: str, samples: Sequence[float] | np.ndarray, **measured_on: Scalar) -> Result:
    """A Result for the mean of independent samples, with Student's t interval (None below two
    samples).
    """
    samples = np.asarray(samples, dtype=np.float64).ravel()
    value = float(samples.mean()) if len(samples) else math.nan
    return Result(metric, value, len(samples), mean_interval(samples), measured_on)


def wilson_interval(hits: int, count: int) -> Interval:
    """95 % score interval of a proportion (Wilson, 1927); stays inside [0, 1] and is valid at 0 and
    `count` hits.

    Raises:
      ValueError: `hits` outside 0 … `count`.
    """
    if not 0 <= hits <= count:
        raise ValueError(f"{hits} hits out of {count}")
    if count == 0:
        return 0.0, 1.0
    rate, z2 = hits / count, _Z95**2
    centre = (rate + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z95 / (1 + z2 / count) * math.sqrt(rate * (1 - rate) / count + z2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(samples: Sequence[float] | np.ndarray) -> Interval | None:
    """95 % interval of the mean: mean ± t(0.975, n-1) · s/√n; None below two samples."""
    from scipy import stats

    samples = np.asarray(samples, dtype=np.float64)
    if len(samples) < 2:
        return None
    half = float(
        stats.t.ppf(0.975, len(samples) - 1) * samples.std(ddof=1) / math.sqrt(len(samples))
    )
    centre = float(samples.mean())
    return centre - half, centre + half


def write_results(path: str | os.PathLike, results: Iterable[Result]) -> None:
    """Writes a results.json atomically."""
    _write_rows(pathlib.Path(path), [result.to_json() for result in results])


def read_results(path: str | os.PathLike) -> list[Result]:
    """Reads what `write_results` or `merge_results` wrote; an absent file is an empty list."""
    try:
        return [Result.from_json(row) for row in _read_rows(pathlib.Path(path))]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{os.fspath(path)} is damaged ({error!r:.80} in a row); {_REMEDY}"
        ) from error


def merge_results(path: str | os.PathLike, results: Iterable[Result], job: str) -> None:
    """Puts a job's rows into a results.json: its earlier rows are replaced, other jobs' stay.

    Repeating the call changes nothing. Rows carry the job's name in the field "job".
    """
    path = pathlib.Path(path)
    others = [row for row in _read_rows(path) if row.get("job") != job]
    _write_rows(path, others + [result.to_json() | {"job": job} for result in results])


def _read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    rows = read_json(path, DataError, list, _REMEDY)
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} is damaged: a row is no object; {_REMEDY}")
    return rows


def _write_rows(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    text = json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_write(path) as draft:
        draft.write_text(text, encoding="utf-8")


def _plain(value: Any) -> Scalar:
    if isinstance(value, np.generic):
        value = value.item()
    return _finite(value) if isinstance(value, float) else value


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
