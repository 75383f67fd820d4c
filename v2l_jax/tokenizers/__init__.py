"""Images to words and back."""

from typing import Any

_HOME = {
    "ImageTokens": "v2l_network",
    "ReleasedTokenizer": "released",
    "V2LTokenizer": "v2l_network",
    "decode": "v2l_network",
    "load_reference": "reference",
    "load_tokenizer": "released",
    "save_tokenizer": "released",
    "tokenize": "v2l_network",
}
__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Imports the public names on first use, so that importing this package costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
