"""The former home of what `v2l_jax.tokenizers` offers, so that code written for it goes on."""

from typing import Any

from v2l_jax import tokenizers

__all__ = tokenizers.__all__  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """The public names of `v2l_jax.tokenizers`, imported on first use."""
    return getattr(tokenizers, name)
