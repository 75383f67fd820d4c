"""A run's folder: what it may be, and what it notes."""

import json
import pathlib
import shutil

import numpy as np
import pytest

import v2l_jax
from v2l_jax.errors import ConfigError, V2LError
from v2l_jax.jobs.runner import may_differ
from v2l_jax.run.paths import tokens_path
from v2l_jax.run.tokens import read_tokens, write_tokens
from v2l_jax.run.workdir import code_version, environments, locked, prepare, timed


@pytest.mark.parametrize("address", ["gs://bucket/run", "s3://bucket/run"])
def test_a_bucket_is_refused_before_a_folder_of_its_name_is_made(tmp_path, monkeypatch, address):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"s:/bucket/run looks like a bucket's address|s3:/bucket/run looks like"
    ):
        prepare(pathlib.Path(address), {"seed": 0}, lambda *_: False)
    assert not list(tmp_path.iterdir())


def test_a_machine_without_git_names_the_version_instead_of_the_commit(monkeypatch):
    assert shutil.which("git") is None or not code_version().startswith("v")
    monkeypatch.setenv("PATH", "")
    code_version.cache_clear()
    assert code_version().startswith("v")
    code_version.cache_clear()


def test_archived_code_names_its_commit(monkeypatch):
    """`git archive` replaces $Format:%H$, as .gitattributes asks it to."""
    root = pathlib.Path(v2l_jax.__file__).parents[1]
    assert "v2l_jax/__init__.py export-subst" in (root / ".gitattributes").read_text()
    monkeypatch.setattr(v2l_jax, "__commit__", "0123456789abcdef0123456789abcdef01234567")
    monkeypatch.setenv("PATH", "")
    code_version.cache_clear()
    assert code_version() == "0123456789ab"
    code_version.cache_clear()


def test_each_job_that_writes_into_the_folder_notes_its_environment(tmp_path):
    (tmp_path / "environment.json").write_text('{"cpu": "of an earlier version"}')
    for job in ("train", "evaluate"):
        with timed(tmp_path, job):
            pass
    first, *others = environments(tmp_path)
    assert first == {"cpu": "of an earlier version"}
    assert [entry["job"] for entry in others] == ["train", "evaluate"]
    assert all(entry["git_commit"] == code_version() and entry["began"] for entry in others)


def test_only_what_may_differ_differs(tmp_path):
    prepare(tmp_path, {"train.steps": 40, "seed": 0, "names": {"a": "b"}}, lambda *_: False)
    prepare(tmp_path, {"train.steps": 80, "seed": 0, "names": {"a": "b"}, "new": 1}, may_differ)
    assert json.loads((tmp_path / "config.json").read_text())["train"]["steps"] == 80
    for asked in ({"train.steps": 40}, {"seed": 1}, {"names": {"a": "c"}}):
        with pytest.raises(ConfigError, match=f"differs at {next(iter(asked))}"):
            prepare(tmp_path, asked, lambda path, *v: path != "names" and may_differ(path, *v))


@pytest.mark.parametrize(
    "content, message",
    [("", "is empty"), ('{"seed": 1', "not valid JSON"), ("[1]", "holds a list")],
)
def test_a_damaged_config_in_the_folder_is_one_line(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(V2LError, match=f"config.json.* {message}.*another --workdir"):
        prepare(tmp_path, {"seed": 1}, lambda *_: True)


@pytest.mark.parametrize("jobs, refused", [(["train"], True), (["report"], False)])
def test_a_folder_that_cannot_keep_checkpoints_is_refused_before_anything_runs(
    tmp_path, jobs, refused
):
    folder = tmp_path / "run[1]"
    if not refused:
        prepare(folder, {"jobs": jobs}, lambda *_: True)
        return
    with pytest.raises(V2LError, match=r"run\[1\].*holds '\['"):
        prepare(folder, {"jobs": jobs}, lambda *_: True)
    assert not folder.exists()


def test_a_second_run_in_the_folder_is_refused_while_the_first_goes_on(tmp_path):
    folder = tmp_path / "run"
    with locked(folder):
        with pytest.raises(V2LError, match="another run is writing into .*run"):
            with locked(folder):
                raise AssertionError("both runs write")
    with locked(folder):
        pass


@pytest.mark.parametrize(
    "name, content",
    [
        ("timings.json", "[3]"),
        ("timings.json", '{"train": "long"}'),
        ("environment.json", "7"),
        ("environment.json", "[7]"),
        ("environment.json", "[" * 5000),
    ],
)
def test_damaged_notes_of_a_run_are_one_line(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(V2LError, match=f"{name}.*delete it, or name another --workdir"):
        with timed(tmp_path, "train"):
            pass


def test_damaged_token_files_are_one_line(tmp_path):
    write_tokens(tmp_path, "train", {"local": np.arange(8).reshape(2, 2, 2)}, more=np.ones(3))
    np.testing.assert_array_equal(
        read_tokens(tmp_path, "train")["local"], np.arange(8).reshape(2, 2, 2)
    )
    path = tokens_path(tmp_path, "train")
    whole = path.read_bytes()
    for damaged in (whole[:-30], whole[:200] + b"x" * 50 + whole[250:], b"", b"PK"):
        path.write_bytes(damaged)
        with pytest.raises(V2LError, match="train.npz .*--config.jobs=tokenize"):
            read_tokens(tmp_path, "train")
