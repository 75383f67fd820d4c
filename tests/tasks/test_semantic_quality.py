"""Semantic quality over made-up words: rows, controls, figures, and what is refused before anything
runs.
"""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.tiny_config import get_config
from v2l_jax import experiment
from v2l_jax.codebook.codebook import Codebook
from v2l_jax.errors import ConfigError
from v2l_jax.jobs import codebook, evaluate
from v2l_jax.metrics.results import Result, read_results
from v2l_jax.run import features, loading
from v2l_jax.tasks import semantic_quality

WORDS = tuple(f" word{i}" for i in range(30))


@pytest.fixture
def config(asset):
    config = get_config()
    config.evaluate.tasks = ("semantic_quality",)
    config.evaluate.semantic_quality = ConfigDict(
        dict(tokens=(2, 5), controls=("shuffled", "random"), rings=4, ring_words=6)
    )
    return config


@pytest.fixture
def run(config, tmp_path, monkeypatch):
    """A run with random word and photo vectors; the global words are every third candidate."""
    monkeypatch.setattr(
        loading, "text_tokenizer", lambda config: SimpleNamespace(fingerprint="a tokenizer")
    )
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((30, 8)).astype(np.float32)
    candidates = Codebook(
        embeddings, WORDS, tuple((i + 5,) for i in range(30)), "made up", "a tokenizer"
    )
    candidates.save(codebook.candidates_path(tmp_path))
    candidates.take(np.arange(0, 30, 3)).save(codebook.global_path(tmp_path))

    def vectors(config, workdir, name, source):
        made = (
            np.random.default_rng(len(source)).standard_normal((len(source), 8)).astype(np.float32)
        )
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    monkeypatch.setattr(features, "cached", vectors)
    return evaluate.open_run(config, tmp_path)


def test_rows_equal_brute_force_over_all_candidates(run):
    semantic_quality.measure(run, semantic_quality.settings(run.config))
    rows = {
        (r.metric, r.measured_on["control"], r.measured_on["tokens"]): r
        for r in read_results(run.workdir / "results.json")
    }
    assert len(rows) == 3 * 5 and {row.count for row in rows.values()} == {len(run.photos.held_out)}
    images, words = (
        run.split_features("held_out"),
        Codebook.load(codebook.candidates_path(run.workdir)).embeddings,
    )
    cosines = images @ words.T / np.linalg.norm(words, axis=1)
    near = np.argsort(np.sum((images[:, None] - words[::3][None]) ** 2, axis=2), axis=1)
    for k in (2, 5):
        scores = np.take_along_axis(cosines[:, ::3], near[:, :k], 1).mean(1)
        assert rows["conse_score", "none", k].value == pytest.approx(scores.mean(), abs=1e-6)
        assert rows["conse_ratio", "none", k].value == pytest.approx(
            (scores / cosines.max(1)).mean(), abs=1e-5
        )
        assert rows["conse_score", "shuffled", k].value < rows["conse_score", "none", k].value / 2
    low, high = cosines.min(1), cosines.max(1)
    assert rows["conse_score", "random", 1].value == pytest.approx(cosines.mean(), abs=1e-6)
    assert rows["conse_r_min_max", "random", 1].value == pytest.approx(
        ((cosines.mean(1) - low) / (high - low)).mean(), abs=1e-5
    )


def test_a_second_run_measures_nothing_and_a_new_setting_alone(run, monkeypatch):
    evaluate.run(run.config, run.workdir)
    assert evaluate.is_done(run.config, run.workdir)
    before = (run.workdir / "results.json").read_text()
    run.config.evaluate.semantic_quality.tokens = (2, 3, 5)
    missing = evaluate._missing(run.config, "semantic_quality", run.workdir)
    assert [setting["tokens"] for setting in missing] == [3, 3]
    evaluate.run(run.config, run.workdir)
    assert (
        len(read_results(run.workdir / "results.json")) == 3 * 7
        and before != (run.workdir / "results.json").read_text()
    )


def test_section_has_tables_and_a_ring_of_each_class_in_turn(run):
    semantic_quality.measure(run, semantic_quality.settings(run.config))
    run.config.evaluate = ConfigDict()  # the report is also made with configs of other tasks
    section = semantic_quality.section(run, read_results(run.workdir / "results.json"))
    assert len(section.tables) == 2 and len(section.figures) == 4
    captions = [figure.partition("class: ")[2].partition(",")[0] for figure in section.figures]
    assert captions == ["pizza", "steak", "sushi", "pizza"]
    assert all(figure.count("<text") == 6 + 1 for figure in section.figures)


def test_fewer_rings_leave_none_of_an_earlier_run(run):
    semantic_quality.measure(run, semantic_quality.settings(run.config))
    run.config.evaluate.semantic_quality.rings = 1
    semantic_quality.measure(run, [])
    assert len(list(run.folder("semantic_quality").rglob("*.svg"))) == 1


def test_more_words_than_the_codebook_has_are_refused(run):
    run.config.evaluate.semantic_quality.tokens = (2, 11)
    with pytest.raises(
        ConfigError, match="11 words a photo are asked, but the global codebook has 10"
    ):
        semantic_quality.measure(run, semantic_quality.settings(run.config))


def test_no_tokens_is_no_control_here(config):
    config.evaluate.semantic_quality.controls = ("no_tokens",)
    with pytest.raises(ConfigError, match="semantic_quality.controls"):
        experiment.check(config)


def rows(kind, llm="m"):
    cells = [
        (5, "none", 0.5),
        (21, "none", 0.4),
        (5, "shuffled", 0.2),
        (21, "shuffled", 0.1),
        (1, "random", 0.05),
    ]
    fields = dict(llm=llm, tower=f"a {kind}", dataset="pets", vocabulary=12345)
    return [
        Result(
            f"{kind}_{metric}",
            value + shift,
            7,
            (value, value + 0.2),
            fields | {"tokens": tokens, "control": control},
        )
        for tokens, control, value in reversed(cells)
        for metric, shift in (("score", 0), ("ratio", 0.1), ("r_min_max", 0.15))
    ]


def test_a_conse_tower_is_never_called_clip_and_the_papers_rows_stand_apart():
    ours, paper = semantic_quality.tables(rows("conse"))
    assert ours.head == ("", "Words a photo", "ConSE score", "ConSE-R", "Ratio to the nearest word")
    assert [row[:2] for row in ours.rows] == [
        ("The photo's words\nm", "5"),
        ("The photo's words\nm", "21"),
        ("Control: another photo's words", "5"),
        ("Control: another photo's words", "21"),
        ("Control: any word, on average", "1"),
    ]
    assert ours.rows[0][2:] == (
        "0.5000\n0.5000–0.7000",
        "0.6500\n0.5000–0.7000",
        "0.6000\n0.5000–0.7000",
    )
    assert "CLIP" not in ours.caption and "7 photos of pets, 12,345 words" in ours.caption
    assert [row[1:] for row in paper.rows] == [
        ("5", "0.1868", "0.7147"), ("5", "0.2576", "0.9165"), ("21", "0.1815", "0.6901"), ("21",
        "0.2427", "0.8520"),
    ]  # fmt: skip


def test_a_clips_rows_stand_beside_the_papers():
    (table,) = semantic_quality.tables(rows("clip"))
    assert table.head[2:4] == ("CLIP score", "CLIP-R") and len(table.rows) == 9
    assert {len(row) for row in table.rows} == {5}
    assert table.rows[6][2:4] == ("0.2576", "0.9165")


def test_rows_of_earlier_versions_keep_their_meaning():
    old = [
        dataclasses.replace(row, metric=row.metric.replace("_ratio", "_r")) for row in rows("clip")
    ]
    (table,) = semantic_quality.tables(old)
    assert table.head[2:] == ("CLIP score", "CLIP-R", "Ratio to the nearest word")
    assert table.rows[0][2:] == tuple(f"{value:.4f}\n0.5000–0.7000" for value in (0.5, 0.65, 0.6))
    assert table.rows[6][3:] == ("0.9165", "–")


def test_each_language_model_has_its_rows():
    ours, _ = semantic_quality.tables(rows("conse") + rows("conse", "other"))
    assert [row[0] for row in ours.rows].count("The photo's words\nother") == 2 and len(
        ours.rows
    ) == 10
