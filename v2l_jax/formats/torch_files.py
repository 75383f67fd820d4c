"""PyTorch checkpoints, without torch: zip format, TorchScript archives and legacy format → numpy
arrays.
"""

import dataclasses
import functools
import io
import math
import pathlib
import struct
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from v2l_jax.errors import AssetError
from v2l_jax.formats.lfs_pointers import refuse_pointer
from v2l_jax.formats.pickles import MALFORMED, Deferred, RestrictedUnpickler, resolve

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_EXPANDED = 1 << 20  # elements that a stride-0 view may have beyond its storage

_DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint64": np.uint64,
    "uint32": np.uint32,
    "uint16": np.uint16,
    "uint8": np.uint8,
    "bool": np.bool_,
    "complex64": np.complex64,
    "complex128": np.complex128,
}
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}


def read_torch(path: str | pathlib.Path) -> Any:
    """Reads what `torch.save` or `torch.jit.save` wrote.

    Tensors are memory-mapped, read-only; a module of a TorchScript archive becomes the dict of its
    attributes.

    Returns:
      The saved object with numpy arrays (bfloat16 through `ml_dtypes`) in place of tensors, usually
      a nested dict.

    Raises:
      AssetError: the file holds anything but tensors, containers, numbers and strings, or is
        truncated or malformed.
    """
    path = pathlib.Path(path)
    refuse_pointer(path, AssetError)
    try:
        if path.stat().st_size == 0:
            raise EOFError("the file is empty")
        content = np.memmap(path, np.uint8, "r").view(
            np.ndarray
        )  # one mapping: each would hold a file descriptor
        return (
            _read_zip(path, content)
            if bytes(content[:4]) == b"PK\3\4"
            else _read_legacy(path, content)
        )
    except OSError as error:
        raise AssetError(f"{path} cannot be read ({error.strerror or error})") from error
    except (*MALFORMED, zipfile.BadZipFile, struct.error, NotImplementedError) as error:
        raise AssetError(
            f"{path} is truncated or not a PyTorch checkpoint ({error!r}); download it again"
        ) from error


@dataclasses.dataclass
class _Storage:
    """A run of bytes in the file; where it lies is filled in when known."""

    dtype: np.dtype
    count: int
    open: Callable[[], np.ndarray] | None = None

    def flat(self) -> np.ndarray:
        """The stored elements, one axis."""
        if self.open is None:
            raise ValueError("a tensor whose values are not in the file")
        raw = self.open()
        if len(raw) < self.count * self.dtype.itemsize:
            raise ValueError(f"a storage of {self.count:,} elements with {len(raw):,} bytes")
        return raw[: self.count * self.dtype.itemsize].view(self.dtype)


@dataclasses.dataclass
class _Tensor(Deferred):
    storage: _Storage
    offset: int
    size: Sequence[int]
    stride: Sequence[int]
    dtype: np.dtype | None = None

    def __setstate__(self, state: Any) -> None:
        raise TypeError("a tensor with attributes")

    def build(self) -> np.ndarray:
        """A view of the storage, strides checked against its length."""
        flat = self.storage.flat()
        if self.dtype is not None:
            flat = flat.view(self.dtype)
        numbers = (self.offset, *self.size, *self.stride)
        if len(self.size) != len(self.stride) or not all(
            isinstance(n, int) and n >= 0 for n in numbers
        ):
            raise ValueError(f"a tensor of size {self.size} and stride {self.stride}")
        count = math.prod(self.size)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride))
        if count and last >= len(flat) or count > max(len(flat), _MAX_EXPANDED):
            raise ValueError(f"a tensor of size {self.size} beyond its storage of {len(flat):,}")
        strides = [step * flat.itemsize for step in self.stride]
        view = np.lib.stride_tricks.as_strided(
            flat[self.offset :] if count else flat[:0], self.size, strides
        )
        return np.asarray(view)


def _rebuild(
    storage: _Storage, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any
) -> _Tensor:
    return _Tensor(storage, offset, size, stride)


def _rebuild_v3(storage, offset, size, stride, requires_grad, hooks, dtype, *_) -> _Tensor:
    return _Tensor(storage, offset, size, stride, dtype)


def _first(value: Any, *_: Any) -> Any:
    return value


def _device(kind: str, index: int | None = None) -> str:
    return kind if index is None else f"{kind}:{index}"


def _rebuild_subclass(
    function: Callable[..., Any], subtype: Any, arguments: tuple, state: Any
) -> Any:
    return function(*arguments)


_GLOBALS: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor"): _rebuild,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_v3,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_subclass,
    ("torch", "Tensor"): _first,
    ("torch.nn.parameter", "Parameter"): _first,
    ("torch", "Size"): tuple,
    ("torch", "device"): _device,
    ("torch.jit._pickle", "restore_type_tag"): _first,
}
for _kind in ("int", "double", "bool", "tensor"):
    _GLOBALS["torch.jit._pickle", f"build_{_kind}list"] = _first
for _name, _dtype in _DTYPES.items():
    _GLOBALS["torch", _name] = np.dtype(_dtype)
for _name, _dtype in _STORAGES.items():
    for _module in ("torch", "torch.cuda", "torch.storage"):
        _GLOBALS[_module, _name] = np.dtype(_DTYPES[_dtype])


class _TorchUnpickler(RestrictedUnpickler):
    """Answers persistent ids, which is how torch refers to storages."""

    def __init__(self, file: io.BufferedIOBase, name: str, storage_of: Callable[..., _Storage]):
        super().__init__(file, name, _GLOBALS)
        self._storage_of = storage_of

    def persistent_load(self, pid: Any) -> _Storage:
        """pid: ("storage", storage class, key, device, element count[, view])."""
        kind, dtype, key, _, count, *view = pid
        if (
            kind != "storage"
            or not isinstance(dtype, np.dtype)
            or not isinstance(count, int)
            or count < 0
        ):
            raise ValueError(f"persistent id {kind!r}")
        return self._storage_of(str(key), dtype, count, *view)


def _read_zip(path: pathlib.Path, content: np.ndarray) -> Any:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        pickles = [
            name for name in members if name.split("/")[1:] == ["data.pkl"] or name == "data.pkl"
        ]
        if len(pickles) != 1:
            raise ValueError("a zip archive without data.pkl")
        root = pickles[0].removesuffix("data.pkl")
        locate = functools.partial(_member_bytes, content, members)
        order = bytes(locate(f"{root}byteorder")) if f"{root}byteorder" in members else b"little"
        if order not in (b"little", b"big"):
            raise ValueError(f"byte order {order!r}")

        storages: dict[str, _Storage] = {}

        def storage_of(key: str, dtype: np.dtype, count: int) -> _Storage:
            if key not in storages:
                opener = functools.partial(locate, f"{root}data/{key}")
                storages[key] = _Storage(
                    dtype.newbyteorder("<" if order == b"little" else ">"), count, opener
                )
            return storages[key]

        with archive.open(_stored(members[pickles[0]])) as file:
            return resolve(_TorchUnpickler(file, str(path), storage_of).load())


def _stored(member: zipfile.ZipInfo) -> zipfile.ZipInfo:
    if member.compress_type != zipfile.ZIP_STORED:  # torch never compresses, zip bombs do
        raise ValueError(f"{member.filename} is compressed")
    return member


def _member_bytes(
    content: np.ndarray, members: dict[str, zipfile.ZipInfo], name: str
) -> np.ndarray:
    """An archive member where it lies in the mapped file."""
    member = _stored(members[name])
    header = bytes(content[member.header_offset : member.header_offset + 30])
    signature, name_length, extra_length = struct.unpack("<4s22xHH", header)
    if signature != b"PK\3\4":
        raise ValueError(f"no local header for {name}")
    start = member.header_offset + 30 + name_length + extra_length
    if start + member.file_size > len(content):
        raise ValueError(f"{name} lies beyond the end of the file")
    return content[start : start + member.file_size]


def _read_legacy(path: pathlib.Path, content: np.ndarray) -> Any:
    """Before torch 1.6: magic, protocol, system, object, storage keys (five pickles in a row), then
    each storage.
    """
    storages: dict[str, _Storage] = {}

    def storage_of(key: str, dtype: np.dtype, count: int, view: Any = None) -> _Storage:
        root = storages.setdefault(key, _Storage(dtype, count))
        if view is None:
            return root
        _, offset, view_count = view
        return _Storage(
            dtype, view_count, lambda: root.flat()[offset : offset + view_count].view(np.uint8)
        )

    with open(path, "rb") as file:
        load = lambda: _TorchUnpickler(file, str(path), storage_of).load()
        if load() != _LEGACY_MAGIC:
            raise AssetError(
                f"{path} is not a PyTorch checkpoint; give the file that torch.save wrote"
            )
        if load() != _LEGACY_PROTOCOL:
            raise ValueError("an unknown protocol version")
        if not load().get("little_endian", True):
            raise ValueError("written on a big-endian machine")
        tree, keys = load(), load()
        position = file.tell()
    for key in keys:
        storage = storages[str(key)]
        count = struct.unpack("<q", bytes(content[position : position + 8]))[0]
        start, position = position + 8, position + 8 + count * storage.dtype.itemsize
        if count != storage.count or position > len(content):
            raise ValueError(
                f"truncated: storage {key} has {count:,} of {storage.count:,} elements"
            )
        storage.open = functools.partial(content.__getitem__, slice(start, position))
    return resolve(tree)
