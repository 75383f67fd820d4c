"""What the page says of steps to a target by batch size."""

import math

import pytest

from v2l_jax.metrics.results import Result
from v2l_jax.tasks.scaling_tables import scaling_section


def row(size, steps, seed=0):
    return Result(
        "steps_to_target", steps, 1, None, {"batch_size": size, "seed": seed, "target_psnr": 15.0}
    )


def test_law_table_and_figure():
    section = scaling_section([row(size, 50 * (1 + 40 / size)) for size in (64, 4, 16)])
    assert "50 · (1 + 40 / batch)" in section.lead and "15 dB" in section.lead
    assert section.tables[0].rows == [
        ("4", "550", "2,200", "1"),
        ("16", "175", "2,800", "1"),
        ("64", "81", "5,200", "1"),
    ]
    assert section.figures[0].startswith("<svg") and "16 images: 175 steps" in section.figures[0]


def test_seeds_give_an_interval():
    rows = [
        row(size, 50 * (1 + 40 / size) + seed, seed) for size in (4, 16, 64) for seed in (0, 1, 2)
    ]
    assert (
        scaling_section(rows).tables[0].rows[0][1].startswith("551\n")
        and scaling_section(rows).tables[0].rows[0][3] == "3"
    )


@pytest.mark.parametrize("steps", [math.nan, 70.0])
def test_without_three_sizes_that_reached_the_target_no_law_is_claimed(steps):
    section = scaling_section([row(4, 100.0), row(8, steps), row(16, math.nan)])
    assert "No law is fitted" in section.lead and section.tables[0].rows[2] == (
        "16",
        "not reached",
        "",
        "1",
    )
    assert scaling_section([row(4, math.nan)]).figures == []


def test_nothing_measured_has_no_section():
    assert scaling_section([Result("psnr", 20.0, 5)]) is None
