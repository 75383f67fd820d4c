"""Steps to a target against batch size: the table, the figure, and what the fitted law says."""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from v2l_jax.errors import DataError
from v2l_jax.metrics.critical_batch import fit_batch_scaling
from v2l_jax.metrics.results import Result, mean
from v2l_jax.report.data import Table, TaskSection
from v2l_jax.report.plots import Line, batch_size_plot


def scaling_section(results: Sequence[Result]) -> TaskSection | None:
    """The section of the rows "steps_to_target" of one target; None where there are none.

    Rows say batch_size, seed and target_psnr; a NaN is a run that never reached the target.
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
    lead = f"Training from the start at each batch size until the held-out photos come back at {target:g} dB PSNR. "
    try:
        fit = fit_batch_scaling(*np.array(reached).T) if reached else None
    except DataError as error:
        fit, lead = None, f"{lead}No law is fitted: {error}."
    if fit is not None:
        lead += (
            f"The law steps = {fit.least_steps:.3g} · (1 + {fit.critical_batch:.3g} / batch) fits to "
            f"{100 * fit.relative_error:.2g} %: {fit.critical_batch:.3g} images (95 % interval {fit.interval[0]:.3g}–{fit.interval[1]:.3g}) "
            "is the critical batch size, beyond which more devices save little time (McCandlish et al. 2018)."
        )
    table = Table(
        "Steps and images to the target", ("batch", "steps", "images", "seeds"), _cells(by_size)
    )
    line = np.geomspace(min(by_size), max(by_size), 60)
    law = Line("fit", line.tolist(), fit.steps(line).tolist()) if fit else None
    figures = [batch_size_plot(sorted(reached), law, "scaling")] if reached else []
    return TaskSection("scaling", "How large a batch pays", lead, tables=[table], figures=figures)


def _cells(by_size: dict[int, list[float]]) -> list[tuple[str, ...]]:
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
