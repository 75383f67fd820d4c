"""The study of token choice with a made-up reader: paired rows, resumption, photos kept apart."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.tasks.reading_run import reading_run
from tests.tiny_config import get_config
from v2l_jax import experiment
from v2l_jax.jobs import evaluate
from v2l_jax.metrics.results import Result, read_results
from v2l_jax.tasks import token_choice


@pytest.fixture
def run(asset, tmp_path, monkeypatch):
    config = get_config()
    config.evaluate.tasks = ("token_choice",)
    config.evaluate.token_choice = ConfigDict(
        dict(ways=(2, 3), shots=1, episodes=30, tokens=3, mmr=(0.5,), adaptive=(0.9,))
    )
    experiment.check(config)
    evaluate.check(config)
    return reading_run(config, tmp_path, monkeypatch)


def test_differences_are_paired_and_a_stopped_run_goes_on(run):
    evaluate.run(run.config, run.workdir)
    assert evaluate.is_done(run.config, run.workdir)
    results = read_results(run.workdir / "results.json")
    right = {
        tuple(json.loads(key)[1:4]): np.array(value)
        for key, value in json.loads(
            (run.folder("token_choice") / "right.json").read_text()
        ).items()
    }
    ways = token_choice.ways_to_choose(run.config.evaluate.token_choice)
    assert len(right) == len(ways) * 4 and len(results) == 4 * (3 * len(ways) - 2)
    for result in results:
        on = result.measured_on
        own, basis, paper = (
            right[name, on["ways"], on["photos"]]
            for name in (on["choice"], on["against"] or on["choice"], "nearest words, greedy")
        )
        expected = {
            "token_choice_accuracy": own.mean(),
            "token_choice_added": own.mean() - basis.mean(),
            "token_choice_over_paper": own.mean() - paper.mean(),
        }[result.metric]
        assert result.value == pytest.approx(expected) and result.count == 30
        if result.metric == "token_choice_added":
            half = (
                2.0452 * (own - basis).std(ddof=1) / np.sqrt(30)
            )  # Student's t with 29 degrees of freedom
            assert result.ci95 == pytest.approx((expected - half, expected + half), abs=1e-4)
    assert np.mean([r.value for r in results if r.metric == "token_choice_accuracy"]) > 0.7

    path = run.workdir / "results.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([row for row in rows if row["choice"] != "single words"]))
    (run.folder("token_choice") / "right.json").unlink()
    evaluate.run(run.config, run.workdir)
    key = lambda row: json.dumps(row, sort_keys=True)
    assert sorted(json.loads(path.read_text()), key=key) == sorted(rows, key=key)


def test_without_a_language_model_the_most_similar_shot_decides(run):
    way = next(
        way
        for way in token_choice.ways_to_choose(run.config.evaluate.token_choice)
        if way.scoring is None
    )
    study = token_choice.Study(run)
    expected = []
    for episode in token_choice.make_episodes(run.config, run.photos, 3, "held-out"):
        distances = [
            np.linalg.norm(study.vectors[shot.index] - study.vectors[episode.query.index])
            for shot in episode.shots
        ]
        expected.append(
            episode.shots[int(np.argmin(distances))].class_name == episode.query.class_name
        )
    assert study.right(way, 3, "held-out").tolist() == expected


def test_photos_that_choose_are_not_those_that_report(run):
    first = len(run.photos.train)
    shots, queries = {}, {}
    for kind in token_choice.PHOTOS:
        episodes = token_choice.make_episodes(run.config, run.photos, 3, kind)
        shots[kind] = {shot.index for episode in episodes for shot in episode.shots}
        queries[kind] = {episode.query.index for episode in episodes}
    assert (
        max(shots["training"] | shots["held-out"] | queries["training"])
        < first
        <= min(queries["held-out"])
    )
    assert not (shots["training"] | shots["held-out"]) & queries["training"]


def test_every_way_changes_one_that_comes_before_it(run):
    names = [way.name for way in token_choice.ways_to_choose(run.config.evaluate.token_choice)]
    assert len(set(names)) == len(names)
    for place, way in enumerate(token_choice.ways_to_choose(run.config.evaluate.token_choice)):
        assert way.against in names[:place] or (place == 0 and not way.against)


def test_its_part_of_the_report_has_a_table_for_each_number_of_ways(run):
    evaluate.run(run.config, run.workdir)
    part = token_choice.section(run, read_results(run.workdir / "results.json"))
    assert [table.caption[:5] for table in part.tables] == ["2-way", "3-way"]
    assert [len(table.rows) for table in part.tables] == [11, 11]
    assert sum("best on training photos" in row[0] for row in part.tables[0].rows) == 1


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
    two, five = token_choice.tables(ROWS)
    assert two.caption == "2-way 1-shot accuracy in percent, tiny, photos, 400 episodes each"
    assert two.rows[0] == ("paper", "60.0\n56.0 to 64.0", "90.0\n86.0 to 94.0", "–", "–")
    assert two.rows[1] == (
        "merged\nchanges: paper\nbest on training "
        "photos", "70.0\n66.0 to 74.0", "65.0\n61.0 to 69.0", "-2.5\n-5.5 to +0.5",
        "+7.5\n+1.0 to +30.0",
    )  # fmt: skip
    assert [row[0].partition("\n")[0] for row in five.rows] == ["paper", "merged", "no words"]


def test_the_best_is_picked_on_training_photos_over_all_numbers_of_ways():
    assert (
        token_choice.best_choice(ROWS) == "merged"
    )  # not "paper", best on held-out photos, "no words" or "unfinished"
    assert token_choice.best_choice([]) is None


def test_other_models_have_tables_of_their_own():
    other = [
        Result(r.metric, r.value, r.count, r.ci95, dict(r.measured_on) | {"llm": "large"})
        for r in ROWS
    ]
    assert [table.caption.split(", ")[1] for table in token_choice.tables(ROWS + other)] == [
        "tiny",
        "tiny",
        "large",
        "large",
    ]
