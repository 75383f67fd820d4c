"""How healthy a codebook stays, by how training starts and what is done about it: the tables."""

from collections.abc import Mapping, Sequence

from v2l_jax.metrics.results import Result, mean
from v2l_jax.report.cells import result_cell
from v2l_jax.report.data import Table, TaskSection
from v2l_jax.tasks.codebook_health_plots import Groups, health_plots

METRICS = {
    "codebook_usage": ("Words used, %", 1, 100.0),
    "perplexity": ("Perplexity", 1, 1.0),
    "dead_words": ("Dead words", 0, 1.0),
    "psnr": ("PSNR, dB", 2, 1.0),
    "lpips": ("LPIPS", 3, 1.0),
}
"""Metric → (what the head says, decimals, factor)."""

_LEAD = (
    "The tokenizer trained from the start with the published losses, its codebook frozen; the GAN's losses begin at step {}. "
    "Usage, perplexity and dead words are of all held-out photos. Intervals are Student's t over seeds; differences are paired "
    "by seed. Dotted: without a remedy."
)


def codebook_health_section(
    results: Sequence[Result], curves: Groups, gan_start: int
) -> TaskSection | None:
    """The section of the rows of one study; None where there are none."""
    if not results:
        return None
    parts = {"tables": codebook_health_tables(results), "figures": health_plots(curves, gan_start)}
    return TaskSection(
        "codebook_health", "What keeps the codebook in use", _LEAD.format(gan_start + 1), **parts
    )


def codebook_health_tables(results: Sequence[Result]) -> list[Table]:
    """The means at the end of training, and what each remedy adds to the first one of the same
    start.

    Args:
      results: one row for each metric of `METRICS`, "start", "remedy" and "seed".
    """
    values: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for row in results:
        on = row.measured_on
        by_metric = values.setdefault((str(on["start"]), str(on["remedy"])), {})
        by_metric.setdefault(row.metric, {})[int(on["seed"])] = row.value
    starts = list(dict.fromkeys(start for start, _ in values))
    shown = [
        metric for metric in METRICS if any(metric in by_metric for by_metric in values.values())
    ]
    head = ("Start, remedy", *(METRICS[metric][0] for metric in shown), "Seeds")
    found, added = [], []
    for start in starts:
        remedies = [remedy for other, remedy in values if other == start]
        for remedy in remedies:
            mine, first = values[start, remedy], values[start, remedies[0]]
            seeds, others = (
                {seed for by_seed in one.values() for seed in by_seed} for one in (mine, first)
            )
            found.append((f"{start}, {remedy}", *_cells(mine, {}, shown), str(len(seeds))))
            if remedy != remedies[0]:
                added.append(
                    (f"{start}, {remedy}", *_cells(mine, first, shown), str(len(seeds & others)))
                )
    return [
        Table("At the end of training", head, found),
        Table("Difference to no remedy", head, added),
    ]


def _cells(
    mine: Mapping[str, Mapping[int, float]],
    first: Mapping[str, Mapping[int, float]],
    shown: Sequence[str],
) -> list[str]:
    """A cell for each metric: the mean over seeds, less that of `first` where it is given."""
    cells = []
    for metric in shown:
        _, decimals, scale = METRICS[metric]
        samples = mine.get(metric, {})
        if first:
            samples = {
                seed: value - first[metric][seed]
                for seed, value in samples.items()
                if seed in first.get(metric, {})
            }
        result = mean(metric, list(samples.values())) if samples else None
        cells.append(result_cell(result, decimals, scale, " to "))
    return cells
