"""The loader's order is one order, whoever reads it and wherever it was interrupted."""

import itertools
import logging
import multiprocessing
import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from v2l_jax.data import loader, sources, transforms
from v2l_jax.data.loader import make_loader
from v2l_jax.data.sources import SyntheticSource
from v2l_jax.errors import DataError


class Numbers:
    """Record i holds i; CorruptImageError for the indices in `broken`."""

    class_names = ("number",)

    def __init__(self, length, broken=()):
        self._length, self._broken = length, broken

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        if index in self._broken:
            raise sources.CorruptImageError(f"{index}.jpg", "cut short")
        return {
            "image": np.full((2, 2, 3), index, np.uint8),
            "label": index,
            "path": f"{index}.jpg",
        }


def with_noise(record, rng):
    return {"label": np.int32(record["label"]), "noise": rng.random()}


def labels(batches):
    return [np.asarray(batch["label"]).tolist() for batch in batches]


def test_an_epoch_sees_every_record_once_in_a_new_order():
    order = np.concatenate(
        labels(make_loader(Numbers(12), with_noise, 4, seed=0, num_epochs=3))
    ).reshape(3, 12)
    assert all(sorted(epoch) == list(range(12)) for epoch in order)
    assert len({tuple(epoch) for epoch in order}) == 3 and (order[0] != np.arange(12)).any()


def test_order_is_a_function_of_the_seed():
    first, again, other = (
        labels(make_loader(Numbers(50), with_noise, 10, seed=s, num_epochs=1)) for s in (1, 1, 2)
    )
    assert first == again != other
    plain = labels(make_loader(Numbers(8), with_noise, 4, seed=1, shuffle=False, num_epochs=1))
    assert plain == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_together_read_the_same_batches(process_count):
    def read(**where):
        batches = list(make_loader(Numbers(22), with_noise, 8, seed=3, num_epochs=3, **where))
        return np.stack([b["label"] for b in batches]), np.stack([b["noise"] for b in batches])

    whole_labels, whole_noise = read()
    parts = [read(rows=rows) for rows in np.split(np.arange(8), process_count)]
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts], axis=1), whole_labels)
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts], axis=1), whole_noise)


def test_transforms_draw_anew_each_epoch():
    batches = list(make_loader(Numbers(5), with_noise, 5, seed=0, num_epochs=2))
    assert len(np.unique(np.concatenate([b["noise"] for b in batches]))) == 10


@pytest.mark.parametrize("stop", [0, 1, 3, 7])
def test_resume_from_any_batch_equals_an_uninterrupted_run(stop):
    def fresh():
        return make_loader(Numbers(13), with_noise, 4, seed=5, num_epochs=None)

    whole = list(itertools.islice(fresh(), 12))
    interrupted = fresh()
    list(itertools.islice(interrupted, stop))
    resumed = fresh()
    list(itertools.islice(resumed, 2))  # a position that set_state must override
    resumed.set_state(interrupted.get_state())
    assert resumed.get_state() == {"records": 4 * stop}
    for batch, expected in zip(itertools.islice(resumed, 12 - stop), whole[stop:], strict=True):
        np.testing.assert_array_equal(batch["label"], expected["label"])
        np.testing.assert_array_equal(batch["noise"], expected["noise"])


def test_resume_with_another_number_of_processes():
    one = make_loader(Numbers(16), with_noise, 4, seed=0, num_epochs=2)
    expected = np.stack(labels(one))[3:]
    stopped = make_loader(Numbers(16), with_noise, 4, seed=0, num_epochs=2, rows=(2, 3))
    list(itertools.islice(stopped, 3))
    parts = []
    for i in range(4):
        part = make_loader(Numbers(16), with_noise, 4, seed=0, num_epochs=2, rows=[i])
        part.set_state(stopped.get_state())
        parts.append(np.stack(labels(part)))
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), expected)


def test_a_position_inside_a_batch_is_refused():
    reader = make_loader(Numbers(16), with_noise, 4, seed=0)
    with pytest.raises(DataError, match="6 records were read, which is no multiple of batch 4"):
        reader.set_state({"records": 6})


def test_last_batch():
    kept = make_loader(Numbers(10), with_noise, 4, seed=0, num_epochs=1, drop_remainder=False)
    assert kept.num_batches == 3 and [len(rows) for rows in labels(kept)] == [4, 4, 2]
    dropped = make_loader(Numbers(10), with_noise, 4, seed=0, num_epochs=1)
    assert dropped.num_batches == 2 and [len(rows) for rows in labels(dropped)] == [4, 4]
    assert make_loader(Numbers(1), with_noise, 4, seed=0).num_batches is None


def test_sizes_that_do_not_fit():
    with pytest.raises(DataError, match="3 records do not fill one batch of 4"):
        make_loader(Numbers(3), with_noise, 4, seed=0, num_epochs=1)
    with pytest.raises(DataError, match="0 records"):
        make_loader(Numbers(0), with_noise, 4, seed=0)
    with pytest.raises(DataError, match="cannot be shared among processes"):
        make_loader(Numbers(9), with_noise, 4, seed=0, rows=[0, 1], drop_remainder=False)


def test_corrupt_images_met_while_reading_are_replaced_counted_and_named(caplog):
    def read():
        reader = make_loader(Numbers(6, broken={2, 3}), with_noise, 3, seed=0, num_epochs=2)
        return labels(reader), reader.replaced

    with caplog.at_level(logging.WARNING, logger="absl"):
        rows, replaced = read()
    assert sorted(np.concatenate(rows)) == sorted([0, 1, 4, 4, 4, 5] * 2)
    assert replaced == {"2.jpg": 2, "3.jpg": 4}  # record 2 falls on 3, which is corrupt too
    assert sum("corrupt image 2.jpg" in r.getMessage() for r in caplog.records) == 1
    assert read() == (rows, replaced)
    with pytest.raises(DataError, match="none of the 2 images can be read"):
        next(make_loader(Numbers(2, broken={0, 1}), with_noise, 2, seed=0))


def test_worker_processes_read_the_same_batches(tmp_path):
    for i in range(7):
        Image.new("RGB", (20 + i, 16), (30 * i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes(b"broken")
    source = sources.ImageFolder(tmp_path, verify=False)
    transform = transforms.ImageTransform(8, crop_size=16, crop_scale=(0.5, 1.0), flip=True)

    def read(workers):
        reader = make_loader(source, transform, 2, seed=0, num_epochs=2, workers=workers)
        reader.set_state({"records": 4})
        batches = [batch["image"].copy() for batch in reader]
        return np.stack(batches), reader.replaced

    in_process, replaced = read(0)
    in_workers, replaced_in_workers = read(2)
    np.testing.assert_array_equal(in_workers, in_process)
    assert in_process.shape == (5, 2, 8, 8, 3) and in_process.dtype == np.float32
    assert replaced == replaced_in_workers and set(replaced) == {str(tmp_path / "3.png")}


def test_records_as_they_are():
    batch = next(make_loader(sources.SyntheticSource(4, 8), None, 2, seed=0, shuffle=False))
    assert batch["image"].shape == (2, 8, 8, 3) and batch["path"].tolist() == [
        "synthetic/0",
        "synthetic/1",
    ]
    assert loader._REPLACED not in batch


@pytest.mark.processes
def test_a_worker_that_dies_is_one_line_with_its_host():
    reader = make_loader(SyntheticSource(1000, 8), None, 4, seed=0, workers=2)
    next(reader)
    worker = multiprocessing.active_children()[0]
    worker.kill()
    where = f"process 0 on {socket.gethostname()}"
    with pytest.raises(DataError, match=f"a data worker of {where} was killed by SIGKILL"):
        for _ in range(5000):
            next(reader)


_DIES = """
import multiprocessing, os, signal
from v2l_jax.data.loader import make_loader
from v2l_jax.data.sources import SyntheticSource
from v2l_jax.data.sources import SyntheticSource

if __name__ == "__main__":
    next(reader := make_loader(SyntheticSource(1000, 8), None, 4, seed=0, workers=2))
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.processes
def test_no_worker_outlives_its_parent(tmp_path):
    (tmp_path / "dies.py").write_text(_DIES)
    root = pathlib.Path(__file__).parents[2]
    with (tmp_path / "out").open("wb") as out:  # a pipe would wait for the workers too
        subprocess.run(
            [sys.executable, tmp_path / "dies.py"],
            env=os.environ | {"PYTHONPATH": str(root)},
            stdout=out,
            check=False,
            timeout=120,
        )
    workers = [int(pid) for pid in (tmp_path / "out").read_text().split()]
    deadline = time.monotonic() + 20
    while alive := [pid for pid in workers if pathlib.Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)
    assert len(workers) == 2
