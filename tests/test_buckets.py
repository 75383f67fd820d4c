"""Folders of a bucket against a server of that protocol: files, locks, weights, checkpoints, and
jobs that are killed in the middle.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests import synthetic_config
from tests.gcs_server import BUCKET, serving
from v2l_jax import buckets
from v2l_jax.assets import fetch
from v2l_jax.atomic_write import atomic_write
from v2l_jax.data.sources import TfdsSource
from v2l_jax.errors import AssetError, CheckpointError, ConfigError, V2LError
from v2l_jax.jobs import identity
from v2l_jax.training.checkpoints import Checkpointer

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """What processes need to see the server; this one sees it too."""
    before = dict(os.environ)
    with serving(tmp_path_factory.mktemp("server") / "log") as environment:
        import fsspec.config

        os.environ.update(environment)
        fsspec.config.conf.setdefault("gs", {})["token"] = "anon"
        yield environment
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def store(server):
    """The server's objects by name."""
    import fsspec

    return fsspec.filesystem("gs")


def names(store, folder):
    store.invalidate_cache()
    return sorted(
        path.removeprefix(f"{BUCKET}/{folder}/") for path in store.find(f"{BUCKET}/{folder}")
    )


def test_each_write_is_published_whole_after_what_was_written_before(store):
    with buckets.opened(f"gs://{BUCKET}/a") as home:
        (home / "pictures").mkdir()
        (home / "pictures" / "1.png").write_bytes(b"first")
        (home / ".draft").write_bytes(b"never")
        with atomic_write(home / "results.json") as draft:
            draft.write_text("[]")
            assert names(store, "a") == []
        assert names(store, "a") == ["pictures/1.png", "results.json"]
        (home / "results.json").unlink()
        (home / "late.txt").write_text("late")
        assert buckets.shown(home / "x") == f"gs://{BUCKET}/a/x"
        assert buckets.shown(home) == f"gs://{BUCKET}/a"
        with pytest.raises(KeyError):
            with atomic_write(home / "late.txt"):
                raise KeyError
    assert names(store, "a") == ["late.txt", "pictures/1.png"] and not home.exists()
    with buckets.opened(f"gs://{BUCKET}/a/") as home:
        assert (home / "pictures" / "1.png").read_bytes() == b"first"
        store.pipe_file(f"{BUCKET}/a/late.txt", b"of another process")
        store.rm_file(f"{BUCKET}/a/pictures/1.png")
        buckets.pull()
        assert (home / "late.txt").read_text() == "of another process"
        assert not (home / "pictures" / "1.png").exists()


def test_a_second_run_is_refused_and_a_dead_one_is_not_waited_for(store, monkeypatch):
    monkeypatch.setattr(buckets, "LEASE_SECONDS", 1.0)
    lock, place = f"{BUCKET}/b/.lock", f"gs://{BUCKET}/b"
    with buckets.opened(place) as home, buckets.locked(home):
        with pytest.raises(V2LError, match=rf"another run is writing into {place} \(process \d+"):
            with buckets.opened(place) as other, buckets.locked(other):
                pass
    assert names(store, "b") == []
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = buckets.socket.gethostname()
    for host, seconds in ((here, 0.0), ("another", 1.0)):  # that renews nothing
        store.pipe_file(lock, f'{{"process": {gone.pid}, "host": "{host}"}}'.encode())
        began = time.monotonic()
        with buckets.opened(place) as home, buckets.locked(home):
            assert time.monotonic() - began >= seconds
    assert names(store, "b") == []


def test_weights_and_data_come_from_a_bucket_once_for_each_state(store, tmp_path):
    store.pipe({f"{BUCKET}/w/m/config.json": b"{}", f"{BUCKET}/w/m/sub/x.bin": b"x" * 1000})
    folder = fetch.fetch(f"gs://{BUCKET}/w/m", tmp_path)
    assert folder.name == "m" and (folder / "sub" / "x.bin").read_bytes() == b"x" * 1000
    assert fetch.fetch(f"gs://{BUCKET}/w/m/config.json", tmp_path).read_bytes() == b"{}"
    (folder / "config.json").write_text("kept")
    assert fetch.fetch(f"gs://{BUCKET}/w/m/", tmp_path) == folder
    first = dict(identity._files({"llm": f"gs://{BUCKET}/w/m"}))
    store.pipe_file(f"{BUCKET}/w/m/config.json", b"[]")
    identity._bucket_digest.cache_clear()
    assert dict(identity._files({"llm": f"gs://{BUCKET}/w/m"})) != first
    assert (fetch.fetch(f"gs://{BUCKET}/w/m", tmp_path) / "config.json").read_bytes() == b"[]"
    for address in (f"gs://{BUCKET}/none", "gs://no-such-bucket/x"):
        with pytest.raises(V2LError, match=f"cannot read {address}: there is no such object"):
            fetch.fetch(address, tmp_path)
    with pytest.raises(ConfigError, match="hdfs://a/b is no address .* known: gs://, s3://"):
        fetch.fetch("hdfs://a/b", tmp_path)
    with pytest.raises(AssetError, match="neither an asset nor an existing path"):
        fetch.fetch(str(tmp_path / "none"), tmp_path)


def test_a_bucket_that_cannot_be_written_is_one_line(server):
    with pytest.raises(V2LError, match="cannot write gs://no-such-bucket/x") as caught:
        with buckets.opened("gs://no-such-bucket/x") as home:
            (home / "a").write_text("a")
    assert "\n" not in str(caught.value)


def test_tfds_data_lie_in_a_bucket(store, tmp_path, monkeypatch):
    from tests.tiny_tfds import write_pets

    photos = [np.full((8, 8, 3), 9 * i, np.uint8) for i in range(4)]
    write_pets(tmp_path, {"train": photos}, monkeypatch)
    for path in filter(pathlib.Path.is_file, tmp_path.rglob("*")):
        store.pipe_file(f"{BUCKET}/tfds/{path.relative_to(tmp_path)}", path.read_bytes())
    source = TfdsSource("tiny_pets", "train", f"gs://{BUCKET}/tfds")
    assert len(source) == 4 and source.labels.tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(source[3]["image"], photos[3])


def test_checkpoints_are_written_into_the_bucket_and_checked_there(store):
    state = {"a": np.arange(6.0, dtype=np.float32).reshape(2, 3)}
    with buckets.opened(f"gs://{BUCKET}/c") as home:
        with Checkpointer(home / buckets.CHECKPOINTS, keep_last=2) as checkpoints:
            for step in (1, 2, 3):
                checkpoints.save(step, {"a": state["a"] * step}, metrics={"psnr": float(step)})
        assert not list(home.iterdir())
    with buckets.opened(f"gs://{BUCKET}/c") as home:
        with Checkpointer(home / buckets.CHECKPOINTS) as checkpoints:
            assert checkpoints.steps() == [2, 3]
            found = checkpoints.restore(state)
            assert found.step == 3 and found.metrics == {"psnr": 3.0}
            np.testing.assert_array_equal(found.state["a"], state["a"] * 3)
            damaged = next(n for n in names(store, "c/checkpoints/3") if "/d/" in n)
            store.pipe_file(f"{BUCKET}/c/checkpoints/3/{damaged}", b"damaged")
            assert checkpoints.restore(state).step == 2
            assert checkpoints.steps() == [2]
    with pytest.raises(CheckpointError, match=r"the path holds '\['"):
        with buckets.opened(f"gs://{BUCKET}/c [lr=1]") as home:
            Checkpointer(home / buckets.CHECKPOINTS)


def _checkpoints(store):
    return names(store, "run/checkpoints")


@pytest.mark.processes
def test_jobs_go_on_in_the_bucket_after_a_kill(server, store, tmp_path):
    """Training, then tokens: killed after the first checkpoint, a run ends as an uninterrupted one
    does, from what was left in the bucket alone.
    """
    flags = synthetic_config.fill(tmp_path / "run")
    flags = [flag for flag in flags if not flag.startswith("--workdir")]
    flags += [f"--workdir=gs://{BUCKET}/run", "--config.jobs=train,tokenize"]
    flags += ["--config.train.steps=60", "--config.train.checkpoint_every=20"]
    flags += ["--config.train.eval_every=100"]
    for folder in ("codebook", "features"):
        for path in (tmp_path / "run" / folder).iterdir():
            store.pipe_file(f"{BUCKET}/run/{folder}/{path.name}", path.read_bytes())

    def start():
        command = [sys.executable, "-m", "v2l_jax.main", *flags]
        return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)

    first, deadline = start(), time.monotonic() + 120
    while not any(re.fullmatch(r"\d+/commit_success.txt", n) for n in _checkpoints(store)):
        assert first.poll() is None and time.monotonic() < deadline, first.communicate()[1][-3000:]
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert f"{BUCKET}/run/.lock" in store.find(f"{BUCKET}/run")
    second = start()
    errors = second.communicate(timeout=120)[1]
    assert second.returncode == 0, errors[-3000:]
    assert "goes on from step" in errors
    there = names(store, "run")
    assert {"training.json", "tokens/train.npz", "metrics.jsonl", "config.json"} <= set(there)
    assert ".lock" not in there and not any("shards" in n for n in there)
    with buckets.opened(f"gs://{BUCKET}/run") as home:
        rows = [
            line for line in (home / "metrics.jsonl").read_text().splitlines() if "train" in line
        ]
        assert len(rows) == 60  # each step once
        assert len(np.load(home / "tokens" / "train.npz")["local_ids"]) == synthetic_config.IMAGES
