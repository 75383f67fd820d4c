"""Usage, quality and loss over training steps, around the step where the GAN starts."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from v2l_jax.report import plots
from v2l_jax.report.curves import Curves

_PANELS = (
    ("eval/codebook_usage", "held out: words used, %", 100.0),
    ("train/words_used", "training: words in a batch", 1.0),
    ("eval/psnr", "held out: PSNR, dB", 1.0),
    ("train/reconstruction_loss", "training: absolute error", 1.0),
)
_DASHES = ("-", "--")


class Band(NamedTuple):
    """Mean, least and most of several runs at each step."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


Bands = Mapping[str, Band]
Groups = Mapping[str, Mapping[str, Bands]]
"""By variant of the last axis, then by those of the others: quantity, such as "eval/psnr", to its
band.
"""


def bands(runs: Sequence[Curves]) -> dict[str, Band]:
    """The curves of several seeds as one, where all have them."""
    joined = {}
    for name in sorted(set.intersection(*(set(run) for run in runs))):
        points = [dict(zip(*run[name])) for run in runs]
        steps = sorted(set.intersection(*map(set, points)))
        values = np.array([[one[step] for step in steps] for one in points], float)
        joined[name] = Band(np.array(steps), values.mean(0), values.min(0), values.max(0))
    return joined


def curves_plots(groups: Groups, gan_start: int) -> list[str]:
    """One SVG a remedy, a panel a quantity, a line for each of the first two starts with the range
    of its seeds.

    The first remedy's lines are dotted in all others.
    """
    drawn = []
    for number, remedy in enumerate(groups):
        figure = _figure(groups, [remedy], gan_start, plots.PAGE, 340 / 72)
        drawn.append(plots.inline(figure, f"sweep-{number}", f"Curves of the variant {remedy}."))
    return drawn


def curves_figure(groups: Groups, gan_start: int) -> Any:
    """The same as one matplotlib figure to save, a column a remedy."""
    return _figure(groups, list(groups), gan_start, plots.PRINT, 2.7)


def _figure(
    groups: Groups, remedies: Sequence[str], gan_start: int, palette: plots.Palette, width: float
) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(width * len(remedies), 560 / 72), layout="constrained")
    axes = figure.subplots(len(_PANELS), len(remedies), sharex=True, sharey="row", squeeze=False)
    first = next(iter(groups.values()))
    colours = (palette.first, palette.second)
    lines = {
        start: {"color": colour, "linestyle": dash}
        for start, colour, dash in zip(first, colours, _DASHES)
    }
    for column, remedy in zip(axes.T, remedies):
        for ax, (quantity, label, scale) in zip(column, _PANELS):
            plots.plain(ax, palette)
            ax.set_title(label, color=palette.muted, fontsize=9, loc="left")
            ax.locator_params(axis="both", nbins=4)
            ax.axvline(gan_start, color=palette.muted, linewidth=1.0, dashes=(2, 2))
            for start, line in lines.items():
                band, before = (
                    group.get(start, {}).get(quantity) for group in (groups[remedy], first)
                )
                if band is not None:
                    ax.fill_between(
                        band.steps,
                        scale * band.low,
                        scale * band.high,
                        color=line["color"],
                        alpha=0.15,
                        linewidth=0,
                    )
                    ax.plot(band.steps, scale * band.mean, linewidth=1.6, **line)
                if before is not None and before is not band:
                    ax.plot(
                        before.steps, scale * before.mean, ":", color=palette.muted, linewidth=1.2
                    )
        column[0].set_title(f"{remedy}\n{_PANELS[0][1]}", color=palette.ink, fontsize=9, loc="left")
        column[-1].set_xlabel("step", color=palette.muted, fontsize=9)
    for ax in axes[:2, 0]:  # once all is drawn: a limit that is set no longer follows what comes
        ax.set_ylim(bottom=0)
    handles = [Line2D([], [], label=start, **line) for start, line in lines.items()]
    axes[0, 0].legend(handles=handles, frameon=False, fontsize=9, labelcolor=palette.ink)
    return figure
