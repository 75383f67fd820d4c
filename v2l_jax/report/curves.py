"""Training curves: rows of metrics.jsonl arranged as one plot for each quantity."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from v2l_jax.report.plots import Line, Numbers

Curves = Mapping[str, tuple[Numbers, Numbers]]

_SPLIT_LABELS = {"eval": "held out"}
_FIRST = ("loss", "psnr", "lpips", "codebook_usage", "perplexity", "dead_words", "ssim")


class CurvePlot(NamedTuple):
    """The lines of one quantity, such as "psnr": training first, then what was held out."""

    quantity: str
    lines: Sequence[Line]


def curves_from_rows(rows: Sequence[Mapping[str, Any]]) -> Curves:
    """Collects rows {"step": 10, "split": "train", "loss": 0.5, …} as {"train/loss": (steps,
    values), …}.

    Values that are not finite numbers are left out; where a step comes twice, the later row counts.
    """
    collected: dict[str, dict[int, float]] = {}
    for row in rows:
        for name, value in row.items():
            if (
                name not in ("step", "split")
                and isinstance(value, int | float)
                and math.isfinite(value)
            ):
                collected.setdefault(f"{row['split']}/{name}", {})[row["step"]] = value
    return {
        name: (sorted(points), [points[step] for step in sorted(points)])
        for name, points in collected.items()
    }


def curve_plots(curves: Curves) -> list[CurvePlot]:
    """Groups "train/loss" and "eval/loss" as two lines of the plot "loss"; the best known
    quantities come first.
    """
    grouped: dict[str, list[Line]] = {}
    for name in sorted(curves, key=lambda name: (not name.startswith("train/"), name)):
        split, _, quantity = name.partition("/") if "/" in name else ("", "", name)
        steps, values = curves[name]
        if len(steps):
            label = _SPLIT_LABELS.get(split, split.replace("_", " "))
            grouped.setdefault(quantity, []).append(Line(label, steps, values))
    order = sorted(grouped, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
    return [CurvePlot(name, grouped[name]) for name in order]
