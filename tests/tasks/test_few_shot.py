"""The few-shot suite with a made-up reader that looks words up among the shots: settings, rows,
controls, files, Table 1.
"""

import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.tasks.reading_run import WORDS, reading_run
from tests.tiny_config import get_config
from v2l_jax import experiment
from v2l_jax.data.episodes import draw_episodes
from v2l_jax.errors import ConfigError, DataError
from v2l_jax.jobs import evaluate
from v2l_jax.metrics.results import Result, read_results
from v2l_jax.report.tables import table_text
from v2l_jax.representations.base import shown_text
from v2l_jax.representations.v2l_words import word_texts
from v2l_jax.tasks import few_shot
from v2l_jax.tasks.few_shot import (
    PUBLISHED,
    TABLE_1,
    Scoring,
    few_shot_prompt,
    make_prompts,
    table_1,
)


@pytest.fixture
def config(asset):
    config = get_config()
    config.evaluate.tasks = ("few_shot",)
    config.representation.v2l_words.single_words = False
    return config


@pytest.fixture
def run(config, tmp_path, monkeypatch):
    return reading_run(config, tmp_path, monkeypatch)


def _rows(run):
    return [
        r for r in read_results(run.workdir / "results.json") if r.metric == "few_shot_accuracy"
    ]


def test_settings_are_all_combinations_and_controls_at_their_shots(config):
    c = config.evaluate.few_shot
    c.update(ways=(2, 3), shots=(1, 2), controls=("no_tokens", "shuffled"), control_shots=(2,))
    rows = few_shot.settings(config)
    assert len(rows) == 4 + 4 and len({str(row) for row in rows}) == 8
    assert {(row["ways"], row["shots"]) for row in rows if row["control"] == "shuffled"} == {
        (2, 2),
        (3, 2),
    }
    config.evaluate.few_shot = ConfigDict(
        c.to_dict()
        | dict(
            shots=(1, 3, 5),
            repetitions=(0, 1, 3, 5),
            induction=(True, False),
            tokens=(5, 21),
            rule=("greedy", "likelihood"),
        )
    )
    experiment.check(config)
    assert len(few_shot.promptings(config.evaluate.few_shot)) == 24
    config.evaluate.few_shot.table_1 = True
    assert few_shot.promptings(config.evaluate.few_shot) == list(TABLE_1)
    rows = few_shot.settings(config)
    assert len(rows) == 2 * 2 * (2 * 7 + 4)
    assert {(row["rule"], row["calibrate"]) for row in rows} == {
        ("greedy", False),
        ("likelihood", True),
    }
    assert all(
        (row["repetitions"], row["induction"]) == (0, True)
        for row in rows
        if row["control"] != "none"
    )


def test_words_that_name_the_class_are_read_and_controls_are_not(run):
    c = run.config.evaluate.few_shot
    c.update(ways=(3,), episodes=60, controls=("no_tokens", "shuffled"), ordering="nearest_last")
    run.config.representation.v2l_words.selection = "diverse"
    evaluate.run(run.config, run.workdir)
    found = {r.measured_on["control"]: r for r in _rows(run)}
    assert {r.count for r in found.values()} == {60} and found["none"].value > 0.8
    assert (
        found["none"].measured_on["representation"]
        == "v2l_words (words diverse (mmr 0.8); vocabulary global)"
        and found["none"].measured_on["ordering"] == "nearest_last"
    )
    for control in ("no_tokens", "shuffled"):
        assert found[control].ci95[0] < 1 / 3 < found[control].ci95[1]
    assert evaluate.is_done(run.config, run.workdir)
    before = (run.workdir / "results.json").read_bytes()
    evaluate.run(run.config, run.workdir)
    assert (run.workdir / "results.json").read_bytes() == before


def test_greedy_and_constrained_agree_where_names_have_one_token_and_the_table_is_printed(
    run, caplog
):
    options = run.config.evaluate.few_shot.to_dict() | dict(
        rule=("greedy", "constrained"), calibrate=False, repetitions=(0, 1), controls=(), episodes=8
    )
    run.config.evaluate.few_shot = ConfigDict(options)
    with caplog.at_level("INFO", logger="absl"):
        evaluate.run(run.config, run.workdir)
    rows = {(r.measured_on["rule"], r.measured_on["repetitions"]): r.value for r in _rows(run)}
    assert (
        rows["greedy", 0] == rows["constrained", 0] and rows["greedy", 1] == rows["constrained", 1]
    )
    assert "V2L, 5 tokens — LLaMA-2 7B; published" in caplog.text
    part = few_shot.section(run, _rows(run))
    assert (
        part.name == "few_shot"
        and [row[0].split("\n")[0] for row in part.tables[0].rows[:2]] == ["Ours, 5 tokens"] * 2
    )


def test_published_episodes_with_their_names(run, asset, tmp_path):
    photos = asset("pizza-steak-sushi") / "test"
    named = {c: sorted(path.name for path in (photos / c).glob("*.jpg")) for c in WORDS}
    line = lambda *images: ",".join(f"{c}/{named[c][i]}" for c, i in images) + ","
    lines = [
        line(("pizza", 0), ("steak", 1), ("pizza", 2)),
        line(("sushi", 0), ("pizza", 0), ("sushi", 3)),
        line(("pizza", 5), ("steak", 5), ("steak", 6)),
    ]
    (tmp_path / "2_way_1_shot.csv").write_text("\n".join(lines))
    c = run.config.evaluate.few_shot
    c.update(
        episode_file=str(tmp_path / "{ways}_way_{shots}_shot.csv"),
        episode_photos=str(photos),
        episodes=2,
        controls=(),
    )
    c.class_names = ConfigDict({"pizza": "flatbread"})
    evaluate.check(run.config)
    evaluate.run(run.config, run.workdir)
    (row,) = _rows(run)
    assert (
        row.count == 2
        and row.measured_on["dataset"] == "test"
        and row.measured_on["episodes"] == "first 2 of {ways}_way_{shots}_shot.csv"
    )
    assert few_shot.read_files(run.config)[2, 1].episodes[0].class_names == ("flatbread", "steak")
    c.episode_photos = str(tmp_path)
    with pytest.raises(DataError, match="5 of 5 photos of the episodes are missing"):
        evaluate.check(run.config)
    c.update(controls=("shuffled",), control_shots=(3,), episode_photos=str(photos))
    with pytest.raises(ConfigError, match="control_shots"):
        evaluate.check(run.config)


def test_all_settings_with_prompts_that_are_too_long_are_named_before_anything_runs(run):
    run.config.evaluate.few_shot.update(shots=(1, 10), ways=(2,), controls=())
    run.config.evaluate.few_shot = ConfigDict(
        run.config.evaluate.few_shot.to_dict() | {"repetitions": (0, 40, 80)}
    )
    with pytest.raises(
        DataError, match=r"2-way 10-shot, repeated 40×.*context.*2-way 10-shot, repeated 80×"
    ):
        evaluate.run(run.config, run.workdir)
    assert not (run.workdir / "results.json").exists()


def test_table_1_needs_one_of_its_columns(config):
    config.evaluate.few_shot.update(table_1=True, shots=(2,))
    with pytest.raises(ConfigError, match="table_1"):
        few_shot.check(config)


def shown(prompt):
    return shown_text(prompt, lambda ids: "")


def test_few_shot_prompt_is_the_published_text():
    prompt = few_shot_prompt(
        shots=[(word_texts([" pup", " dog"]), "dog"), (word_texts([" kitten"]), "cat")],
        query=word_texts([" tabby", "cat"]),
        names=("dog", "cat"),
    )
    assert shown(prompt.whole) == (
        "For each of the following input output pairs, output is one of ['cat' or 'dog']\n"
        "###\nInput: < pup dog >\nOutput: dog\n"
        "###\nInput: < kitten >\nOutput: cat\n"
        "###\nInput: < tabbycat >\nOutput:"
    )


def test_repetitions_show_all_examples_again_and_induction_can_be_left_out():
    shots, query = [(word_texts([" a"]), "x"), (word_texts([" b"]), "y")], word_texts([" c"])
    once = few_shot_prompt(shots, query, ("x", "y"), induction=False)
    thrice = few_shot_prompt(shots, query, ("x", "y"), induction=False, repetitions=2)
    assert not shown(once.shots).startswith("For each")
    assert shown(thrice.shots) == shown(once.shots) * 3
    assert thrice.query == once.query


def _drawn():
    return draw_episodes(np.repeat(np.arange(3), 6), ("a", "b", "c"), 2, 2, 10, seed=1)


def test_without_an_image_prompts_differ_only_in_their_classes():
    first, second, *_ = make_prompts(_drawn(), [()] * 18, Scoring())
    assert "Input: <  >\nOutput: " in shown(first.shots)
    assert shown(first.query) == shown(second.query) == "###\nInput: <  >\nOutput:"


def test_prompts_show_shots_and_query_of_the_episode():
    words = [word_texts([f" w{i}"]) for i in range(18)]
    for episode in _drawn():
        (prompt,) = make_prompts([episode], words, Scoring(induction=False))
        text = shown(prompt.whole)
        parts = [f"w{shot.index} >\nOutput: {shot.class_name}" for shot in episode.shots]
        assert [part for part in parts if part in text] == parts
        assert text.endswith(f"< w{episode.query.index} >\nOutput:")


def _row(ways, shots, value, control="none", **more):
    on = {"ways": ways, "shots": shots, "control": control, "tokens": 5, **more}
    return Result("few_shot_accuracy", value, 200, (value - 0.05, value + 0.06), on)


def _table_1_rows(ways, accuracies, **more):
    return [
        _row(ways, shots, value, repetitions=repetitions, induction=induction, llm="tiny", **more)
        for (shots, repetitions, induction), value in zip(TABLE_1, accuracies, strict=True)
    ]


def test_table_1_has_our_rows_and_the_published_ones():
    asked = {"rule": "greedy", "calibrate": False}
    rows = _table_1_rows(2, [0.0, 0.6, 0.7, 0.8, 0.61, 0.62, 0.63], **asked)
    plain = {"repetitions": 0, "induction": True, "llm": "tiny"}
    rows += [_row(2, 1, 0.5, "shuffled", **plain, **asked)]
    (table,) = table_1(rows)
    ours, control, *published = table.rows
    assert ours[0] == "Ours, 5 tokens\ntiny; greedy"
    firsts = [cell.split("\n")[0] for cell in ours[1:]]
    assert firsts == ["0.0", "60.0", "70.0", "80.0", "61.0", "62.0", "63.0", "56.6"]
    assert ours[2] == "60.0\n55.0–66.0"
    assert control[0].startswith("Ours, 5 tokens, words shuffled")
    assert control[1:] == ("–", "50.0\n45.0–56.0", *"––––––")
    assert len(published) == len(PUBLISHED)
    spae = next(row for row in published if row[0].startswith("SPAE, 5"))
    assert spae[1:] == ("32.2", "84.0", "88.5", "88.4", "85.1", "83.6", "82.4", "77.7")
    lines = table_text(table).splitlines()
    assert len(lines) == 2 + len(table.rows) and len(set(map(len, lines[1:]))) == 1


def test_table_1_keeps_what_is_measured_differently_apart():
    rows = _table_1_rows(5, [0.5] * 7, rule="greedy")
    rows += _table_1_rows(5, [0.4] * 7, rule="likelihood", calibrate=True)[:3]
    (table,) = table_1(rows)
    assert [row[-1] for row in table.rows[:2]] == ["50.0", "–"]
    assert table.rows[1][0].endswith("likelihood, calibrated")


def test_datasets_are_named_once_or_row_by_row():
    one = _table_1_rows(2, [0.5] * 7, dataset="cats and dogs")
    (table,) = table_1(one)
    assert "Ours on cats and dogs;" in table.caption and "cats" not in table.rows[0][0]
    (table,) = table_1(one + _table_1_rows(2, [0.5] * 7, dataset="fish"))
    assert [row[0].rpartition("; ")[2] for row in table.rows[:2]] == ["cats and dogs", "fish"]


def test_no_table_1_of_plain_rows_alone():
    assert table_1([_row(2, 1, 0.8, repetitions=0, induction=True), _row(5, 3, 0.8)]) == []


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row.method} {row.llm}")
def test_published_means_are_those_of_seven_settings(row):
    """The setting without induction, where it follows from the mean, is a percentage at most as
    good as with induction.
    """
    for first, *known, mean in row.accuracies.values():
        rest = len(TABLE_1) * mean - sum(known)
        if first is None:
            assert -0.4 < rest <= known[0]
        else:
            assert abs(rest - first) < 0.4


def test_what_follows_from_the_mean_is_marked():
    seven = next(row for row in PUBLISHED if (row.method, row.llm[-2:]) == ("V2L, 5 tokens", "7B"))
    assert [seven.cells(ways)["1 shot, no induction"] for ways in (2, 5)] == ["≈34.4", "≈36.4"]
    assert seven.cells(5)["mean"] == 69.8 and len(seven.cells(5)) == 8
