"""Plots show the numbers they were given, at the place of their value."""

import re
import xml.etree.ElementTree

from v2l_jax.metrics.results import Result
from v2l_jax.report import plots


def _plot(identifier, value=0.75):
    result = Result("few_shot_accuracy", value, 200, (value - 0.1, value + 0.1))
    return plots.accuracy_plot(2, {1: {"": result, "shuffled": result}}, identifier)


def test_svg_is_well_formed_named_and_deterministic():
    svg = _plot("a")
    root = xml.etree.ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label") == "Accuracy among 2 names; 1 shot: 75.0 %; chance 50 %."
    assert svg == _plot("a")
    assert "#0" not in svg.replace("#000000", ""), "a stand-in colour was not replaced"


def test_ids_are_unique_on_a_page_of_two():
    page = _plot("a") + _plot("b")
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 10
    assert {name for name in re.findall(r'(?:url\(|href=")#([^)"]+)', page)} <= set(ids)


def test_intervals_are_drawn_to_scale():
    """The axis runs from 0 to 100 %: 0.5 must lie halfway between the ends, an interval of 0.2 span
    a fifth.
    """
    svg = _plot("a", 0.5)
    ticks = [
        float(y)
        for y in re.findall(r'id="a-ytick_\d+".*?<path d="M [\d.]+ ([\d.]+)', svg, re.DOTALL)
    ]
    assert len(ticks) == 5
    bars = re.findall(
        r'<path d="M ([\d.]+) ([\d.]+)\s+L ([\d.]+) ([\d.]+)\s+"[^>]*stroke: var\(--accent\)', svg
    )
    ((x0, low, x1, high),) = bars
    assert x0 == x1
    assert abs((float(low) - float(high)) / (ticks[0] - ticks[-1]) - 0.2) < 1e-3
    assert abs((float(low) + float(high)) / 2 - ticks[2]) < 1e-2


def test_hostile_names_cannot_leave_the_label():
    svg = plots.curve_plot('"><script>', [plots.Line("<b>", [0, 1], [1.0, 2.0])], "c")
    xml.etree.ElementTree.fromstring(svg)
    assert "<script" not in svg and "<b>" not in svg


def test_long_curves_are_thinned_and_keep_their_end():
    steps = list(range(20_001))
    svg = plots.curve_plot("loss", [plots.Line("train", steps, [float(s) for s in steps])], "c")
    assert "2e+04 at step 20000" in svg
    assert len(svg) < 40_000
