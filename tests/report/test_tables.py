"""Rows of results.json land in the right cells."""

import math

import pytest

from v2l_jax.metrics import results
from v2l_jax.report import tables


def _row(ways, shots, value, control="none", **more):
    return {
        "metric": "few_shot_accuracy", "value": value, "count": 200, "ci95": [value - 0.05, value + 0.06],
        "ways": ways, "shots": shots, "control": control, "tokens": 5, **more,
    }  # fmt: skip


def test_few_shot_cells():
    rows = [_row(5, 3, 0.7), _row(2, 1, 0.8), _row(2, 1, 0.5, "shuffled"), _row(5, 1, 0.6, None), _row(5, 1, 0.2, "shuffled")]
    (table,) = tables.few_shot_tables(tables.as_rows(rows), {(5, 3): 0.71})
    assert table.setting == {"tokens": 5} and table.controls == ["shuffled"]
    two, five = table.groups
    assert (two.ways, two.chance, five.ways, five.chance) == (2, 0.5, 5, 0.2)
    assert two.rows[0].accuracy == tables.Measure(0.8, 0.75, pytest.approx(0.86), 200)
    assert two.rows[0].controls["shuffled"].value == 0.5
    assert [row.shots for row in five.rows] == [1, 3]
    assert five.rows[1].controls == {} and five.rows[1].to_beat == 0.71 and five.rows[0].to_beat is None


def test_settings_are_not_mixed():
    rows = [_row(2, 1, 0.8), _row(2, 1, 0.9, tokens=21), _row(2, 1, 0.5, "shuffled", tokens=21)]
    five, many = tables.few_shot_tables(tables.as_rows(rows))
    assert five.setting == {"tokens": 5} and many.setting == {"tokens": 21}
    assert many.groups[0].rows[0].controls["shuffled"].value == 0.5


def test_result_objects_equal_their_json():
    result = results.proportion("few_shot_accuracy", 130, 200, ways=5, shots=1, control="none", tokens=5)
    assert tables.as_rows([result]) == tables.as_rows([result.to_json()])
    (table,) = tables.few_shot_tables(tables.as_rows([result]))
    assert table.groups[0].rows[0].accuracy[:3] == (0.65, *result.ci95)


def test_headline_is_chosen_by_rule_not_by_value():
    rows = [_row(2, 1, 0.99), _row(5, 5, 0.9), _row(5, 1, 0.6), _row(5, 1, 0.21, "shuffled")]
    chosen = tables.headline(tables.few_shot_tables(tables.as_rows(rows)))
    assert (chosen.ways, chosen.shots, chosen.tokens, chosen.accuracy.value) == (5, 1, 5, 0.6)
    assert chosen.above_chance and chosen.control_at_chance


def test_headline_says_when_chance_is_not_beaten_or_the_control_leaks():
    rows = [_row(2, 1, 0.52), _row(2, 1, 0.8, "shuffled")]
    chosen = tables.headline(tables.few_shot_tables(tables.as_rows(rows)))
    assert not chosen.above_chance and not chosen.control_at_chance
    assert tables.headline([]) is None


def test_quality_rows_and_the_rest():
    rows = tables.as_rows(
        [
            {"metric": "psnr", "value": 19.4161, "count": 120, "ci95": [19.1, 19.7], "job": "evaluate"},
            {"metric": "codebook_usage", "value": 0.1874, "count": 120, "ci95": None},
            {"metric": "lpips", "value": None, "count": 0, "ci95": [None, None]},
            {"metric": "throughput", "value": 8.1, "count": 200, "ways": 2},
        ]
    )
    (table,) = tables.quality_tables(rows)
    psnr, usage, lpips = table.rows
    assert (psnr.value, psnr.interval, psnr.count) == ("19.42\u00a0dB", "19.10–19.70", 120)
    assert (usage.value, usage.interval) == ("18.7\u00a0%", "")
    assert (lpips.value, lpips.interval) == ("undefined", "")
    ((name, setting, measure),) = tables.other_rows(rows)
    assert (name, setting, measure) == ("throughput", {"ways": 2}, tables.Measure(8.1, None, None, 200))


def test_an_undefined_accuracy_is_no_headline():
    row = _row(5, 1, 0.5) | {"value": None, "ci95": None}
    found = tables.few_shot_tables(tables.as_rows([row]))
    assert math.isnan(found[0].groups[0].rows[0].accuracy.value)
    assert tables.headline(found) is None
