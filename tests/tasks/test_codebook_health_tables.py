"""Means and paired differences of the codebook study against values worked out by hand."""

from v2l_jax.metrics.results import Result
from v2l_jax.tasks.codebook_health_plots import bands, health_figure, health_plots
from v2l_jax.tasks.codebook_health_tables import codebook_health_section, codebook_health_tables


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
    means, added = codebook_health_tables(results)
    assert means.head == ("Start, remedy", "Words used, %", "PSNR, dB", "Seeds")
    assert means.rows[0] == ("s, none", "20.0\n-4.8 to 44.8", "12.00\n7.03 to 16.97", "3")
    assert means.rows[1][:2] == ("s, revival", "–") and means.rows[2][0] == "t, none"
    assert added.rows == [("s, revival", "–", "1.10\n0.85 to 1.35", "3")]


def test_one_seed_has_no_interval_and_unpaired_seeds_do_not_count():
    results = rows("s", "none", (10,)) + rows("s", "revival", (11, 40))
    means, added = codebook_health_tables(results)
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
    figures = health_plots(groups, 1)
    assert (
        len(figures) == 2
        and "remedy: revival" in figures[1]
        and "#0" not in figures[1].replace("#000000", "")
    )
    assert len(health_figure(groups, 1).axes) == 8
    section = codebook_health_section(rows("published", "none", (10,)), groups, 1)
    assert "begin at step 2" in section.lead
    assert codebook_health_section([], groups, 1) is None


def test_every_column_fits_the_axes_they_share():
    low, high = (bands([{"eval/codebook_usage": ([1, 2], [value, value])}]) for value in (0.1, 0.6))
    for ax in health_figure({"none": {"a": low}, "revival": {"a": high}}, 1).axes[:2]:
        assert ax.get_ylim()[0] == 0 and ax.get_ylim()[1] > 60


def test_no_curves_no_figures():
    assert health_plots({}, 1) == []
