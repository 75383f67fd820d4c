"""GGUF files (llama.cpp's single-file format) → metadata and numpy arrays."""

import dataclasses
import functools
import pathlib
import re
import struct
from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np
from gguf import quants

from v2l_jax.errors import AssetError
from v2l_jax.formats.lazy_arrays import LazyArrays
from v2l_jax.formats.lfs_pointers import refuse_pointer

_PART = re.compile(r"(.+)-(\d+)-of-(\d+)(\.gguf)")
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

    A model in parts ("…-00001-of-00003.gguf", `split.count` in the metadata) is read whole,
    whichever part is named; metadata are the first part's. Every type of `gguf.quants` is read:
    F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, the K and the IQ families. llama.cpp interleaves
    the rotary halves of q and k rows for the LLaMA architecture; they are returned as stored.

    Raises:
      AssetError: not a GGUF file, truncated, or inconsistent; or a part is missing.
    """
    path = pathlib.Path(path)
    read = _read_one(path)
    count = read.metadata.get("split.count", 1)
    if not isinstance(count, int) or count <= 1:
        return read
    tensors: dict[str, functools.partial] = {}
    metadata: dict[str, Any] = {}
    for number, part in enumerate(_parts(path, count)):
        read = _read_one(part)
        if read.metadata.get("split.no") != number or read.metadata.get("split.count") != count:
            raise AssetError(
                f"{part} is not part {number + 1} of {count}, as its name says; download the "
                "parts again"
            )
        if twice := sorted(tensors.keys() & read.tensors.keys()):
            raise AssetError(f"{part} repeats tensor {twice[0]} of another part")
        metadata = dict(read.metadata) | metadata
        tensors |= {n: functools.partial(read.tensors.__getitem__, n) for n in read.tensors}
    total = metadata.get("split.tensors.count", len(tensors))
    if total != len(tensors):
        raise AssetError(
            f"{path}: the {count} parts hold {len(tensors)} tensors, but should hold {total}; "
            "download them again"
        )
    return Gguf(metadata, LazyArrays(tensors))


def gguf_in(folder: pathlib.Path) -> pathlib.Path | None:
    """The GGUF model of a folder, the first part of one in parts; None where there is none.

    Raises:
      AssetError: there are several.
    """
    found = sorted(folder.glob("*.gguf"))
    names = {_PART.sub(r"\1\4", path.name) for path in found}
    if len(names) > 1:
        raise AssetError(
            f"{folder} holds {len(names)} GGUF models ({', '.join(sorted(names)[:3])}); give one"
        )
    return found[0] if found else None


def _parts(path: pathlib.Path, count: int) -> list[pathlib.Path]:
    """The files of a model in parts, by the naming of llama.cpp's gguf-split."""
    named = _PART.fullmatch(path.name)
    if named is None or int(named[3]) != count:
        raise AssetError(
            f"{path} is one of {count} parts; put all beside it, named as they were published "
            f"(…-00001-of-{count:05}.gguf), or join them with llama-gguf-split --merge"
        )
    width = len(named[2])
    parts = [
        path.with_name(f"{named[1]}-{i:0{width}}-of-{named[3]}{named[4]}")
        for i in range(1, count + 1)
    ]
    if missing := [part.name for part in parts if not part.is_file()]:
        raise AssetError(
            f"{path} is one of {count} parts, of which {len(missing)} are missing: "
            f"{', '.join(missing[:3])}; put them beside it"
        )
    return parts


def _read_one(path: pathlib.Path) -> Gguf:
    refuse_pointer(path, AssetError)
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
    except ValueError as error:
        raise AssetError(
            f"tensor {tensor.name} of GGUF type {tensor.tensor_type.name} is damaged ({error}); "
            "download it again"
        ) from error
