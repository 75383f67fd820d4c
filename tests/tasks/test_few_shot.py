"""The few-shot suite with a made-up reader that looks words up among the shots: settings, rows,
controls, files, Table 1.
"""

import pytest
from ml_collections import ConfigDict

from tests.tasks.reading_run import WORDS, reading_run
from tests.tiny_config import get_config
from v2l_jax import experiment
from v2l_jax.data.sources import SyntheticSource
from v2l_jax.errors import ConfigError, DataError
from v2l_jax.jobs import evaluate
from v2l_jax.metrics.results import read_results
from v2l_jax.representations.token_choice import TokenChoice
from v2l_jax.run import loading
from v2l_jax.tasks import few_shot
from v2l_jax.tasks.table_1 import TABLE_1


@pytest.fixture
def config(asset):
    config = get_config()
    config.evaluate.tasks = ("few_shot",)
    config.evaluate.few_shot.single_words = False
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
    c.update(
        ways=(3,),
        episodes=60,
        selection="diverse",
        controls=("no_tokens", "shuffled"),
        ordering="nearest_last",
    )
    evaluate.run(run.config, run.workdir)
    found = {r.measured_on["control"]: r for r in _rows(run)}
    assert {r.count for r in found.values()} == {60} and found["none"].value > 0.8
    assert (
        found["none"].measured_on["words"] == "diverse (mmr 0.8)"
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
    with caplog.at_level("INFO"):
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


def test_wordnet_ids_get_english_names_and_doubles_are_left_out(asset):
    assert few_shot.class_names(["n02123045", "n01440764", "mine"], {"n01440764": "a fish"}) == {
        "n02123045": "tabby",
        "n01440764": "a fish",
        "mine": "mine",
    }

    classes = ("n02012849", "n03126707", "n02123045")  # the bird, the machine, a cat
    photos = loading.Photos(
        SyntheticSource(4, 8, 0, classes), SyntheticSource(2, 8, 1, classes), (), "made up"
    )
    labels, names = few_shot.named_labels(photos, {})
    assert names == ["crane", "tabby"] and labels.tolist() == [0, -1, 1, 0, 0, -1]


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


def test_options_pick_words_and_label_them(config):
    c = config.evaluate.few_shot
    label = lambda **options: (
        c.update(options),
        few_shot.words_label(few_shot.token_choice(c, 5), c.single_words),
    )[1]
    assert few_shot.token_choice(c, 5) == TokenChoice(5) and label(mmr=0.3) == "nearest"
    assert label(selection="diverse", mmr=0.7) == "diverse (mmr 0.7)"
    assert label(adaptive=0.8) == "diverse (mmr 0.7), adaptive 0.8"
    assert few_shot.token_choice(c, 7) == TokenChoice(7, merge=True, mmr=0.7, adaptive=0.8)
    assert label(selection="nearest", single_words=True) == "nearest, single, adaptive 0.8"


def test_single_words_alone(run):
    run.config.evaluate.few_shot.update(single_words=True, tokens=6)
    shown = {word for words in few_shot.Asked(run).words(6) for word in words}
    tokenizer = loading.text_tokenizer(run.config)
    single = {
        text for group in WORDS.values() for text in group if len(tokenizer.encode(text)) == 1
    }
    assert shown == single and len(single) < 18


def test_table_1_needs_one_of_its_columns(config):
    config.evaluate.few_shot.update(table_1=True, shots=(2,))
    with pytest.raises(ConfigError, match="table_1"):
        few_shot.check(config)
