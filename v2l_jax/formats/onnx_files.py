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

import numpy as np

from v2l_jax.errors import CheckpointError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8"}
_EXTERNAL = 1


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
            return _graph(memoryview(bytes(graphs[-1])))
    except (ValueError, IndexError, TypeError, OSError, UnicodeDecodeError) as error:
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
    texts = lambda wanted: tuple(bytes(v).decode() for number, v in found if number == wanted)
    return Node("".join(texts(4)), "".join(texts(3)), texts(1), texts(2))


def _tensor(message: memoryview) -> tuple[str, np.ndarray]:
    dims: list[int] = []
    kind, name, content = 0, "", None
    for number, value in _fields(message):
        if number == 1:
            dims += [value] if isinstance(value, int) else list(_varints(value))
        elif number == 2:
            kind = value
        elif number == 8:
            name = bytes(value).decode()
        elif number in (4, 9, 10):
            content = value
        elif number in (5, 7):
            content = np.asarray(list(_varints(value)), np.int64).astype(_TYPES[kind]).tobytes()
        elif number == 14 and value == _EXTERNAL:
            raise ValueError(f"tensor {name!r} lies in another file")
    if kind not in _TYPES:
        raise ValueError(f"tensor {name!r} is of type {kind}, which is not known")
    array = np.frombuffer(bytes(content or b""), np.dtype(_TYPES[kind]))
    if array.size != math.prod(dims):
        raise ValueError(f"tensor {name!r} has {array.size} values, but its shape is {dims}")
    return name, array.reshape(dims)


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
        if place + length > len(view):
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
        if byte < 128:
            return value - (1 << 64) * (value >> 63), place
