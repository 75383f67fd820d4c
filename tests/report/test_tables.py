"""The renderer: which number stands where, its interval, missing cells, published rows."""

import dataclasses
import math

import pytest

from v2l_jax.metrics.results import Result, mean
from v2l_jax.report.tables import (
    Number,
    Published,
    TableSpec,
    described,
    metric_label,
    render,
    setting_of,
    table_text,
    with_fields,
)

SPEC = TableSpec(
    caption="{dataset}: {count} images; {llm}",
    tables=("dataset", "llm"),
    rows=("control",),
    columns=("metric",),
    labels={
        "control": {"none": "Its words\n{llm}", "shuffled": "Control: another's"},
        "metric": {"cider": "CIDEr", "bleu": "BLEU"},
    },
    numbers={"cider": Number(3), "bleu": Number(1, 100.0, unit=" %")},
)


def _result(metric, value, control="none", ci95=None, count=8, **more):
    on = {"dataset": "pets", "llm": "tiny", "control": control, **more}
    return Result(metric, float(value), count, ci95, on)


@pytest.mark.parametrize(
    ("number", "result", "text"),
    [
        (Number(3), Result("m", 0.12345, 9, (0.1, 0.25)), "0.123\n0.100–0.250"),
        (Number(2), Result("m", 0.1, 9, (-0.05, 0.25)), "0.10\n-0.05 to 0.25"),
        (Number(1, 100.0, unit=" %"), Result("m", 0.12345, 9, (0.1, 0.25)), "12.3 %\n10.0–25.0"),
        (Number(1, 100.0, "+", " to "), Result("m", 0.02, 9, (-0.1, 0.1)), "+2.0\n-10.0 to +10.0"),
        (Number(2), Result("m", 2.0, 1), "2.00"),
        (Number(0), Result("m", 12345.6, 1), "12,346"),
        (Number(), Result("m", 0.0123456, 1), "0.01235"),
        (Number(2), Result("m", math.nan, 0, (math.nan, math.nan)), "undefined"),
        (Number(2, undefined="not reached"), Result("m", math.nan, 0), "not reached"),
        (Number(2), Result("m", 1.0, 1, (math.nan, math.nan)), "1.00"),
    ],
)
def test_a_number_with_its_interval(number, result, text):
    assert number.cell(result) == text


def test_rows_and_columns_stand_in_the_order_of_their_labels():
    results = [
        _result("bleu", 0.5, "shuffled"),
        _result("cider", 2.0, "shuffled", (1.0, 3.0)),
        _result("cider", 1.0),
    ]
    (table,) = render(results, SPEC)
    assert table.caption == "pets: 8 images; tiny"
    assert table.head == ("", "CIDEr", "BLEU")
    assert table.rows == [
        ("Its words\ntiny", "1.000", "–"),
        ("Control: another's", "2.000\n1.000–3.000", "50.0 %"),
    ]


def test_values_without_a_label_follow_numbers_by_size_and_texts_as_they_came():
    spec = TableSpec("", rows=("llm", "control"), columns=("shots",), labels=SPEC.labels)
    results = [
        _result("accuracy", value, control, llm=llm, shots=shots)
        for value, llm, control, shots in (
            (1, "b", "odd", 10),
            (2, "b", "shuffled", 5),
            (3, "a", "odd", 5),
            (4, "b", "none", 5),
        )
    ]
    (table,) = render(results, spec)
    assert table.head == ("", "5", "10")
    assert table.rows == [
        ("b\nIts words\nb", "4", "–"),
        ("b\nControl: another's", "2", "–"),
        ("b\nodd", "–", "1"),
        ("a\nodd", "3", "–"),
    ]


def test_a_table_for_each_combination_of_its_fields():
    results = [
        _result("cider", 1.0, llm="small"),
        _result("cider", 2.0, dataset="birds", count=1234),
        _result("cider", 3.0, "shuffled", llm="small", count=10),
    ]
    small, tiny = render(results, SPEC)
    assert small.caption == "pets: 8 to 10 images; small"
    assert tiny.caption == "birds: 1,234 images; tiny"
    assert [row[1] for row in small.rows] == ["1.000", "3.000"]
    assert [row[1] for row in tiny.rows] == ["2.000"]
    assert render([], SPEC) == []


def test_all_other_fields_make_tables_and_are_named_in_the_caption():
    spec = TableSpec("Accuracy. {setting}", rows=("control",), tables=None)
    results = [
        Result("a", 1.0, 1, None, {"control": "none", "tokens": 5, "job": "x", "seconds": 1.5}),
        Result("a", 2.0, 1, None, {"control": "none", "tokens": 21}),
        Result("a", 3.0, 1, None, {"control": "shuffled", "tokens": 5}),
    ]
    five, many = render(results, spec)
    assert five.caption == "Accuracy. tokens: 5" and many.caption == "Accuracy. tokens: 21"
    assert five.head == ("", "Value")
    assert five.rows == [("none", "1"), ("shuffled", "3")] and many.rows == [("none", "2")]


def test_fields_that_stand_together_have_labels_together():
    spec = TableSpec(
        "",
        rows=("method", "control"),
        columns=("photos", "metric"),
        labels={
            ("method", "control"): {("lora", "none"): "Adapted", ("frozen", "none"): "Frozen"},
            ("photos", "metric"): {("training", "accuracy"): "Training", ("own", "added"): "Adds"},
        },
        all_columns=True,
    )
    on = {"method": "frozen", "control": "none", "photos": "training"}
    results = [
        Result("accuracy", 1.0, 1, None, on),
        Result("accuracy", 2.0, 1, None, on | {"method": "lora"}),
        Result("accuracy", 3.0, 1, None, on | {"control": "shuffled"}),
    ]
    (table,) = render(results, spec)
    assert table.head == ("", "Training", "Adds")
    assert table.rows == [
        ("Adapted", "2", "–"),
        ("Frozen", "1", "–"),
        ("frozen\nshuffled", "3", "–"),
    ]


def test_counts_and_fields_in_columns_of_their_own():
    spec = TableSpec(
        "",
        rows=("control", "tokens"),
        columns=("kind",),
        row_columns={"tokens": "Words"},
        row_label="{control}, {tokens}",
        counts="Trials",
        counts_in_head=True,
        missing="not measured",
    )
    results = [
        _result("a", 1.0, tokens=5, kind="all", count=20),
        _result("a", 2.0, tokens=5, kind="color", count=8),
        _result("a", 3.0, "shuffled", tokens=5, kind="color", count=9),
        _result("a", 4.0, "unmatched", kind="color"),
    ]
    (table,) = render(results, spec)
    assert table.head == ("", "Words", "All (20)", "Color (8)", "Trials")
    assert table.rows == [
        ("none, 5", "5", "1", "2", "20"),
        ("shuffled, 5", "5", "not measured", "3", "9"),
    ]


PUBLISHED = (
    Published("The paper\n7B", {"cider": 0.25}, {"dataset": "pets"}),
    Published("Another", {"cider": "≈3", "bleu": 12.34}),
)


def test_published_rows_stand_below_ours_in_the_same_unit():
    results = [_result("cider", 1.0), _result("bleu", 0.5), _result("cider", 1.0, dataset="birds")]
    pets, birds = render(results, TableSpec(**(vars(SPEC) | {"published": PUBLISHED})))
    assert pets.rows[1:] == [("The paper\n7B", "0.250", "–"), ("Another", "≈3", "12.3 %")]
    assert birds.rows[1:] == [("Another", "≈3")]  # no column that only others filled


def test_published_rows_may_stand_apart():
    spec = TableSpec(**(vars(SPEC) | {"published": PUBLISHED, "published_apart": "Theirs"}))
    ours, theirs = render([_result("bleu", 0.5)], spec)
    assert ours.head == ("", "BLEU") and len(ours.rows) == 1
    assert theirs.caption == "Theirs" and theirs.head == ("", "CIDEr", "BLEU")
    assert theirs.rows == [("The paper\n7B", "0.250", "–"), ("Another", "≈3", "12.3 %")]


def test_texts_are_written_as_they_are():
    """Braces in a field are not a format string."""
    (table,) = render([_result("cider", 1.0, "{x}", llm="{0}")], SPEC)
    assert table.caption == "pets: 8 images; {0}" and table.rows == [("{x}", "1.000")]


def test_settings_and_names():
    result = mean("few_shot_throughput", [1.0], task="t", ways=2, seconds=0.5, llm="x")
    assert setting_of(result, {"llm"}) == {"ways": 2}
    assert described({"top_k": 1, "llm": "x"}) == "top k: 1 · llm: x"
    assert metric_label("lpips") == "LPIPS" and metric_label("few_shot_gpu") == "Few shot GPU"
    assert with_fields(result, ways=5, more=1).measured_on["ways"] == 5


def test_text_for_the_terminal():
    (table,) = render([_result("cider", 1.0, ci95=(0.5, 1.5)), _result("bleu", 1.0)], SPEC)
    lines = table_text(table).splitlines()
    assert lines[0] == table.caption and lines[2].startswith("Its words — tiny")
    assert "0.5" not in lines[2] and len(set(map(len, lines[1:]))) == 1


def test_costs_are_not_counted_in_the_caption():
    spec = dataclasses.replace(SPEC, numbers={"seconds": Number(counted=False)})
    (table,) = render([_result("cider", 1.0, count=8), _result("seconds", 2.0, count=500)], spec)
    assert table.caption == "pets: 8 images; tiny"
