"""ONNX files: tensors and operations, from messages encoded here by hand."""

import numpy as np
import pytest

from tests.tiny_onnx import content as _bytes
from tests.tiny_onnx import model as _model
from tests.tiny_onnx import number as _number
from tests.tiny_onnx import tensor as _tensor
from tests.tiny_onnx import varint as _varint
from v2l_jax.errors import CheckpointError
from v2l_jax.formats.onnx_files import read_onnx

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)
HALF = np.asarray([1.5, -2], np.float16)
LONG = np.asarray([-1, 7], np.int64)
NODE = _bytes(1, "x") + _bytes(1, "onnx::MatMul_1") + _bytes(2, "y") + _bytes(3, "/a/MatMul")


def test_tensors_and_operations(tmp_path):
    unpacked = _number(1, 2) + _number(2, 7) + _bytes(8, "b") + _number(14, 0)
    content = _model(
        _bytes(5, _tensor("onnx::MatMul_1", WEIGHT, 1)),
        _bytes(5, _tensor("w", WEIGHT, 1, where=4)),
        _bytes(5, _tensor("half", HALF, 10)),
        _bytes(5, unpacked + _bytes(7, b"".join(_varint(int(v)) for v in LONG))),
        _bytes(1, NODE + _bytes(4, "MatMul")),
    )
    (tmp_path / "m.onnx").write_bytes(content)
    graph = read_onnx(tmp_path / "m.onnx")
    expected = {"onnx::MatMul_1": WEIGHT, "w": WEIGHT, "half": HALF, "b": LONG}
    assert graph.tensors.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(graph.tensors[name], array)
        assert graph.tensors[name].dtype == array.dtype
    (node,) = graph.nodes
    assert (node.operation, node.name) == ("MatMul", "/a/MatMul")
    assert (node.inputs, node.outputs) == (("x", "onnx::MatMul_1"), ("y",))


@pytest.mark.parametrize(
    "content, why",
    [
        (b"", "not a readable"),
        (b"hello, this is text", "not a readable"),
        (_number(1, 8), "no graph"),
        (_model(_bytes(5, _tensor("w", WEIGHT, 1)))[:-3], "cut off"),
        (_model(_bytes(5, _tensor("w", WEIGHT, 20))), "type 20"),
        (_model(_bytes(5, _tensor("w", WEIGHT, 11))), "its shape is"),
        (_model(_bytes(5, _tensor("w", WEIGHT, 1) + _number(14, 1))), "'w' lies in another file"),
    ],
)
def test_other_files_are_refused_in_a_line(tmp_path, content, why):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match=why):
        read_onnx(tmp_path / "m.onnx")


def test_half_types_in_a_list_of_integers_are_bit_patterns(tmp_path):
    """onnx.proto, int32_data: float16 values are stored as the uint16 of their bits."""
    bits = b"".join(_varint(int(v)) for v in HALF.view(np.uint16))
    packed = _bytes(1, _varint(2)) + _number(2, 10) + _bytes(8, "half") + _bytes(5, bits)
    one_by_one = _bytes(1, _varint(2)) + _number(2, 16) + _bytes(8, "bf16")
    one_by_one += _number(5, 0x3F80) + _number(5, 0xC000)
    (tmp_path / "m.onnx").write_bytes(_model(_bytes(5, packed), _bytes(5, one_by_one)))
    read = read_onnx(tmp_path / "m.onnx").tensors
    np.testing.assert_array_equal(read["half"], HALF)
    np.testing.assert_array_equal(read["bf16"].astype(np.float32), [1.0, -2.0])


@pytest.mark.parametrize(
    "content",
    [
        _varint(7 << 3 | 2) + _varint(-5),
        b"\x80" * 100_000,
        _model(_number(5, 1 << 40)),
        _model(_bytes(5, _number(9, 1 << 40) + _number(2, 1))),
        _model(_bytes(5, _number(2, 77) + _bytes(5, b"\1"))),
        _model(_bytes(5, _tensor("w", WEIGHT, 1) + _number(1, -1) + _number(1, -1))),
    ],
    ids=["length below 0", "endless number", "tensor", "content", "unknown type", "shape below 0"],
)
def test_hostile_numbers_end_in_a_line(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a readable ONNX model"):
        read_onnx(tmp_path / "m.onnx")
