"""A sweep on the page: metrics of each combination of variants, or steps to a target by batch
size.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from v2l_jax.errors import DataError
from v2l_jax.jobs.sweep_plots import Groups, curves_plots
from v2l_jax.metrics.critical_batch import fit_batch_scaling
from v2l_jax.metrics.results import Result, mean
from v2l_jax.report.data import Table, TaskSection
from v2l_jax.report.plots import Line, batch_size_plot
from v2l_jax.report.tables import Number

METRICS = {
    "codebook_usage": ("Words used, %", 1, 100.0),
    "perplexity": ("Perplexity", 1, 1.0),
    "dead_words": ("Dead words", 0, 1.0),
    "psnr": ("PSNR, dB", 2, 1.0),
    "lpips": ("LPIPS", 3, 1.0),
}
"""Metric of an evaluation → (what the head says, decimals, factor)."""

_SHOWN = METRICS | {"steps_to_target": ("Steps to the target", 0, 1.0)}

_LEAD = (
    "The tokenizer trained from the start, the same otherwise; the GAN's losses begin at step {}. "
    "Metrics are of all validation images. Intervals are Student's t over seeds; differences are "
    "paired by seed. Dotted: the first variant."
)


def variants_section(
    results: Sequence[Result], axes: Sequence[str], curves: Groups, gan_start: int, title: str
) -> TaskSection | None:
    """The section of one sweep; None where it has no rows.

    Args:
      results: one row for each metric, combination and seed.
      axes: names of the axes, which the rows have as fields.
      curves: of the trainings.
      gan_start: step at which the GAN starts, marked in the curves.
      title: the heading.
    """
    if not results:
        return None
    lead = _LEAD.format(gan_start + 1)
    figures = curves_plots(curves, gan_start)
    return TaskSection("sweep", title, lead, variants_tables(results, axes), figures)


def variants_tables(results: Sequence[Result], axes: Sequence[str]) -> list[Table]:
    """The means over seeds, and what each variant of the last axis adds to its first.

    Args:
      results, axes: as in `variants_section`; fields "seed" pair the differences.
    """
    values: dict[tuple[str, ...], dict[str, dict[int, float]]] = {}
    for row in results:
        on = row.measured_on
        by_metric = values.setdefault(tuple(str(on[axis]) for axis in axes), {})
        by_metric.setdefault(row.metric, {})[int(on["seed"])] = row.value
    shown = [name for name in _SHOWN if any(name in by_metric for by_metric in values.values())]
    head = (", ".join(axes).capitalize(), *(_SHOWN[name][0] for name in shown), "Seeds")
    found, added = [], []
    for others in dict.fromkeys(names[:-1] for names in values):
        variants = [names for names in values if names[:-1] == others]
        first = values[variants[0]]
        for names in variants:
            mine, label = values[names], ", ".join(names)
            seeds, common = (
                {seed for by_seed in one.values() for seed in by_seed} for one in (mine, first)
            )
            found.append((label, *_cells(mine, {}, shown), str(len(seeds))))
            if names != variants[0]:
                added.append((label, *_cells(mine, first, shown), str(len(seeds & common))))
    return [
        Table("At the end of training", head, found),
        Table(f"Difference to the first {axes[-1]}", head, added),
    ]


def _cells(
    mine: Mapping[str, Mapping[int, float]],
    first: Mapping[str, Mapping[int, float]],
    shown: Sequence[str],
) -> list[str]:
    """A cell for each metric: the mean over seeds, less that of `first` where it is given."""
    cells = []
    for metric in shown:
        _, decimals, scale = _SHOWN[metric]
        samples = mine.get(metric, {})
        if first:
            samples = {
                seed: value - first[metric][seed]
                for seed, value in samples.items()
                if seed in first.get(metric, {})
            }
        result = mean(metric, list(samples.values())) if samples else None
        number = Number(decimals, scale, between=" to ")
        cells.append(number.cell(result) if result else "–")
    return cells


def steps_section(results: Sequence[Result], title: str) -> TaskSection | None:
    """Steps to a target against batch size, with the fitted law; None where there are no rows.

    Args:
      results: rows "steps_to_target" with batch_size, seed and target_psnr; NaN is a training that
        never reached the target.
      title: the heading.
    """
    rows = [result for result in results if result.metric == "steps_to_target"]
    if not rows:
        return None
    by_size: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        by_size[int(row.measured_on["batch_size"])].append(row.value)
    reached = [
        (size, steps)
        for size, all_steps in by_size.items()
        for steps in all_steps
        if not math.isnan(steps)
    ]
    target = rows[0].measured_on["target_psnr"]
    lead = (
        "Training from the start at each batch size until the validation images come back at "
        f"{target:g} dB PSNR. "
    )
    try:
        fit = fit_batch_scaling(*np.array(reached).T) if reached else None
    except DataError as error:
        fit, lead = None, f"{lead}No law is fitted: {error}."
    if fit is not None:
        lead += (
            f"The law steps = {fit.least_steps:.3g} · (1 + {fit.critical_batch:.3g} / batch) fits "
            "to "
            f"{100 * fit.relative_error:.2g} %: {fit.critical_batch:.3g} images (95 % interval "
            f"{fit.interval[0]:.3g}–{fit.interval[1]:.3g}) "
            "is the critical batch size, beyond which more devices save little time (McCandlish "
            "et al. 2018)."
        )
    table = Table(
        "Steps and images to the target",
        ("batch", "steps", "images", "seeds"),
        _step_cells(by_size),
    )
    line = np.geomspace(min(by_size), max(by_size), 60)
    law = Line("fit", line.tolist(), fit.steps(line).tolist()) if fit else None
    figures = [batch_size_plot(sorted(reached), law, "scaling")] if reached else []
    return TaskSection("sweep", title, lead, tables=[table], figures=figures)


def _step_cells(by_size: dict[int, list[float]]) -> list[tuple[str, ...]]:
    rows = []
    for size, steps in sorted(by_size.items()):
        summary = mean("steps", steps)
        if math.isnan(summary.value):
            rows.append((f"{size:,}", "not reached", "", str(len(steps))))
            continue
        spread = "" if summary.ci95 is None else f"\n{summary.ci95[0]:.0f} – {summary.ci95[1]:.0f}"
        rows.append(
            (
                f"{size:,}",
                f"{summary.value:.0f}{spread}",
                f"{summary.value * size:,.0f}",
                str(len(steps)),
            )
        )
    return rows
