"""Numbers as table cells."""

import math

import pytest

from v2l_jax.metrics.results import Result
from v2l_jax.report.cells import result_cell


@pytest.mark.parametrize(
    ("result", "decimals", "scale", "text"),
    [
        (Result("m", 0.12345, 9, (0.1, 0.25)), 3, 1.0, "0.123\n0.100–0.250"),
        (Result("m", 0.12345, 9, (0.1, 0.25)), 1, 100.0, "12.3\n10.0–25.0"),
        (Result("m", 2.0, 1), 2, 1.0, "2.00"),
        (Result("m", math.nan, 0), 2, 1.0, "undefined"),
        (None, 2, 1.0, "–"),
    ],
)
def test_a_number_with_its_interval(result, decimals, scale, text):
    assert result_cell(result, decimals, scale) == text
