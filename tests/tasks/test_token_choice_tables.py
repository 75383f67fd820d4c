"""Rows of the token choice study land in the right cells; the best is picked on training photos
alone.
"""

from v2l_jax.metrics.results import Result
from v2l_jax.tasks.token_choice_tables import best_choice, token_choice_tables


def _rows(choice, against, ways, training, held_out, added=None, reader="language model"):
    on = dict(
        choice=choice,
        against=against,
        reader=reader,
        ways=ways,
        shots=1,
        tokens=5,
        llm="tiny",
        dataset="photos",
        episodes="400 by seed 0",
    )
    rows = [
        Result(
            "token_choice_accuracy",
            training,
            400,
            (training - 0.04, training + 0.04),
            on | {"photos": "training"},
        ),
        Result(
            "token_choice_accuracy",
            held_out,
            400,
            (held_out - 0.04, held_out + 0.04),
            on | {"photos": "held-out"},
        ),
    ]
    if added is not None:
        rows.append(Result("token_choice_added", 0.5, 400, (0.4, 0.6), on | {"photos": "training"}))
        rows.append(
            Result(
                "token_choice_added",
                added,
                400,
                (added - 0.03, added + 0.03),
                on | {"photos": "held-out"},
            )
        )
        rows.append(
            Result(
                "token_choice_over_paper",
                added + 0.1,
                400,
                (0.01, 0.3),
                on | {"photos": "held-out"},
            )
        )
    return rows


ROWS = [
    *_rows("paper", "", 2, 0.6, 0.9),
    *_rows("paper", "", 5, 0.4, 0.8),
    *_rows("merged", "paper", 2, 0.7, 0.65, added=-0.025),
    *_rows("merged", "paper", 5, 0.5, 0.55, added=0.05),
    *_rows("no words", "paper", 2, 0.95, 0.9, added=0.3, reader="nearest shot"),
    *_rows("no words", "paper", 5, 0.95, 0.9, added=0.3, reader="nearest shot"),
    *_rows("unfinished", "merged", 2, 0.99, 0.99, added=0.4),
]


def test_cells():
    two, five = token_choice_tables(ROWS)
    assert two.caption == "2-way 1-shot accuracy in percent, tiny, photos, 400 episodes each"
    assert two.rows[0] == ("paper", "60.0\n56.0 to 64.0", "90.0\n86.0 to 94.0", "–", "–")
    assert two.rows[1] == (
        "merged\nchanges: paper\nbest on training photos", "70.0\n66.0 to 74.0", "65.0\n61.0 to 69.0", "-2.5\n-5.5 to +0.5", "+7.5\n+1.0 to +30.0",
    )  # fmt: skip
    assert five.rows[3] == ("unfinished\nchanges: merged", "–", "–", "–", "–")


def test_the_best_is_picked_on_training_photos_over_all_numbers_of_ways():
    assert (
        best_choice(ROWS) == "merged"
    )  # not "paper", best on held-out photos, "no words" or "unfinished"
    assert best_choice([]) is None


def test_other_models_have_tables_of_their_own():
    other = [
        Result(r.metric, r.value, r.count, r.ci95, dict(r.measured_on) | {"llm": "large"})
        for r in ROWS
    ]
    assert [table.caption.split(", ")[1] for table in token_choice_tables(ROWS + other)] == [
        "tiny",
        "tiny",
        "large",
        "large",
    ]
