"""Plots as inline SVG: the same data gives the same bytes, and colours follow the page's light or
dark style.
"""

import html
import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from v2l_jax.metrics.results import Result

Numbers = Sequence[int | float]

# Matplotlib wants colours, the page wants CSS variables: these stand-ins are replaced in the SVG.
_INK, _MUTED, _REAL, _CONTROL, _RULE = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {
    _INK: "--ink",
    _MUTED: "--muted",
    _REAL: "--accent",
    _CONTROL: "--control",
    _RULE: "--rule",
}
_LINE_STYLES = ((_REAL, "-"), (_CONTROL, "--"), (_INK, ":"))
_FONT_SIZE = 11.5
_WIDTH = 340  # one SVG unit is about one pixel where a panel is narrowest, on a phone


class Palette(NamedTuple):
    """Colours of a plot: text, what is secondary, the first and the second line, grid lines."""

    ink: str
    muted: str
    first: str
    second: str
    rule: str


PAGE = Palette(_INK, _MUTED, _REAL, _CONTROL, _RULE)
"""For `inline`, which lets the page decide."""

PRINT = Palette("#1d1d1f", "#6e6e73", "#0b62c4", "#b4530a", "#d8d8dc")
"""For a picture file."""


class Line(NamedTuple):
    """One line of a plot: its name and its points."""

    name: str
    steps: Numbers
    values: Numbers


def accuracy_plot(ways: int, by_shots: Mapping[int, Mapping[str, Result]], identifier: str) -> str:
    """Draws accuracy by shots at one number of ways, in percent, with 95 % intervals and a dashed
    chance line.

    Args:
      ways: classes to choose from.
      by_shots: by shots, then by control: "" is drawn as a filled dot, "shuffled" as a hollow
        square.
      identifier: unique on the page.
    """
    chance = 100 / ways
    figure, axes = _new_figure(height=230)
    for offset, colour, marker, face, control in (
        (-0.09, _REAL, "o", _REAL, ""),
        (0.09, _CONTROL, "s", "none", "shuffled"),
    ):
        for place, by_control in enumerate(by_shots.values()):
            result = by_control.get(control)
            if result is None or math.isnan(result.value):
                continue
            if result.ci95 is not None:
                bar = [100 * end for end in result.ci95]
                axes.plot([place + offset] * 2, bar, color=colour, linewidth=1.8)
            axes.plot(
                place + offset,
                100 * result.value,
                marker,
                color=colour,
                markerfacecolor=face,
                markersize=7,
                zorder=3,
            )
    axes.axhline(chance, color=_MUTED, linewidth=1.2, dashes=(4, 3))
    right = len(by_shots) + 0.1  # room beside the last dots for the name of the line
    label = f"chance {chance:.3g} %"
    axes.text(right, chance - 2, label, color=_MUTED, ha="right", va="top", fontsize=_FONT_SIZE)
    axes.set_xlim(-0.45, right)
    axes.set_ylim(0, 100)
    axes.set_yticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
    axes.set_xticks(range(len(by_shots)), [_shots(shots) for shots in by_shots])
    parts = [
        f"{_shots(shots)}: {100 * by_control[''].value:.1f} %"
        for shots, by_control in by_shots.items()
        if "" in by_control
    ]
    return inline(figure, identifier, f"Accuracy among {ways} names; {'; '.join(parts)}; {label}.")


def curve_plot(label: str, lines: Sequence[Line], identifier: str, key: bool = False) -> str:
    """Draws one quantity over training steps; lines are told apart by colour and dash, as the
    page's key does, or a key and a title in the plot itself.

    `identifier` must be unique on the page.
    """
    figure, axes = _new_figure(height=190)
    summaries = []
    for (name, steps, values), (colour, dash) in zip(lines, itertools.cycle(_LINE_STYLES)):
        steps, values = _thinned(steps, values)
        few = len(steps) <= 12
        axes.plot(
            steps,
            values,
            dash,
            color=colour,
            linewidth=1.6,
            marker="o" if few else None,
            markersize=3.5,
            label=name,
        )
        if steps:
            ends = f"{values[0]:.4g} at step {steps[0]:g}, {values[-1]:.4g} at step {steps[-1]:g}"
            summaries.append(f"{name} {ends}".strip())
    axes.margins(x=0.02)
    axes.locator_params(axis="y", nbins=4)
    axes.locator_params(axis="x", nbins=5, integer=True)
    axes.set_xlabel("step", color=_MUTED, fontsize=_FONT_SIZE)
    if key:
        axes.set_title(label, loc="left", color=_INK, fontsize=_FONT_SIZE)
        axes.legend(frameon=False, labelcolor=_INK, fontsize=_FONT_SIZE)
    return inline(figure, identifier, f"{label}: {'; '.join(summaries)}.")


def batch_size_plot(points: Sequence[tuple[int, float]], law: Line | None, identifier: str) -> str:
    """Draws steps to a target against batch size, both on logarithmic axes: a dot a run, and the
    fitted law dashed.

    `identifier` must be unique on the page.
    """
    figure, axes = _new_figure(height=230)
    if law is not None:
        axes.plot(law.steps, law.values, "--", color=_CONTROL, linewidth=1.6)
    sizes, steps = zip(*points)
    axes.plot(sizes, steps, "o", color=_REAL, markersize=6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis, values in ((axes.xaxis, sizes), (axes.yaxis, steps)):
        ticks = sorted({min(values), max(values), sorted(values)[len(values) // 2]})
        axis.set_ticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("images a step", color=_MUTED, fontsize=_FONT_SIZE)
    spoken = "; ".join(f"{size} images: {value:.0f} steps" for size, value in points)
    return inline(figure, identifier, f"Steps to the target by batch size. {spoken}.")


def _shots(shots: int) -> str:
    return f"{shots} shot" if shots == 1 else f"{shots} shots"


def _thinned(steps: Numbers, values: Numbers, most: int = 400) -> tuple[list, list]:
    """Keeps every n-th point, and the last, so that a long run does not make a heavy page."""
    stride = max(1, -(-len(steps) // most))
    chosen = sorted({*range(0, len(steps), stride), len(steps) - 1} - {-1})
    return [steps[i] for i in chosen], [values[i] for i in chosen]


def _new_figure(height: int):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH / 72, height / 72), layout="constrained")
    axes = figure.add_subplot()
    plain(axes, PAGE)
    return figure, axes


def plain(axes, palette: Palette) -> None:
    """Removes a plot's frame but for its lower line, and draws thin lines at the ticks of y."""
    axes.grid(axis="y", color=palette.rule, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(palette.muted)
    axes.tick_params(colors=palette.muted, labelsize=_FONT_SIZE, length=0, pad=5)


def inline(figure, identifier: str, description: str) -> str:
    """Writes a figure as an <svg> element: no prolog, no metadata, ids unique on the page, a text
    alternative.
    """
    import matplotlib

    buffer = io.StringIO()
    style = {"svg.hashsalt": "v2l_jax", "svg.fonttype": "none"}
    with matplotlib.rc_context(style):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\bid="', f'id="{identifier}-', svg)
    svg = svg.replace("url(#", f"url(#{identifier}-").replace('href="#', f'href="#{identifier}-')
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL
    )  # it would style the whole page
    svg = re.sub(r"font-family: [^;\"]*; ", "", svg)  # the page's own
    return svg.replace(
        "<svg", f'<svg role="img" aria-label="{html.escape(description, quote=True)}"', 1
    ).strip()
