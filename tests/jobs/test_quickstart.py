"""The jobs in a row on real weights and photos, small; then again, interrupted, and on what cannot
work.
"""

import json
import pathlib
import shutil

import numpy as np
import pytest

from tests.tiny_config import get_config
from v2l_jax.codebook.codebook import Codebook
from v2l_jax.errors import ConfigError, DataError
from v2l_jax.jobs import evaluate, runner
from v2l_jax.metrics.results import read_results
from v2l_jax.run.tokens import read_tokens

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def config(asset, tmp_path_factory):
    """The tiny config over a folder of photos with one that is corrupt."""
    photos = tmp_path_factory.mktemp("photos") / "photos"
    shutil.copytree(asset("pizza-steak-sushi") / "test", photos)
    (photos / "pizza" / "torn.jpg").write_bytes(
        next((photos / "pizza").glob("*.jpg")).read_bytes()[:2000]
    )
    config = get_config()
    config.data.labelled = (str(photos),)
    return config


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    """A finished run."""
    workdir = tmp_path_factory.mktemp("run")
    runner.run_jobs(config, workdir)
    return workdir


def test_leaves_numbers_with_counts_and_intervals(workdir):
    rows = {
        (r.metric, r.measured_on.get("control")): r for r in read_results(workdir / "results.json")
    }
    for metric in ("psnr", "ssim"):
        row = rows[metric, None]
        assert (
            row.count == 30 and row.ci95[0] < row.value < row.ci95[1]
        )  # two fifths of 74 photos, class by class
    for control in ("none", "shuffled"):
        row = rows["few_shot_accuracy", control]
        assert row.count == 6 and row.measured_on["ways"] == 2 and row.measured_on["tokens"] == 5
        assert (
            row.value * 6 == pytest.approx(round(row.value * 6))
            and 0 <= row.ci95[0] <= row.value <= row.ci95[1] <= 1
        )
    assert 0 < rows["codebook_usage", None].value <= 1


def test_words_are_the_language_models_own(workdir, config):
    words = Codebook.load(workdir / "codebook" / "global.safetensors")
    tokens = read_tokens(workdir, "held_out")
    assert tokens["global"].shape == (30, 5) and tokens["local"].shape == (30, 16, 16)
    assert tokens["global"].max() < len(words)
    features = np.load(workdir / "features" / "held_out.npy")
    distances = ((features[:, None] - words.embeddings[None]) ** 2).sum(-1)
    np.testing.assert_array_equal(tokens["global"][:, 0], distances.argmin(1))
    assert np.mean(words.embeddings.astype(np.float64) ** 2) > 0


def test_the_report_shows_words_and_names_the_corrupt_photo(workdir):
    page = (workdir / "report.html").read_text()
    assert "torn.jpg" in page and "2-way" in page and page.count("data:image/") == 24
    assert json.loads((workdir / "environment.json").read_text())[-1]["packages"]["jax"]
    assert set(json.loads((workdir / "timings.json").read_text())) == {
        "codebook",
        "train",
        "tokenize",
        "evaluate",
        "report",
    }


def test_a_second_run_does_nothing_again(workdir, config):
    files = [
        p
        for p in workdir.rglob("*")
        if p.is_file() and p.parent.name in ("codebook", "tokens", "features", workdir.name)
    ]
    written = {
        p: p.stat().st_mtime_ns
        for p in files
        if p.suffix in (".safetensors", ".npz", ".npy", ".jsonl") or p.name == "results.json"
    }
    assert len(written) >= 8
    runner.run_jobs(config, workdir)
    assert {p: p.stat().st_mtime_ns for p in written} == written


def test_a_missing_row_alone_is_measured_again_with_the_same_result(workdir, config):
    path = workdir / "results.json"
    before = json.loads(path.read_text())
    kept = [row for row in before if row.get("control") != "none"]
    path.write_text(json.dumps(kept))
    evaluate.run(config, workdir)
    by_key = lambda rows: sorted(rows, key=lambda row: (row["metric"], str(row.get("control"))))
    assert by_key(json.loads(path.read_text())) == by_key(before)


def test_a_workdir_belongs_to_one_config(workdir, config):
    other = config.copy_and_resolve_references()
    other.train.learning_rate = 2e-3
    with pytest.raises(ConfigError, match=r"another config \(differs at train.learning_rate\)"):
        runner.run_jobs(other, workdir)


def test_too_few_photos_for_the_shots_stop_before_anything_runs(config, tmp_path):
    greedy = config.copy_and_resolve_references()
    greedy.evaluate.few_shot.shots = (1, 40)
    with pytest.raises(DataError, match=r"steak.*40|40.*steak|pizza.*40|40.*pizza"):
        runner.run_jobs(greedy, tmp_path / "run")
    assert not (tmp_path / "run" / "codebook").exists()


def test_an_empty_folder_is_named(config, tmp_path):
    empty = config.copy_and_resolve_references()
    (tmp_path / "nothing").mkdir()
    empty.data.labelled = (str(tmp_path / "nothing"),)
    with pytest.raises(DataError, match="nothing"):
        runner.run_jobs(empty, tmp_path / "run")


def test_the_notebook_runs_on_this_run(workdir, config, monkeypatch, tmp_path, capsys):
    root = pathlib.Path(__file__).parents[2]
    monkeypatch.setenv("V2L_JAX_ROOT", str(root))
    monkeypatch.setenv("V2L_JAX_WORKDIR", str(workdir))
    monkeypatch.setattr("runpy.run_path", lambda path: {"get_config": lambda: config})
    monkeypatch.setenv("MPLBACKEND", "Agg")
    notebook = json.loads((root / "colabs" / "words_of_an_image.ipynb").read_text())
    names: dict = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "words_of_an_image.ipynb", "exec"), names)
    assert len(names["global_words"]) == 5 and names["decoded"].shape == (32, 32, 3)
    printed = capsys.readouterr().out
    assert names["name"] in ("cat", "pizza") and f"Output: {names['name']}" in printed
    assert (
        names["answer"]
        and "\n" not in names["answer"]
        and f"What animal is in the picture? Answer: {names['answer']}" in printed
    )
    missing = names["missing"]
    assert missing.sum() == 64 and missing[4:12, 4:12].all()
    for ids in names["filled"].values():
        assert ids.shape == (1, 16, 16)
        np.testing.assert_array_equal(ids[0][~missing], names["true"][0][~missing])
    assert not np.array_equal(names["pictures"][0], names["pictures"][1])
