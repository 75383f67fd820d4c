"""The study of token choice with a made-up reader: paired rows, resumption, photos kept apart."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.tasks.reading_run import reading_run
from tests.tiny_config import get_config
from v2l_jax import experiment
from v2l_jax.jobs import evaluate
from v2l_jax.metrics.results import read_results
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
            for name in (on["choice"], on["against"] or on["choice"], "the paper's way")
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
