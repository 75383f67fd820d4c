"""ONNX files: tensors and operations, from messages encoded here by hand."""

import numpy as np
import pytest

from v2l_jax.errors import CheckpointError
from v2l_jax.formats.onnx_files import read_onnx


def _varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _number(field, value):
    return _varint(field << 3) + _varint(value)


def _bytes(field, content):
    content = content.encode() if isinstance(content, str) else content
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _tensor(name, array, kind, where=9):
    packed = _bytes(1, b"".join(map(_varint, array.shape)))
    return packed + _number(2, kind) + _bytes(8, name) + _bytes(where, array.tobytes())


def _model(*graph):
    producer = _number(1, 8) + _bytes(2, "test")
    return producer + _bytes(7, b"".join(graph))


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
        (_model(_bytes(5, _tensor("w", WEIGHT, 16))), "type 16"),
        (_model(_bytes(5, _tensor("w", WEIGHT, 11))), "its shape is"),
        (_model(_bytes(5, _tensor("w", WEIGHT, 1) + _number(14, 1))), "'w' lies in another file"),
    ],
)
def test_other_files_are_refused_in_a_line(tmp_path, content, why):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match=why):
        read_onnx(tmp_path / "m.onnx")
