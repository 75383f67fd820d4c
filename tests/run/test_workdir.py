"""A run's folder: what it may be, and what it notes."""

import json
import pathlib
import shutil

import pytest

from v2l_jax.errors import ConfigError
from v2l_jax.jobs.runner import may_differ
from v2l_jax.run.workdir import code_version, environments, prepare, timed


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
