"""A run's folder: what it may be, and what it notes."""

import pathlib
import shutil

import pytest

from tests import tiny_config
from v2l_jax.errors import ConfigError
from v2l_jax.run.workdir import environment, prepare


@pytest.mark.parametrize("address", ["gs://bucket/run", "s3://bucket/run"])
def test_a_bucket_is_refused_before_a_folder_of_its_name_is_made(tmp_path, monkeypatch, address):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"s:/bucket/run looks like a bucket's address|s3:/bucket/run looks like"
    ):
        prepare(pathlib.Path(address), tiny_config.get_config())
    assert not list(tmp_path.iterdir())


def test_a_machine_without_git_has_no_commit(monkeypatch):
    assert shutil.which("git") is None or environment()["git_commit"]
    monkeypatch.setenv("PATH", "")
    assert environment()["git_commit"] is None
