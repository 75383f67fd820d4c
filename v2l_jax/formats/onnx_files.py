"""Reads the weights of an ONNX file, without running or importing anything of ONNX.

The file is one protocol buffer: https://onnx.ai/onnx/repo-docs/IR.html names the messages, and
https://protobuf.dev/programming-guides/encoding says how fields are written.
"""

import dataclasses
import math
import mmap
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

from v2l_jax.errors import CheckpointError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8"}
_TYPES |= {4: "<u2", 5: "<i2", 12: "<u4", 13: "<u8", 16: ml_dtypes.bfloat16}
_BIT_PATTERNS = (10, 16)  # half types, whose bits stand in a list of integers
_EXTERNAL = 1
_LONGEST_VARINT = 70  # bits


@dataclasses.dataclass(frozen=True)
class Node:
    """An operation of the graph: which, and what it reads and writes by name."""

    operation: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class OnnxGraph:
    """What an ONNX file holds, as far as weights are concerned.

    Attributes:
      tensors: the initializers by name.
      nodes: the operations in order; exporters give weights of `x @ W` a number for a name, and
        only the operation that reads one tells which it is.
    """

    tensors: dict[str, np.ndarray]
    nodes: tuple[Node, ...]


def read_onnx(path: str | os.PathLike) -> OnnxGraph:
    """Reads initializers and operations.

    Raises:
      CheckpointError: the file is no ONNX model, is cut off, keeps its weights in other files, or
        has a tensor of an unknown type.
    """
    path = pathlib.Path(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            graphs = [value for number, value in _fields(whole[:]) if number == 7]
            if not graphs:
                raise ValueError("it has no graph")
            return _graph(memoryview(_content(graphs[-1])))
    except (
        ValueError, IndexError, KeyError, TypeError, ArithmeticError, MemoryError, OSError,
    ) as error:  # fmt: skip
        raise CheckpointError(f"{path} is not a readable ONNX model: {error}") from error


def _graph(message: memoryview) -> OnnxGraph:
    tensors, nodes = {}, []
    for number, value in _fields(message):
        if number == 5:
            name, tensor = _tensor(value)
            tensors[name] = tensor
        elif number == 1:
            nodes.append(_node(value))
    return OnnxGraph(tensors, tuple(nodes))


def _node(message: memoryview) -> Node:
    found = list(_fields(message))
    texts = lambda wanted: tuple(_content(v).decode() for number, v in found if number == wanted)
    return Node("".join(texts(4)), "".join(texts(3)), texts(1), texts(2))


def _tensor(message: memoryview) -> tuple[str, np.ndarray]:
    dims: list[int] = []
    kind, name, content = 0, "", b""
    integers: list[Any] = []
    for number, value in _fields(message):
        if number == 1:
            dims += [value] if isinstance(value, int) else list(_varints(value))
        elif number == 2:
            kind = value
        elif number == 8:
            name = _content(value).decode()
        elif number in (4, 9, 10):
            content = _content(value)
        elif number in (5, 7, 11):
            integers.append(value)
        elif number == 14 and value == _EXTERNAL:
            raise ValueError(f"tensor {name!r} lies in another file")
    if kind not in _TYPES:
        raise ValueError(f"tensor {name!r} is of type {kind}, which is not known")
    if integers:
        content = _of_integers(integers, kind)
    array = np.frombuffer(content, np.dtype(_TYPES[kind]))
    if min(dims, default=0) < 0 or array.size != math.prod(dims):
        raise ValueError(f"tensor {name!r} has {array.size} values, but its shape is {dims}")
    return name, array.reshape(dims)


def _of_integers(values: list[Any], kind: int) -> bytes:
    """The bytes of a tensor that is written as integers, packed or one by one."""
    unpacked = [
        one
        for v in values
        for one in ((v,) if isinstance(v, int) else _varints(memoryview(_content(v))))
    ]
    as_integers = np.asarray(unpacked, np.int64)
    if kind in _BIT_PATTERNS:
        return as_integers.astype(np.uint16).tobytes()
    return as_integers.astype(_TYPES[kind]).tobytes()


def _content(value: Any) -> bytes:
    """The bytes of a field, which a damaged file may give as a number."""
    if isinstance(value, int):
        raise ValueError("a number stands where bytes belong")
    return bytes(value)


def _fields(message: bytes | memoryview) -> Iterator[tuple[int, Any]]:
    """(number, value) of every field: an integer, or the bytes of what is longer."""
    view, place = memoryview(message), 0
    while place < len(view):
        key, place = _varint(view, place)
        kind = key & 7
        if kind == _VARINT:
            value, place = _varint(view, place)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            length, place = _varint(view, place)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"a field has the unknown wire type {kind}")
        if length < 0 or place + length > len(view):
            raise ValueError("it is cut off")
        yield key >> 3, view[place : place + length]
        place += length


def _varints(message: memoryview) -> Iterator[int]:
    place = 0
    while place < len(message):
        value, place = _varint(message, place)
        yield value


def _varint(view: memoryview, place: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = view[place]
        value, place, shift = value | (byte & 127) << shift, place + 1, shift + 7
        if shift > _LONGEST_VARINT:
            raise ValueError("a number of more than 64 bits")
        if byte < 128:
            return value - (1 << 64) * (value >> 63 & 1), place
