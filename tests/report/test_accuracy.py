"""Few-shot results land in the right cells, and the headline is chosen by rule."""

import math

import pytest

from v2l_jax.metrics.results import Result, proportion
from v2l_jax.report.accuracy import accuracy_groups, accuracy_tables, headline


def _row(ways, shots, value, control="none", **more):
    on = {"ways": ways, "shots": shots, "control": control, "tokens": 5, **more}
    interval = None if math.isnan(value) else (value - 0.05, value + 0.06)
    return Result("few_shot_accuracy", value, 200, interval, on)


def test_cells():
    rows = [
        _row(5, 3, 0.7),
        _row(2, 1, 0.8),
        _row(2, 1, 0.5, "shuffled"),
        _row(5, 1, 0.6, None),
        _row(5, 1, 0.2, "shuffled"),
    ]
    (table,) = accuracy_tables(rows, {(5, 3): 0.71})
    assert table.caption.endswith("tokens: 5")
    assert table.head == (
        "Ways", "Shots", "Accuracy", "Words shuffled", "Chance", "To beat", "Trials",
    )  # fmt: skip
    plain = [tuple(cell.replace("\u00a0%", "") for cell in row) for row in table.rows]
    assert plain == [
        ("2-way", "1", "80.0\n75.0–86.0", "50.0\n45.0–56.0", "50.0", "–", "200"),
        ("5-way", "1", "60.0\n55.0–66.0", "20.0\n15.0–26.0", "20.0", "–", "200"),
        ("5-way", "3", "70.0\n65.0–76.0", "–", "20.0", "71.0", "200"),
    ]
    ((two, five),) = accuracy_groups(rows)
    assert (two.ways, two.chance, five.ways, five.chance) == (2, 0.5, 5, 0.2)
    assert list(five.by_shots) == [1, 3] and five.by_shots[1]["shuffled"].value == 0.2


def test_settings_are_not_mixed_and_plots_stand_with_their_tables():
    rows = [_row(2, 1, 0.9, tokens=21), _row(2, 1, 0.5, "shuffled", tokens=21), _row(2, 1, 0.8)]
    many, five = accuracy_tables(rows)
    assert many.caption.endswith("tokens: 21") and five.caption.endswith("tokens: 5")
    ((group,), (other,)) = accuracy_groups(rows)
    assert group.by_shots[1]["shuffled"].value == 0.5 and list(other.by_shots[1]) == [""]


def test_what_identifies_a_row_is_no_setting():
    rows = [_row(2, 1, 0.8, identity="a", commit="b"), _row(5, 1, 0.8, identity="c", commit="b")]
    (table,) = accuracy_tables(rows)
    assert "identity" not in table.caption and len(table.rows) == 2


def test_headline_is_chosen_by_rule_not_by_value():
    rows = [_row(2, 1, 0.99), _row(5, 5, 0.9), _row(5, 1, 0.6), _row(5, 1, 0.21, "shuffled")]
    chosen = headline(accuracy_groups(rows))
    assert (chosen.ways, chosen.shots, chosen.tokens, chosen.accuracy.value) == (5, 1, 5, 0.6)
    assert chosen.above_chance and chosen.control_at_chance


def test_headline_says_when_chance_is_not_beaten_or_the_control_leaks():
    rows = [_row(2, 1, 0.52), _row(2, 1, 0.8, "shuffled")]
    chosen = headline(accuracy_groups(rows))
    assert not chosen.above_chance and not chosen.control_at_chance
    assert headline([]) is None


def test_an_undefined_accuracy_is_no_headline():
    rows = [_row(5, 1, math.nan)]
    (table,) = accuracy_tables(rows)
    assert table.rows[0][2] == "undefined"
    assert headline(accuracy_groups(rows)) is None


def test_plain_tables_leave_out_repetitions_other_prompts_and_other_tasks():
    rows = [
        _row(2, 1, 0.8, repetitions=0, induction=True),
        _row(2, 1, 0.7, repetitions=3, induction=True),
        _row(2, 1, 0.1, repetitions=0, induction=False),
        _row(2, 1, 0.9, task="token_choice"),
        proportion("other", 1, 2, ways=2, shots=1),
    ]
    ((group,),) = accuracy_groups(rows)
    assert [by_control[""].value for by_control in group.by_shots.values()] == [0.8]
    (table,) = accuracy_tables(rows)
    assert len(table.rows) == 1 and table.rows[0][2].startswith("80.0")


def test_a_proportion_is_shown_with_its_interval():
    result = proportion("few_shot_accuracy", 130, 200, ways=5, shots=1, control="none", tokens=5)
    (table,) = accuracy_tables([result])
    low, high = (100 * end for end in result.ci95)
    assert table.rows[0][2] == f"65.0\u00a0%\n{low:.1f}–{high:.1f}"
    assert pytest.approx(low, abs=1) == 58.2
