"""numpy's files: read as numpy does, damage in one line, nothing unpickled, no room for claims."""

import numpy as np
import pytest

from v2l_jax.errors import DataError, V2LError
from v2l_jax.formats.numpy_files import read_npy, read_npz

ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_arrays_come_back(tmp_path):
    for dtype in ("<f4", ">i2", "<U5", "?"):
        np.save(tmp_path / "a.npy", ARRAY.astype(dtype))
        read = read_npy(tmp_path / "a.npy")
        assert read.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(read, ARRAY.astype(dtype))
    np.save(tmp_path / "f.npy", np.asfortranarray(ARRAY))
    mapped = read_npy(tmp_path / "f.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, ARRAY)
    np.savez(tmp_path / "a.npz", a=ARRAY, b=np.zeros(0))
    assert read_npz(tmp_path / "a.npz").keys() == {"a", "b"}


def _claiming(count):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count},), }}"
    padded = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode()


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "no array of numpy"),
        (b"\x93NUMPY", "EOF"),
        (_claiming(1 << 40), "claims 1,099,511,627,776 numbers"),
        (_claiming(-3), "claims"),
        (_claiming(4), "could only read 0 elements"),
        (b"x" * 300, "no array of numpy"),
    ],
)
def test_damage_is_one_line(tmp_path, content, reason):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match=f"a.npy is damaged.*{reason}.*; gone"):
        read_npy(tmp_path / "a.npy", DataError, "gone")


@pytest.mark.parametrize("code", [0x110000, 0xD83D])
def test_texts_of_what_is_no_character_are_damage(tmp_path, code):
    """Found by `make fuzz`: a SystemError of Python where such a text was looked at."""
    np.save(tmp_path / "t.npy", np.array(["cat"]))
    content = (tmp_path / "t.npy").read_bytes()
    (tmp_path / "t.npy").write_bytes(content.replace(b"a\0\0\0", code.to_bytes(4, "little")))
    with pytest.raises(V2LError, match="no characters"):
        read_npy(tmp_path / "t.npy")


def test_objects_are_not_unpickled(tmp_path):
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "o.npz", o=np.array([{"a": 1}], dtype=object))
    with pytest.raises(V2LError, match="Python objects"):
        read_npy(tmp_path / "o.npy")
    with pytest.raises(V2LError, match="Python objects"):
        read_npz(tmp_path / "o.npz")


def test_what_is_not_there_or_of_the_other_kind(tmp_path):
    np.save(tmp_path / "a.npy", ARRAY)
    np.savez(tmp_path / "a.npz", a=ARRAY)
    with pytest.raises(V2LError, match="no such file"):
        read_npy(tmp_path / "b.npy")
    with pytest.raises(V2LError, match="several arrays where one belongs"):
        read_npy(tmp_path / "a.npz")
    with pytest.raises(V2LError, match="one array where several belong"):
        read_npz(tmp_path / "a.npy")
