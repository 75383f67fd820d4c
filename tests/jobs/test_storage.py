"""A disk that is full, read-only or over its quota is one line, whichever library met it."""

import errno
import json
import os
import pathlib

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from v2l_jax.atomic_write import atomic_write
from v2l_jax.errors import DataError, V2LError
from v2l_jax.jobs.runner import storage_failures

FULL = pathlib.Path("/dev/full")  # every write fails as on a full disk
ARRAY = np.zeros(100_000, np.float32)


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "write",
    [
        lambda: FULL.write_text(json.dumps({"a": "b" * 10_000})),
        lambda: np.save(open(FULL, "wb"), ARRAY),
        lambda: np.savez(open(FULL, "wb"), a=ARRAY),
        lambda: FULL.write_bytes(safetensors.numpy.save({"a": ARRAY})),
        lambda: Image.new("RGB", (400, 400)).save(open(FULL, "wb"), "BMP"),
    ],
    ids=["text", "npy", "npz", "safetensors", "picture"],
)
def test_a_full_disk_is_one_line(write, tmp_path):
    with pytest.raises(V2LError, match="No space left on device; what was there before is whole"):
        with storage_failures(tmp_path):
            write()


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EROFS", "EFBIG", "EIO", "ESTALE"])
def test_what_storage_can_meet_is_named_with_its_file(code, tmp_path):
    number = getattr(errno, code)
    with pytest.raises(V2LError, match=f"cannot write a.npy: {os.strerror(number)}"):
        with storage_failures(tmp_path):
            raise OSError(number, os.strerror(number), "a.npy")
    with pytest.raises(V2LError, match=os.strerror(number)):
        with storage_failures(tmp_path):
            raise RuntimeError(f"I/O error: {os.strerror(number)} (os error {number})")


@pytest.mark.parametrize(
    "error", [KeyError("x"), FileNotFoundError(2, "No such file"), DataError("d")]
)
def test_other_errors_stay_what_they_are(error, tmp_path):
    with pytest.raises(type(error)) as caught:
        with storage_failures(tmp_path):
            raise error
    assert caught.value is error


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("before")
    with pytest.raises(OSError):
        with atomic_write(path) as draft:
            draft.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
