"""ONNX files written by hand: protocol buffers of a few tensors and operations."""

import numpy as np

DATA_TYPES = {"float32": 1, "float16": 10, "int64": 7}


def varint(value: int) -> bytes:
    """A number of any length."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    """A field that holds a number."""
    return varint(field << 3) + varint(value)


def content(field: int, given: bytes | str) -> bytes:
    """A field that holds bytes, a text or another message."""
    given = given.encode() if isinstance(given, str) else given
    return varint(field << 3 | 2) + varint(len(given)) + given


def tensor(name: str, array: np.ndarray, kind: int, where: int = 9) -> bytes:
    """A TensorProto; 9 is raw_data, 4 float_data."""
    packed = content(1, b"".join(map(varint, array.shape)))
    return packed + number(2, kind) + content(8, name) + content(where, array.tobytes())


def node(operation: str, name: str, *inputs: str) -> bytes:
    """A NodeProto."""
    read = b"".join(content(1, given) for given in inputs)
    return read + content(2, "y") + content(3, name) + content(4, operation)


def model(*graph: bytes) -> bytes:
    """A ModelProto of a graph's fields."""
    return number(1, 8) + content(2, "test") + content(7, b"".join(graph))


def dinov2(tensors: dict[str, np.ndarray]) -> bytes:
    """An export of a DINOv2 as transformers' names and Optimum's numbers make it.

    Args:
      tensors: by Hugging Face's names, as `tiny_vit.write_dinov2` returns them.
    """
    graph, count = [], 0
    for name, array in tensors.items():
        if name.startswith("pooler"):
            continue
        module = "backbone." + name.removesuffix(".weight")
        if name == "embeddings.position_embeddings":
            for operation, part in (("Concat", array[:, :1]), ("Reshape", array[:, 1:])):
                numbered = f"onnx::{operation}_{(count := count + 1)}"
                graph.append(content(5, tensor(numbered, part, 1)))
                graph.append(
                    content(1, node(operation, f"/backbone/embeddings/{operation}", numbered))
                )
        elif array.ndim == 2:
            numbered = f"onnx::MatMul_{(count := count + 1)}"
            path = "/" + module.replace(".", "/") + "/MatMul"
            graph.append(content(5, tensor(numbered, np.ascontiguousarray(array.T), 1)))
            graph.append(content(1, node("MatMul", path, "x", numbered)))
        else:
            graph.append(content(5, tensor(f"backbone.{name}", array, 1)))
    return model(*graph)
