"""VQA accuracy: stored outputs of the published evaluation code, its rules worked by hand,
leave-one-out by brute force.
"""

import itertools
import json
import pathlib

import pytest
from scipy import stats

from v2l_jax.metrics import vqa

GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden" / "vqa_official.json").read_text()
)
"""What VQAEval of github.com/GT-Vision-Lab/VQA (commit a013f00) answers: its whole table of
contractions, texts, and accuracies.
"""


def test_normalisation_equals_the_published_code():
    assert len(GOLDEN["normalized"]) > 250
    for text, expected in GOLDEN["normalized"]:
        assert vqa.normalize_answer(text) == expected, text


@pytest.mark.parametrize(
    "text, expected",
    [
        ("The Cat.", "cat"),
        ("2.5", "2.5"),
        ("3.", "3"),  # the code means to spare a period after a digit, but does not
        ("dont", "don't"),
        ("girl's", "girl's"),
        ("2:50 pm", "2:50 pm"),
        ("red/blue", "red blue"),
        ("red/ blue", "red blue"),
        ("black-white", "black white"),
        ("hot-dog - bun", "hotdog bun"),  # beside a space once, so nowhere a space
        ("100,978", "100978"),
        (
            "1,000 black-white",
            "1000 blackwhite",
        ),  # a number with a comma takes the spaces of all punctuation
        ("None", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("somebody'd", "somebodyd"),
        ("." * 40, "." * 8),  # 32 periods at most
        ("the\nA\tan", ""),
    ],
)
def test_rules_worked_by_hand(text, expected):
    assert vqa.normalize_answer(text) == expected


def test_consensus_equals_the_published_code():
    values = set()
    for answer, people, expected in GOLDEN["consensus"]:
        assert vqa.consensus_accuracy(answer, people) == pytest.approx(expected, abs=1e-9)
        values.add(round(expected, 3))
    assert {0.0, 0.3, 0.6, 0.9, 1.0} <= values


@pytest.mark.parametrize("agreeing", range(10))
def test_consensus_is_the_mean_over_all_nines_of_ten(agreeing):
    people = ["cat"] * agreeing + [f"other {i}" for i in range(10 - agreeing)]
    nines = [min(nine.count("cat") / 3, 1) for nine in itertools.combinations(people, 9)]
    assert vqa.consensus_accuracy("A cat!", people) == pytest.approx(sum(nines) / len(nines))


def test_where_all_agree_nothing_is_normalised():
    assert vqa.consensus_accuracy("yes", ["yes"] * 10) == 1
    assert vqa.consensus_accuracy("Yes.", ["yes"] * 10) == 0
    assert vqa.consensus_accuracy("Yes.", ["yes"] * 9 + ["no"]) == 1


def test_single_truths_are_a_proportion():
    row = vqa.vqa_accuracy(
        ["A cat.", "two", "dog", ""], [("cat",), ("2",), ("cat",), ("red",)], dataset="photos"
    )
    assert (row.metric, row.value, row.count) == ("vqa_accuracy", 0.5, 4) and row.measured_on == {
        "dataset": "photos"
    }
    expected = stats.binomtest(2, 4).proportion_ci(0.95, method="wilson")
    assert row.ci95 == pytest.approx(tuple(expected), abs=1e-9)


def test_answers_of_people_are_a_mean():
    people = ("red",) * 3 + ("blue",) * 2 + ("green",) * 5
    row = vqa.vqa_accuracy(["red", "blue", "green", "pink"], [people] * 4)
    samples = [0.9, 0.6, 1.0, 0.0]
    assert row.value == pytest.approx(sum(samples) / 4)
    assert row.ci95 == pytest.approx(
        stats.t.interval(0.95, 3, loc=sum(samples) / 4, scale=stats.sem(samples))
    )


def test_by_type():
    rows = vqa.accuracy_by_type(
        ["1", "red", "3"], [("one",), ("blue",), ("2",)], ["number", "color", "number"], shots=4
    )
    assert [(r.measured_on["answer_type"], r.value, r.count) for r in rows] == [
        ("color", 0, 1),
        ("number", 0.5, 2),
    ]
    assert all(r.measured_on["shots"] == 4 for r in rows)
