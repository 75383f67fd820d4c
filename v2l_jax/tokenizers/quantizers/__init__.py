"""Quantizers, one a file: features become entries of a codebook, and back.

`config.model.vqgan.quantizer` names one of those whose class is called `Options`, a frozen
dataclass whose fields are the options `config.model.quantizers.<file>.*`. To add one, write such a
file and its test; `base.py` says what the methods do.
"""

import dataclasses
import functools
import importlib
import pkgutil
from typing import Any

from v2l_jax.errors import ConfigError
from v2l_jax.tokenizers.quantizers.base import Quantizer


@functools.cache
def quantizers() -> dict[str, type[Quantizer]]:
    """Every quantizer that can be chosen, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    return {name: module.Options for name, module in modules.items() if hasattr(module, "Options")}


def quantizer(model: Any, name: str) -> Quantizer:
    """The quantizer of that name with the options of `config.model.quantizers.<name>`.

    Raises:
      ConfigError: there is no such quantizer; says which there are.
    """
    if name not in quantizers():
        known = ", ".join(("codebook", *quantizers()))
        raise ConfigError(f"config.model.vqgan.quantizer is {name!r}, but must be one of {known}")
    made, given = quantizers()[name], model.quantizers[name]
    fields = {field.name: given[field.name] for field in dataclasses.fields(made)}
    return made(**{key: _hashable(value) for key, value in fields.items()})


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else value
