"""Shards: the same arrays from any number of processes, resumed at the shard, mended if damaged."""

import logging
import pickle

import jax
import numpy as np
import pytest

from v2l_jax.data.sources import SyntheticSource, WithVectors
from v2l_jax.run import shards as shards_module
from v2l_jax.run.shards import Shards, concatenated, joined, save_rows

COUNT, ROWS = 23, 5
WHOLE = np.random.default_rng(0).standard_normal((COUNT, 3)).astype(np.float32)


class Making:
    """Makes rows of WHOLE, counts the shards made, and dies after `lives` of them."""

    def __init__(self, lives=99):
        self.made, self._lives = [], lives

    def __call__(self, start, stop):
        if len(self.made) == self._lives:
            raise KeyboardInterrupt
        self.made.append(start)
        return {"vectors": WHOLE[start:stop], "labels": np.arange(start, stop)}


def test_a_killed_run_goes_on_at_the_shard(tmp_path):
    first, second = Making(lives=2), Making()
    with pytest.raises(KeyboardInterrupt):
        Shards(tmp_path / "a", COUNT, ROWS, first).fill()
    found = concatenated(Shards(tmp_path / "a", COUNT, ROWS, second))
    assert first.made == [0, 5] and second.made == [10, 15, 20]
    np.testing.assert_array_equal(found["vectors"], WHOLE)
    np.testing.assert_array_equal(found["labels"], np.arange(COUNT))


@pytest.mark.parametrize(
    "damage", [lambda path: path.write_bytes(path.read_bytes()[:90]), lambda path: path.unlink()]
)
def test_one_bad_shard_is_named_and_made_again(tmp_path, caplog, damage):
    making = Making()
    shards = Shards(tmp_path / "a", COUNT, ROWS, making)
    shards.fill()
    bad = sorted((tmp_path / "a").iterdir())[2]
    damage(bad)
    with caplog.at_level(logging.WARNING, "absl"):
        np.testing.assert_array_equal(joined(shards)["vectors"], WHOLE)
    assert making.made[-1] == 10 and len(making.made) == 6
    assert str(bad) in caplog.text and "made anew" in caplog.text


def test_a_shard_of_another_length_is_bad(tmp_path):
    making = Making()
    shards = Shards(tmp_path / "a", COUNT, ROWS, making)
    shards.fill()
    with open(sorted((tmp_path / "a").iterdir())[0], "wb") as file:
        np.savez(file, vectors=WHOLE[:4], labels=np.arange(4))
    np.testing.assert_array_equal(joined(shards)["vectors"], WHOLE)
    assert making.made[-1] == 0


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_make_their_own_shards_and_the_same_file(tmp_path, monkeypatch, processes):
    makings = []
    monkeypatch.setattr(shards_module, "barrier", lambda name: None)
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    for process in reversed(range(processes)):  # the first one last: it writes the file
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        makings.append(Making())
        shards = Shards(tmp_path / "a", COUNT, ROWS, makings[-1], together=True)
        shards.fill()
        shards_module.barrier("all")
        if process:
            shards.remove()  # only the first removes
    save_rows(tmp_path / "whole.npy", shards, "vectors")
    shards.remove()
    assert sorted(sum((making.made for making in makings), [])) == [0, 5, 10, 15, 20]
    assert max(len(making.made) for making in makings) == -(-5 // processes)
    np.testing.assert_array_equal(np.load(tmp_path / "whole.npy"), WHOLE)
    assert not (tmp_path / "a").exists()


def test_workers_get_the_name_of_a_file_of_vectors(tmp_path):
    np.save(tmp_path / "v.npy", np.zeros((1000, 256), np.float32))
    source = SyntheticSource(1000, 8)
    on_disk = WithVectors(source, np.load(tmp_path / "v.npy", mmap_mode="r"))
    assert (
        len(pickle.dumps(on_disk))
        < 20_000
        < len(pickle.dumps(WithVectors(source, np.ones((1000, 256), np.float32))))
    )
    part = np.load(tmp_path / "v.npy", mmap_mode="r")[:10]
    for whole in (on_disk, WithVectors(SyntheticSource(10, 8), part)):
        again = pickle.loads(pickle.dumps(whole))
        assert len(again) == len(whole)
        np.testing.assert_array_equal(again[3]["image_embedding"], whole[3]["image_embedding"])
