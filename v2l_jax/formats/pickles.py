"""Reads pickles of arrays without importing or calling anything that a pickle names.

Each global that a pickle may name is replaced by a class of this module that only records its
arguments; every other global raises an error with its name.
"""

import io
import math
import pathlib
import pickle
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from v2l_jax.errors import AssetError

# What malformed pickles make the unpickler, or the stand-ins below, raise.
MALFORMED = (
    pickle.UnpicklingError,
    struct.error,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    EOFError,
    OverflowError,
    RecursionError,
    MemoryError,
    AssertionError,
)


def read_pickle(source: str | pathlib.Path | bytes) -> Any:
    """Reads a pickle that holds dicts, lists, tuples, sets, numbers, strings, and numpy or JAX
    arrays.

    Args:
      source: a file, or the pickle itself.

    Returns:
      The tree, with every array a numpy array and every mapping a plain dict.

    Raises:
      AssetError: the pickle names anything else ("refused: os.system"), or is truncated or
        malformed.
    """
    name = "the pickle" if isinstance(source, bytes) else str(source)
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            return resolve(RestrictedUnpickler(file, name, {}).load())
    except OSError as error:
        raise AssetError(f"{name} cannot be read ({error.strerror})") from error
    except MALFORMED as error:
        raise AssetError(
            f"{name} is truncated or not a pickle of arrays ({error!r}); download it again"
        ) from error


def read_pickled_arrays(source: str | pathlib.Path, place: Sequence[str]) -> Any:
    """Reads the part of a pickle that holds arrays alone; other parts may hold objects of any
    class, none of which is looked up, let alone called.

    Args:
      source: a file, such as a cloudpickle of a training state.
      place: keys or attributes on the way from the top to the part.

    Returns:
      The part, as `read_pickle` returns a whole.

    Raises:
      AssetError: there is no such part, it names anything but arrays, or the pickle is truncated or
        malformed.
    """
    try:
        with open(source, "rb") as file:
            node = _PassingUnpickler(file, str(source), {}).load()
        for number, key in enumerate(place):
            if not isinstance(node, Mapping) or key not in node:
                raise AssetError(f"{source} has no {'.'.join(place[: number + 1])}")
            node = node[key]
        _refuse_objects(node, str(source))
        return resolve(node)
    except OSError as error:
        raise AssetError(f"{source} cannot be read ({error.strerror})") from error
    except MALFORMED as error:
        raise AssetError(
            f"{source} is truncated or not a pickle of arrays ({error!r}); download it again"
        ) from error


def _refuse_objects(node: Any, name: str) -> None:
    if isinstance(type(node), _NamedClass) or isinstance(node, _NamedClass):
        what = node if isinstance(node, type) else type(node)
        raise AssetError(f"{name} holds more than arrays; refused: {what.__doc__}")
    if isinstance(node, Mapping):
        for value in node.values():
            _refuse_objects(value, name)
    elif isinstance(node, (list, tuple, set, frozenset)):
        for value in node:
            _refuse_objects(value, name)


class Deferred:
    """Stands in a pickle for an array that is built once everything is read."""

    def build(self) -> np.ndarray:
        """Returns the array."""
        raise NotImplementedError


class Attributes:
    """Stands for an object of a class that is never looked up: its attributes become a dict."""

    def __init__(self, *arguments: Any):
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _NamedClass(type):
    """Makes stand-ins for classes and functions of which only the name is known."""


def _named_class(module: str, name: str) -> type:
    """Stands for a class or function that is never looked up: alone it is a name, and an object of
    it, or what it would return, a dict of the attributes that the pickle gives.
    """

    def take_state(self: Any, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, Mapping):
                self.update(part)

    ignore = lambda self, *given: None
    known: dict[str, Any] = {"__doc__": f"{module}.{name}", "__setstate__": take_state}
    known |= {"__init__": ignore, "__call__": lambda self, *given: type(self)()}
    known |= {"__hash__": object.__hash__, "append": ignore, "extend": ignore, "add": ignore}
    return _NamedClass(name.replace(".", "_"), (dict,), known)


class _BoundedFile:
    """Refuses to read more bytes than there are, for which a file would make room first."""

    def __init__(self, file: io.BufferedIOBase):
        self._file, here = file, file.tell()
        self._end = file.seek(0, io.SEEK_END)
        file.seek(here)
        self.readline = file.readline

    def read(self, size: int = -1) -> bytes:
        """As a file's."""
        if size > _SMALL and size > self._end - self._file.tell():
            raise EOFError(f"{size:,} bytes expected")
        return self._file.read(size)


_SMALL = 1 << 20


# The pure-Python unpickler: a hostile memo index cannot make it allocate, and its opcodes can be
# overridden.
class RestrictedUnpickler(pickle._Unpickler):
    """Knows containers, numbers, strings, numpy arrays, and the `extra` globals it is given;
    refuses all others.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: io.BufferedIOBase, name: str, extra: Mapping[tuple[str, str], Any]):
        super().__init__(_BoundedFile(file), encoding="latin1")  # pyright: ignore[reportArgumentType]
        self._name = name
        self._known = {**_GLOBALS, **extra}

    def find_class(self, module: str, name: str) -> Any:
        """Answers a global with its stand-in."""
        if (module, name) in self._known:
            return self._known[module, name]
        if (
            module.split(".")[0] == "__torch__"
        ):  # TorchScript: code/ defines the class, and is never read
            return Attributes
        if (module, name) in _RECORDED or module.split(".")[0] in _RECORDED_PACKAGES:
            return _named_class(module, name)
        raise AssetError(f"{self._name} holds more than arrays; refused: {module}.{name}")

    def load_bytearray8(self) -> None:
        """Reads before anything is allocated: a hostile length has nothing behind it."""
        length = struct.unpack("<Q", self.read(8))[0]  # pyright: ignore[reportAttributeAccessIssue]
        self.append(bytearray(self.read(length)))  # pyright: ignore[reportAttributeAccessIssue]

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def load_build(self) -> None:
        """Sets state on stand-ins only: state given to a class or function would outlive this
        pickle.
        """
        stack: list[Any] = self.stack  # pyright: ignore[reportAttributeAccessIssue]
        target = stack[-2]
        if isinstance(target, _OrderedDict):  # a state_dict's _metadata
            stack.pop()
        elif isinstance(target, (Deferred, Attributes, _Dtype)) or isinstance(
            type(target), _NamedClass
        ):
            super().load_build()  # pyright: ignore[reportAttributeAccessIssue]
        else:
            raise AssetError(
                f"{self._name} holds more than arrays; refused: state for {type(target).__name__}"
            )

    dispatch[pickle.BUILD[0]] = load_build


class _PassingUnpickler(RestrictedUnpickler):
    """Takes objects of any class as dicts of their attributes."""

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in that records, whatever the name."""
        return self._known.get((module, name)) or _named_class(module, name)

    def load_build(self) -> None:
        """State of what is no stand-in (a function's, say) is passed over."""
        stack: list[Any] = self.stack  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(stack[-2], (Deferred, Attributes, _Dtype, _OrderedDict)) or isinstance(
            type(stack[-2]), _NamedClass
        ):
            super().load_build()
        else:
            stack.pop()

    dispatch = RestrictedUnpickler.dispatch | {pickle.BUILD[0]: load_build}


def resolve(tree: Any) -> Any:
    """Replaces every stand-in by its array or dict; shared parts stay shared.

    Raises:
      RecursionError: the containers nest without end.
    """
    done: dict[int, Any] = {}
    kept: list[Any] = []  # keeps ids unique while they are used as keys

    def visit(node: Any) -> Any:
        if id(node) in done:
            return done[id(node)]
        if isinstance(node, Deferred):
            result = node.build()
        elif isinstance(node, Attributes):
            result = visit(node.state)
        elif isinstance(node, Mapping):
            result = {visit(key): visit(value) for key, value in node.items()}
        elif isinstance(node, (list, tuple, set, frozenset)):
            result = type(node)(visit(item) for item in node)
        elif isinstance(node, _Dtype):
            result = node.dtype
        elif isinstance(node, _NamedClass):
            result = str(node.__doc__)
        elif callable(node):
            raise TypeError(f"a bare {getattr(node, '__name__', node)} among the arrays")
        else:
            return node
        done[id(node)] = result
        kept.append(node)
        return result

    return visit(tree)


class _OrderedDict(dict):
    """collections.OrderedDict; dicts keep their order."""


_DTYPE_NAME = re.compile(r"[<>=|]?[A-Za-z?]\w{0,20}")


class _Dtype:
    """numpy.dtype(name, align, copy) and its state: (version, byte order, …) of a plain numeric
    type.
    """

    def __init__(self, name: Any, align: bool = False, copy: bool = True):
        if not isinstance(name, np.dtype) and not _DTYPE_NAME.fullmatch(str(name)):
            raise ValueError(f"arrays of {name!r:.40}")  # numpy reads such texts as Python
        dtype = name if isinstance(name, np.dtype) else np.dtype(str(name))
        if not isinstance(name, np.dtype) and dtype.kind not in "biufcSU":
            raise ValueError(f"arrays of {dtype}")
        self.dtype = dtype

    def __setstate__(self, state: Sequence[Any]) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array(Deferred):
    """numpy.ndarray as `_reconstruct` and its state make it."""

    def __init__(
        self,
        shape: Sequence[int] = (0,),
        dtype: _Dtype | None = None,
        fortran: bool = False,
        raw: Any = b"",
    ):
        self.__setstate__((1, shape, dtype, fortran, raw))

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, self._shape, self._dtype, self._fortran, self._raw = state
        if isinstance(self._raw, str):  # bytes of a Python 2 pickle
            self._raw = self._raw.encode("latin1")

    def build(self) -> np.ndarray:
        """A view of the pickle's bytes."""
        if self._dtype is None:
            raise ValueError("an array without its contents")
        if math.prod(self._shape) * self._dtype.dtype.itemsize != len(self._raw):
            raise ValueError(f"an array of shape {self._shape} with {len(self._raw)} bytes")
        flat = np.frombuffer(self._raw, self._dtype.dtype)
        return flat.reshape(self._shape, order="F" if self._fortran else "C")


def _reconstruct(subtype: Any, shape: Any, typecode: Any) -> _Array:
    return _Array()


def _from_buffer(raw: Any, dtype: _Dtype, shape: Sequence[int], order: str) -> _Array:
    return _Array(shape, dtype, order == "F", raw)


def _scalar(dtype: _Dtype, raw: Any) -> Any:
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if len(raw) != dtype.dtype.itemsize:
        raise ValueError("a scalar of the wrong size")
    return np.frombuffer(raw, dtype.dtype)[0]


def _encode_latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"text encoding {encoding}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Stands for `bytes`, with which protocols below 3 write b""; `bytes(n)` would allocate n."""
    return b""


def _jax_array(
    function: Callable[..., Any], arguments: tuple, state: tuple, aval_state: Any
) -> _Array:
    if function is not _reconstruct:
        raise ValueError("a JAX array that is not rebuilt from numpy")
    array = _Array()
    array.__setstate__(state)
    return array


def _dict(items: Any = ()) -> dict:
    return dict(items)


def _default_dict(factory: Any = None, items: Any = ()) -> dict:
    return dict(items)


def _list(items: Any = (), *_: Any) -> list:
    return list(items)


def _path(*parts: str) -> str:
    return str(pathlib.PurePosixPath(*parts))


# What training scripts keep beside arrays, such as their options: recorded as dicts of what the
# pickle gives, or as the name.
_RECORDED_PACKAGES = (
    "pytorch_lightning", "lightning", "omegaconf", "ml_collections", "yacs", "easydict", "addict",
)  # fmt: skip
_RECORDED = {
    ("argparse", "Namespace"), ("typing", "Any"),
    ("datetime", "datetime"), ("datetime", "date"), ("datetime", "timedelta"),
    ("datetime", "timezone"), ("uuid", "UUID"), ("uuid", "SafeUUID"), ("decimal", "Decimal"),
    ("fractions", "Fraction"), ("types", "SimpleNamespace"), ("functools", "partial"),
    ("collections", "ChainMap"), ("numpy.random._pickle", "__randomstate_ctor"),
    ("numpy.random._pickle", "__generator_ctor"), ("numpy.random._pickle", "__bit_generator_ctor"),
    ("numpy.random._mt19937", "MT19937"), ("numpy.random._pcg64", "PCG64"),
    ("numpy.random.bit_generator", "SeedSequence"),
    ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"),
}  # fmt: skip

_GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _OrderedDict,
    ("collections", "defaultdict"): _default_dict,
    ("collections", "Counter"): _dict,
    ("collections", "deque"): _list,
    ("builtins", "dict"): _dict,
    ("_codecs", "encode"): _encode_latin1,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("flax.core.frozen_dict", "FrozenDict"): _dict,
    ("jax._src.array", "_reconstruct_array"): _jax_array,
    ("jax._src.device_array", "reconstruct_device_array"): _jax_array,
    ("jax.interpreters.xla", "_reconstruct_device_array"): _jax_array,
    ("jaxlib.xla_extension", "reconstruct_device_array"): _jax_array,
}
for _core in ("numpy.core", "numpy._core"):
    _GLOBALS[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    _GLOBALS[f"{_core}.multiarray", "scalar"] = _scalar
    _GLOBALS[f"{_core}.numeric", "_frombuffer"] = _from_buffer
for _name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"):
    for _module in ("pathlib", "pathlib._local"):
        _GLOBALS[_module, _name] = _path
for _builtins in ("builtins", "__builtin__"):
    for _name in "list int float str bool tuple object range slice Ellipsis".split():
        _RECORDED.add((_builtins, _name))  # the factory of a defaultdict
    _GLOBALS[_builtins, "bytes"] = _no_bytes
    _GLOBALS[_builtins, "set"] = set
    _GLOBALS[_builtins, "frozenset"] = frozenset
    _GLOBALS[_builtins, "complex"] = complex
for _name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
    _GLOBALS["ml_dtypes", _name] = np.dtype(getattr(ml_dtypes, _name))
