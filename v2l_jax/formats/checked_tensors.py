"""Tensors of a foreign checkpoint, with a note of which were read: nothing in a file is passed over
in silence, and quantised weights are never taken for plain numbers.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from v2l_jax.errors import CheckpointError, V2LError

_QUANTISED_NAMES = re.compile(
    r"\.(qweight|qzeros|qscales?|scales?|zero_points?|biases|g_idx|SCB|absmax|nested_absmax"
    r"|quant_map|nested_quant_map|weight_format|quant_state\.\w+|\w*bitsandbytes__\w+"
    r"|weight_packed|weight_shape|\w+_scale|\w+_scale_inv|\w+_scale_\d|\w+_zero_point|\w+_g_idx"
    r"|weight_quantizer\.\w+|input_quantizer\.\w+|_packed_params\.\w+|codebooks|codes"
    r"|W_q|\w+_blocks|\w+_scales|Qidxs|qidxs|trellis)$"
)
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_WAY_OUT = "give the unquantised repository, or a GGUF file of it"


@runtime_checkable
class Tensors(Protocol):
    """Arrays by name: a dict, or a mapping that reads them on access.

    A protocol and not `Mapping`, which type checks at run time would read an array of.
    """

    def __getitem__(self, name: str, /) -> np.ndarray: ...

    def __contains__(self, name: object, /) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...


class CheckedTensors(Mapping[str, np.ndarray]):
    """A mapping of names to arrays that checks what is read and remembers it.

    Args:
      tensors: arrays by name; they may be read on access.
      where: what to call the file in an error.
      error: makes the error to raise.
      integers: pattern of names whose tensors may hold integers; all others must be floats.
    """

    def __init__(
        self,
        tensors: Mapping[str, np.ndarray],
        where: str,
        error: Callable[[str], V2LError] = CheckpointError,
        integers: str = "",
    ):
        self._tensors, self._where, self._error = tensors, where, error
        self._integers = integers
        self._read: set[str] = set()

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        self._read.add(name)
        if tensor.dtype.name not in _FLOATS and not re.fullmatch(self._integers, name):
            raise self._error(
                f"{self._where}: tensor {name} is of type {tensor.dtype.name}, not floating-point: "
                f"the weights are quantised; {_WAY_OUT}"
            )
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def refuse_quantised(self) -> None:
        """Checks the names alone, before anything is read.

        Raises:
          V2LError: what `error` makes: there are scales, zero points or packed weights.
        """
        found = [name for name in self._tensors if _QUANTISED_NAMES.search(name)]
        if found:
            raise self._error(
                f"{self._where}: quantised weights: {len(found)} tensors such as {found[0]}; "
                f"{_WAY_OUT}"
            )

    def refuse_unread(self, ignored: Iterable[str] = ()) -> None:
        """Checks, once everything is read, that nothing is left over.

        Args:
          ignored: patterns of whole names that are known to hold nothing that matters.

        Raises:
          V2LError: what `error` makes: tensors were not read; they are counted and named.
        """
        patterns = list(ignored)
        left = [
            name
            for name in self._tensors
            if name not in self._read and not any(re.fullmatch(p, name) for p in patterns)
        ]
        if left:
            named = ", ".join(left[:3]) + (", …" if len(left) > 3 else "")
            raise self._error(
                f"{self._where}: {len(left)} of {len(self._tensors)} tensors belong to nothing "
                f"that this network has ({named}); it is another kind of model, which is not "
                "supported: choose another checkpoint"
            )


@contextlib.contextmanager
def fitting_together(
    where: str, what: str, error: Callable[[str], V2LError] = CheckpointError
) -> Iterator[None]:
    """Says in one line that a checkpoint's arrays do not make the network that they should.

    Args:
      where: what to call the file in an error.
      what: the network, such as "a CLIP".
      error: makes the error to raise.

    Raises:
      V2LError: what `error` makes: a tensor is missing, or has a shape that fits nothing.
    """
    try:
        yield
    except KeyError as cause:
        raise error(f"{where} is not {what}: it has no tensor {cause}") from cause
    except (
        ValueError, TypeError, AttributeError, IndexError, ArithmeticError, MemoryError,
        RecursionError,
    ) as cause:  # fmt: skip
        reason = " ".join(str(cause).split())[:160] or type(cause).__name__
        raise error(f"{where} is not {what}: its arrays do not fit together ({reason})") from cause


def arrays_by_name(
    tree: Any, where: str, error: Callable[[str], V2LError] = CheckpointError
) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint that is a dictionary; other values, such as a step, are left out.

    Raises:
      V2LError: what `error` makes: it is no dictionary, or holds no array.
    """
    found = {
        str(name): x
        for name, x in (tree.items() if isinstance(tree, Mapping) else ())
        if isinstance(x, (np.ndarray, np.generic))
    }
    if not found:
        raise error(f"{where} holds no arrays by name, but {type(tree).__name__}; is it a model?")
    return found


def refuse_quantised_config(
    config: Mapping[str, Any], where: str, error: Callable[[str], V2LError] = CheckpointError
) -> None:
    """Checks a config.json for signs of quantised weights.

    Raises:
      V2LError: what `error` makes: it has a section such as "quantization_config".
    """
    for key, value in config.items():
        if not value or not (re.search("quanti", key) or key == "compression_config"):
            continue
        method = value.get("quant_method") if isinstance(value, Mapping) else None
        method = method or (", ".join(value) if isinstance(value, Mapping) else value)
        raise error(f"{where}: quantised: {key} says {method}; {_WAY_OUT}")
    kind = config.get("torch_dtype") or config.get("dtype")
    if isinstance(kind, str) and kind.removeprefix("torch.") not in (*_FLOATS, "auto"):
        raise error(f"{where}: quantised: the weights are of type {kind}; {_WAY_OUT}")
