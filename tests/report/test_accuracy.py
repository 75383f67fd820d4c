"""Few-shot rows of results.json land in the right cells."""

import math

import pytest

from v2l_jax.metrics import results
from v2l_jax.report.accuracy import few_shot_tables, headline
from v2l_jax.report.rows import Measure, as_rows


def _row(ways, shots, value, control="none", **more):
    return {
        "metric": "few_shot_accuracy", "value": value, "count": 200, "ci95": [value - 0.05,
        value + 0.06],
        "ways": ways, "shots": shots, "control": control, "tokens": 5, **more,
    }  # fmt: skip


def test_few_shot_cells():
    rows = [
        _row(5, 3, 0.7),
        _row(2, 1, 0.8),
        _row(2, 1, 0.5, "shuffled"),
        _row(5, 1, 0.6, None),
        _row(5, 1, 0.2, "shuffled"),
    ]
    (table,) = few_shot_tables(as_rows(rows), {(5, 3): 0.71})
    assert table.setting == {"tokens": 5} and table.controls == ["shuffled"]
    two, five = table.groups
    assert (two.ways, two.chance, five.ways, five.chance) == (2, 0.5, 5, 0.2)
    assert two.rows[0].accuracy == Measure(0.8, 0.75, pytest.approx(0.86), 200)
    assert two.rows[0].controls["shuffled"].value == 0.5
    assert [row.shots for row in five.rows] == [1, 3]
    assert (
        five.rows[1].controls == {}
        and five.rows[1].to_beat == 0.71
        and five.rows[0].to_beat is None
    )


def test_what_made_a_row_is_no_setting():
    made = {"identity": "0123", "commit": "abc-dirty", "device": "cpu", "job": "evaluate/x"}
    (table,) = few_shot_tables(as_rows([_row(2, 1, 0.8, **made), _row(2, 3, 0.9, commit="def")]))
    assert table.setting == {"tokens": 5} and len(table.groups[0].rows) == 2


def test_settings_are_not_mixed():
    rows = [_row(2, 1, 0.8), _row(2, 1, 0.9, tokens=21), _row(2, 1, 0.5, "shuffled", tokens=21)]
    five, many = few_shot_tables(as_rows(rows))
    assert five.setting == {"tokens": 5} and many.setting == {"tokens": 21}
    assert many.groups[0].rows[0].controls["shuffled"].value == 0.5


def test_result_objects_equal_their_json():
    result = results.proportion(
        "few_shot_accuracy", 130, 200, ways=5, shots=1, control="none", tokens=5
    )
    assert as_rows([result]) == as_rows([result.to_json()])
    (table,) = few_shot_tables(as_rows([result]))
    assert table.groups[0].rows[0].accuracy[:3] == (0.65, *result.ci95)


def test_headline_is_chosen_by_rule_not_by_value():
    rows = [_row(2, 1, 0.99), _row(5, 5, 0.9), _row(5, 1, 0.6), _row(5, 1, 0.21, "shuffled")]
    chosen = headline(few_shot_tables(as_rows(rows)))
    assert (chosen.ways, chosen.shots, chosen.tokens, chosen.accuracy.value) == (5, 1, 5, 0.6)
    assert chosen.above_chance and chosen.control_at_chance


def test_headline_says_when_chance_is_not_beaten_or_the_control_leaks():
    rows = [_row(2, 1, 0.52), _row(2, 1, 0.8, "shuffled")]
    chosen = headline(few_shot_tables(as_rows(rows)))
    assert not chosen.above_chance and not chosen.control_at_chance
    assert headline([]) is None


def test_an_undefined_accuracy_is_no_headline():
    row = _row(5, 1, 0.5) | {"value": None, "ci95": None}
    found = few_shot_tables(as_rows([row]))
    assert math.isnan(found[0].groups[0].rows[0].accuracy.value)
    assert headline(found) is None


def test_plain_tables_leave_out_repetitions_other_prompts_and_other_tasks():
    rows = [
        _row(2, 1, 0.8, repetitions=0, induction=True),
        _row(2, 1, 0.7, repetitions=3, induction=True),
        _row(2, 1, 0.1, repetitions=0, induction=False),
        _row(2, 1, 0.9, task="token_choice"),
    ]
    (table,) = few_shot_tables(as_rows(rows))
    assert [row.accuracy.value for row in table.groups[0].rows] == [0.8]
