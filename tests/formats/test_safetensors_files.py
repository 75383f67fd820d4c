"""safetensors reading, against the library's own writer and torch."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from v2l_jax.errors import AssetError
from v2l_jax.formats.safetensors_files import read_safetensors


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "f32": rng.normal(size=(3, 4)).astype(np.float32),
        "bf16": rng.normal(size=(5,)).astype(ml_dtypes.bfloat16),
        "i64": np.arange(6).reshape(2, 3),
        "scalar": np.array(2.5, np.float32),
    }


def assert_same(read, arrays):
    assert set(read) == set(arrays) and len(read) == len(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_single_file_and_directory(tmp_path, arrays):
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors")
    assert_same(read_safetensors(tmp_path / "model.safetensors"), arrays)
    assert_same(read_safetensors(tmp_path), arrays)


def test_written_by_torch(torch, tmp_path):
    from safetensors.torch import save_file

    tensors = {
        "b": torch.randn(4, 2).to(torch.bfloat16),
        "h": torch.randn(3).half(),
        "flag": torch.tensor([True]),
    }
    save_file(tensors, tmp_path / "t.safetensors")
    read = read_safetensors(tmp_path / "t.safetensors")
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name].astype(np.float32), tensor.float().numpy())
    assert read["b"].dtype == ml_dtypes.bfloat16


def test_sharded(tmp_path, arrays):
    names = list(arrays)
    shards = {
        "model-00001-of-00002.safetensors": names[:2],
        "model-00002-of-00002.safetensors": names[2:],
    }
    for shard, members in shards.items():
        safetensors.numpy.save_file({n: arrays[n] for n in members}, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": {n: shard for shard, members in shards.items() for n in members}})
    )
    assert_same(read_safetensors(tmp_path), arrays)
    assert_same(read_safetensors(index), arrays)

    index.write_text(json.dumps({"weight_map": {"f32": "model-00002-of-00002.safetensors"}}))
    with pytest.raises(AssetError, match="f32 is not in"):
        read_safetensors(tmp_path)
    index.write_text(json.dumps({"weight_map": {"f32": "../elsewhere.safetensors"}}))
    with pytest.raises(AssetError, match="outside"):
        read_safetensors(tmp_path)
    index.write_text(json.dumps({"weight_map": {"f32": "absent.safetensors"}}))
    with pytest.raises(AssetError, match="absent.safetensors"):
        read_safetensors(tmp_path)
    index.write_text('{"weight_map": [')
    with pytest.raises(AssetError, match="index"):
        read_safetensors(tmp_path)


def header(entries):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 20) + b"{}",
        header({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
        header({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 8]}}) + bytes(8),
        header({n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"})
        + bytes(8),
    ],
    ids=["empty", "short", "huge header", "long header", "no data", "huge tensor", "overlapping"],
)
def test_broken_files_are_named(tmp_path, content):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(AssetError, match=r"broken\.safetensors"):
        read_safetensors(path)


def test_ambiguous_or_empty_directory(tmp_path):
    with pytest.raises(AssetError, match="no safetensors"):
        read_safetensors(tmp_path)
    for name in "ab":
        safetensors.numpy.save_file({"x": np.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(AssetError, match="2 safetensors"):
        read_safetensors(tmp_path)


def test_an_index_with_half_a_character_is_one_line(tmp_path):
    """Found by `make fuzz`: UnicodeEncodeError."""
    index = tmp_path / "m.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "s\\ud800.safetensors"}}')
    with pytest.raises(AssetError, match="holds half a character"):
        read_safetensors(index)
