"""Means, paired differences and steps to a target against values worked out by hand."""

import math

import pytest

from v2l_jax.jobs.sweep_plots import bands, curves_figure, curves_plots
from v2l_jax.jobs.sweep_report import steps_section, variants_section, variants_tables
from v2l_jax.metrics.results import Result

AXES = ("start", "remedy")


def rows(start, remedy, values, metric="psnr"):
    return [
        Result(metric, float(v), 1, None, {"start": start, "remedy": remedy, "seed": i})
        for i, v in enumerate(values)
    ]


def test_intervals_are_over_seeds_and_differences_within_seeds():
    """t(0.975, 2) = 4.303: for 10, 12, 14 the half width is 4.303 · 2/√3 = 4.97; every seed gains
    1.0, 1.1, 1.2: 0.25.
    """
    results = (
        rows("s", "none", (10, 12, 14))
        + rows("s", "revival", (11, 13.1, 15.2))
        + rows("t", "none", (1, 1, 1))
    )
    results += rows("s", "none", (0.1, 0.2, 0.3), "codebook_usage")
    means, added = variants_tables(results, AXES)
    assert means.head == ("Start, remedy", "Words used, %", "PSNR, dB", "Seeds")
    assert means.rows[0] == ("s, none", "20.0\n-4.8 to 44.8", "12.00\n7.03 to 16.97", "3")
    assert means.rows[1][:2] == ("s, revival", "–") and means.rows[2][0] == "t, none"
    assert added.rows == [("s, revival", "–", "1.10\n0.85 to 1.35", "3")]


def test_one_seed_has_no_interval_and_unpaired_seeds_do_not_count():
    results = rows("s", "none", (10,)) + rows("s", "revival", (11, 40))
    means, added = variants_tables(results, AXES)
    assert means.rows[0] == ("s, none", "10.00", "1") and added.rows == [
        ("s, revival", "1.00", "1")
    ]


def test_bands_are_of_the_steps_that_all_seeds_have():
    band = bands(
        [
            {"eval/psnr": ([2, 4, 6], [1.0, 2.0, 3.0])},
            {"eval/psnr": ([2, 4], [3.0, 2.0]), "train/x": ([1], [1.0])},
        ]
    )
    assert set(band) == {"eval/psnr"} and band["eval/psnr"].steps.tolist() == [2, 4]
    assert [part.tolist() for part in band["eval/psnr"][1:]] == [[2, 2], [1, 2], [3, 2]]


def test_a_figure_a_remedy_and_one_to_save():
    one = bands([{"eval/psnr": ([1, 2], [1.0, 2.0]), "train/words_used": ([1, 2], [5.0, 9.0])}])
    groups = {"none": {"published": one, "fitted": one}, "revival": {"published": one}}
    figures = curves_plots(groups, 1)
    assert (
        len(figures) == 2
        and "variant revival" in figures[1]
        and "#0" not in figures[1].replace("#000000", "")
    )
    assert len(curves_figure(groups, 1).axes) == 8
    section = variants_section(rows("published", "none", (10,)), AXES, groups, 1, "t")
    assert "begin at step 2" in section.lead
    assert variants_section([], AXES, groups, 1, "t") is None


def test_every_column_fits_the_axes_they_share():
    low, high = (bands([{"eval/codebook_usage": ([1, 2], [value, value])}]) for value in (0.1, 0.6))
    for ax in curves_figure({"none": {"a": low}, "revival": {"a": high}}, 1).axes[:2]:
        assert ax.get_ylim()[0] == 0 and ax.get_ylim()[1] > 60


def test_no_curves_no_figures():
    assert curves_plots({}, 1) == []


def steps_row(size, steps, seed=0):
    return Result(
        "steps_to_target", steps, 1, None, {"batch_size": size, "seed": seed, "target_psnr": 15.0}
    )


def test_law_table_and_figure():
    section = steps_section([steps_row(size, 50 * (1 + 40 / size)) for size in (64, 4, 16)], "t")
    assert "50 · (1 + 40 / batch)" in section.lead and "15 dB" in section.lead
    assert section.tables[0].rows == [
        ("4", "550", "2,200", "1"),
        ("16", "175", "2,800", "1"),
        ("64", "81", "5,200", "1"),
    ]
    assert section.figures[0].startswith("<svg") and "16 images: 175 steps" in section.figures[0]


def test_seeds_give_an_interval():
    rows = [
        steps_row(size, 50 * (1 + 40 / size) + seed, seed)
        for size in (4, 16, 64)
        for seed in (0, 1, 2)
    ]
    assert (
        steps_section(rows, "t").tables[0].rows[0][1].startswith("551\n")
        and steps_section(rows, "t").tables[0].rows[0][3] == "3"
    )


@pytest.mark.parametrize("steps", [math.nan, 70.0])
def test_without_three_sizes_that_reached_the_target_no_law_is_claimed(steps):
    section = steps_section(
        [steps_row(4, 100.0), steps_row(8, steps), steps_row(16, math.nan)], "t"
    )
    assert "No law is fitted" in section.lead and section.tables[0].rows[2] == (
        "16",
        "not reached",
        "",
        "1",
    )
    assert steps_section([steps_row(4, math.nan)], "t").figures == []


def test_nothing_measured_has_no_section():
    assert steps_section([Result("psnr", 20.0, 5)], "t") is None
