"""Our rows stand in the columns of Table 1, above the published ones."""

import pytest

from v2l_jax.report.rows import as_rows
from v2l_jax.tasks.table_1 import PUBLISHED, TABLE_1, table_1, table_text


def _row(ways, shots, value, control="none", **more):
    return {
        "metric": "few_shot_accuracy", "value": value, "count": 200, "ci95": [value - 0.05, value + 0.06],
        "ways": ways, "shots": shots, "control": control, "tokens": 5, **more,
    }  # fmt: skip


def _table_1_rows(ways, accuracies, **more):
    return [
        _row(ways, shots, value, repetitions=repetitions, induction=induction, llm="tiny", **more)
        for (shots, repetitions, induction), value in zip(TABLE_1, accuracies, strict=True)
    ]


def test_table_1_has_our_rows_and_the_published_ones():
    rows = _table_1_rows(2, [0.0, 0.6, 0.7, 0.8, 0.61, 0.62, 0.63], rule="greedy", calibrate=False)
    rows += [
        _row(
            2,
            1,
            0.5,
            "shuffled",
            repetitions=0,
            induction=True,
            llm="tiny",
            rule="greedy",
            calibrate=False,
        )
    ]
    (table,) = table_1(as_rows(rows))
    ours, control, *published = table.rows
    assert ours[0] == "Ours, 5 tokens\ntiny; greedy"
    assert [cell.split("\n")[0] for cell in ours[1:]] == [
        "0.0",
        "60.0",
        "70.0",
        "80.0",
        "61.0",
        "62.0",
        "63.0",
        "56.6",
    ]
    assert ours[2] == "60.0\n55.0–66.0"
    assert control[0].startswith("Ours, 5 tokens, words shuffled") and control[1:] == (
        "–",
        "50.0\n45.0–56.0",
        *"––––––",
    )
    assert len(published) == len(PUBLISHED)
    spae = next(row for row in published if row[0].startswith("SPAE, 5"))
    assert spae[1:] == ("≈32", "84.0", "88.5", "88.4", "85.1", "83.6", "82.4", "77.7")
    lines = table_text(table).splitlines()
    assert len(lines) == 2 + len(table.rows) and len(set(map(len, lines[1:]))) == 1


def test_table_1_keeps_what_is_measured_differently_apart():
    rows = (
        _table_1_rows(5, [0.5] * 7, rule="greedy")
        + _table_1_rows(5, [0.4] * 7, rule="likelihood", calibrate=True)[:3]
    )
    (table,) = table_1(as_rows(rows))
    assert [row[-1] for row in table.rows[:2]] == ["50.0", "–"]
    assert table.rows[1][0].endswith("likelihood, calibrated")


def test_datasets_are_named_once_or_row_by_row():
    one = _table_1_rows(2, [0.5] * 7, dataset="cats and dogs")
    (table,) = table_1(as_rows(one))
    assert "Ours on cats and dogs;" in table.caption and "cats" not in table.rows[0][0]
    (table,) = table_1(as_rows(one + _table_1_rows(2, [0.5] * 7, dataset="fish")))
    assert [row[0].rpartition("; ")[2] for row in table.rows[:2]] == ["cats and dogs", "fish"]


def test_no_table_1_of_plain_rows_alone():
    assert table_1(as_rows([_row(2, 1, 0.8, repetitions=0, induction=True), _row(5, 3, 0.8)])) == []


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row.method} {row.llm}")
def test_published_means_are_those_of_seven_settings(row):
    """The setting without induction, which follows from the mean, is a percentage at most as good
    as with induction.
    """
    for *known, mean in row.accuracies.values():
        if None not in known:
            assert -0.4 < len(TABLE_1) * mean - sum(known) <= known[0]
