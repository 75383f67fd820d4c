"""Intervals against published tables and scipy; results.json round trips and merges."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from v2l_jax.metrics import results
from v2l_jax.metrics.results import Result


@pytest.mark.parametrize(
    "hits, count, low, high",
    # Newcombe (1998), Statistics in Medicine 17, Table I, method 3 (score, no continuity
    # correction).
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_equals_newcombes_table(hits, count, low, high):
    np.testing.assert_allclose(results.wilson_interval(hits, count), (low, high), atol=5e-5)


@pytest.mark.parametrize("hits, count", [(0, 1), (7, 7), (139, 200), (40, 200), (3, 400)])
def test_wilson_interval_equals_scipy(hits, count):
    expected = stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(results.wilson_interval(hits, count), expected, atol=1e-9)


def test_wilson_interval_edges():
    assert results.wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="6 hits out of 5"):
        results.wilson_interval(6, 5)


def test_wilson_interval_covers_the_truth_about_95_times_in_100():
    hits = np.random.default_rng(0).binomial(200, 0.2, 2000)
    intervals = [results.proportion("accuracy", int(h), 200).ci95 for h in hits]
    covered = [low <= 0.2 <= high for low, high in intervals]
    assert 0.93 < np.mean(covered) < 0.97


def test_mean_interval_equals_scipy():
    samples = np.random.default_rng(1).normal(3, 2, 9)
    row = results.mean("psnr_db", samples, dataset="photos")
    expected = stats.t.interval(0.95, 8, loc=samples.mean(), scale=stats.sem(samples))
    np.testing.assert_allclose(row.ci95, expected, rtol=1e-12)
    assert row.value == pytest.approx(samples.mean()) and row.count == 9
    assert results.mean("psnr_db", [1.0]).ci95 is None
    assert math.isnan(results.mean("psnr_db", []).value)


def test_round_trip(tmp_path):
    rows = [
        results.proportion(
            "few_shot_accuracy", 164, 200, ways=np.int64(2), shots=3, tokens=5, control="none"
        ),
        Result("loss", math.nan, 1, None, {"llm": "smollm2 ü"}),
    ]
    path = tmp_path / "deep" / "results.json"
    results.write_results(path, rows)
    first, second = results.read_results(path)
    assert first == rows[0]
    assert (
        math.isnan(second.value)
        and second.ci95 is None
        and second.measured_on == rows[1].measured_on
    )
    raw = json.loads(path.read_text())
    assert (
        raw[0]["ways"] == 2
        and raw[0]["value"] == 0.82
        and len(raw[0]["ci95"]) == 2
        and raw[1]["value"] is None
    )
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_reserved_names_are_refused():
    with pytest.raises(ValueError, match="count"):
        Result("loss", 0.0, 1, None, {"count": 3})


def test_merging_replaces_only_the_jobs_own_rows(tmp_path):
    path = tmp_path / "results.json"
    results.merge_results(
        path, [Result("psnr_db", 20.0, 3), Result("ssim", 0.5, 3)], job="reconstruction"
    )
    results.merge_results(path, [Result("few_shot_accuracy", 0.7, 200)], job="few_shot")
    results.merge_results(path, [Result("psnr_db", 21.0, 3)], job="reconstruction")
    once = path.read_text()
    results.merge_results(path, [Result("psnr_db", 21.0, 3)], job="reconstruction")
    assert path.read_text() == once
    assert [(row.metric, row.value) for row in results.read_results(path)] == [
        ("few_shot_accuracy", 0.7),
        ("psnr_db", 21.0),
    ]
    assert results.read_results(path)[0].measured_on == {"job": "few_shot"}


def test_a_failed_write_leaves_the_previous_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    results.write_results(path, [Result("ssim", 0.5, 3)])
    before = path.read_text()

    def no_space(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("v2l_jax.atomic_write.os.fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        results.write_results(path, [Result("ssim", 0.6, 3)])
    assert path.read_text() == before and [p.name for p in tmp_path.iterdir()] == ["results.json"]
