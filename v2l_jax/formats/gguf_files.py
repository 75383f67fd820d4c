"""GGUF files (llama.cpp's single-file format) → metadata and numpy arrays."""

import dataclasses
import functools
import pathlib
import struct
from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np
from gguf import quants

from v2l_jax.errors import AssetError
from v2l_jax.formats.lazy_arrays import LazyArrays

_MAX_ARRAY_LENGTH = 1 << 24  # the largest vocabularies have 2^18 tokens


@dataclasses.dataclass(frozen=True)
class Gguf:
    """What a GGUF file holds.

    Attributes:
      metadata: key → number, string, bool, or list of these; e.g. "llama.block_count",
        "tokenizer.ggml.tokens".
      tensors: llama.cpp name ("blk.0.attn_q.weight") → array in torch orientation (out, in);
        quantized and float tensors are float32, integer tensors keep their type. Dequantized each
        time they are asked for.
    """

    metadata: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]


def read_gguf(path: str | pathlib.Path) -> Gguf:
    """Opens a GGUF file; tensors are memory-mapped and dequantized on access.

    Every type of `gguf.quants` is read: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, the K and the
    IQ families. llama.cpp interleaves the rotary halves of q and k rows for the LLaMA architecture;
    they are returned as stored.

    Raises:
      AssetError: not a GGUF file, truncated, or inconsistent.
    """
    try:
        reader = _BoundedReader(path)
        metadata = {
            name: field.contents()
            for name, field in reader.fields.items()
            if not name.startswith("GGUF.")
        }
        _check_extents(reader)
    except FileNotFoundError as error:
        raise AssetError(f"{path}: no such file") from error
    except (
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        OverflowError,
        struct.error,
        OSError,
    ) as error:
        raise AssetError(
            f"{path} is not a readable GGUF file ({error}); download it again"
        ) from error
    return Gguf(
        metadata, LazyArrays({t.name: functools.partial(_dequantize, t) for t in reader.tensors})
    )


class _BoundedReader(gguf.GGUFReader):
    """The `gguf` package's reader with two corrections.

    The original does not notice reads past the end of the file, so that a hostile length makes it
    loop forever. It also makes several arrays for each entry of a metadata array, which takes
    seconds for a vocabulary.
    """

    def _get(self, offset, dtype, count=1, override_order=None):
        end = int(offset) + int(count) * np.dtype(dtype).itemsize
        if end > len(self.data):
            raise ValueError(f"truncated: {end:,} bytes expected, {len(self.data):,} there")
        return super()._get(offset, dtype, count, override_order)

    def _get_field_parts(self, orig_offs, raw_type):
        if raw_type != gguf.GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        kind = gguf.GGUFValueType(self._get(orig_offs, np.uint32)[0])
        length = int(self._get(orig_offs + 4, np.uint64)[0])
        if length > _MAX_ARRAY_LENGTH:
            raise ValueError(f"a metadata array claims {length:,} entries")
        start, types = orig_offs + 12, [gguf.GGUFValueType.ARRAY, kind]
        if kind in self.gguf_scalar_to_np:
            values = self._get(start, self.gguf_scalar_to_np[kind], length)
            return 12 + values.nbytes, [values], [0], types
        if kind == gguf.GGUFValueType.STRING:
            size, strings = self._strings(start, length)
            return 12 + size, strings, list(range(length)), types
        raise ValueError("an array of arrays")

    def _strings(self, start: int, count: int) -> tuple[int, list[np.ndarray]]:
        length_of = struct.Struct(
            "<Q" if self.endianess == gguf.GGUFEndian.LITTLE else ">Q"
        ).unpack_from
        end, strings = start, []
        for _ in range(count):
            length = length_of(self.data, end)[0]
            strings.append(self.data[end + 8 : end + 8 + length])
            end += 8 + length
        if end > len(self.data):
            raise ValueError(f"truncated: {end:,} bytes expected, {len(self.data):,} there")
        return end - start, strings


def _check_extents(reader: gguf.GGUFReader) -> None:
    previous_end = reader.data_offset
    for tensor in sorted(reader.tensors, key=lambda t: t.data_offset):
        if tensor.data_offset < previous_end:
            raise ValueError(f"tensor {tensor.name} overlaps the one before it")
        previous_end = tensor.data_offset + tensor.n_bytes


def _dequantize(tensor: gguf.ReaderTensor) -> np.ndarray:
    if tensor.data.dtype.kind == "i":
        return np.array(tensor.data)
    if tensor.data.dtype.kind == "f":
        return np.asarray(tensor.data, np.float32)
    try:
        return quants.dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError as error:
        raise AssetError(
            f"tensor {tensor.name}: GGUF type {tensor.tensor_type.name} cannot be dequantized"
        ) from error
