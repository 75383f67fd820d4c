"""Text and JSON files from outside → strings and trees; byte order marks are read, and what cannot
be read is said in one line.
"""

import codecs
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from v2l_jax.errors import V2LError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_KINDS = {dict: "an object {…}", list: "a list […]"}


def decode_text(content: bytes, where: str, error: Callable[[str], V2LError]) -> str:
    """Decodes UTF-8, or what a byte order mark says (UTF-16, UTF-32); the mark is not part of the
    text.

    Args:
      content: the file's bytes.
      where: what to call it in an error.
      error: makes the error to raise.
    """
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as cause:
        line = content[: cause.start].count(b"\n") + 1
        raise error(
            f"{where}, line {line}: byte 0x{content[cause.start]:02x} is not {encoding.upper()}; "
            "save the file as UTF-8"
        ) from cause


def read_text(path: str | os.PathLike[str], error: Callable[[str], V2LError]) -> str:
    """Reads a text file; see `decode_text`.

    Raises:
      V2LError: what `error` makes: the file is missing, cannot be read, or is in another encoding.
    """
    try:
        content = pathlib.Path(path).read_bytes()
    except FileNotFoundError as cause:
        raise error(f"{path}: no such file") from cause
    except (OSError, ValueError) as cause:
        reason = getattr(cause, "strerror", None) or cause
        raise error(f"{path} cannot be read ({reason})") from cause
    return decode_text(content, str(path), error)


def read_json(
    path: str | os.PathLike[str],
    error: Callable[[str], V2LError],
    kind: type[dict] | type[list] | None = dict,
    remedy: str = "download it again",
) -> Any:
    """Reads a JSON file.

    Args:
      path: the file.
      error: makes the error to raise, usually one of the classes of `errors`.
      kind: what the outermost value must be; None allows any.
      remedy: what to do about a damaged file.

    Raises:
      V2LError: what `error` makes: the file is missing, damaged, in another encoding, or holds
        another kind of value.
    """
    text = read_text(path, error)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as cause:
        if not text.strip():
            raise error(f"{path} is empty; {remedy}") from cause
        raise error(
            f"{path}, line {cause.lineno} is not valid JSON ({cause.msg}, column {cause.colno}); "
            f"{remedy}"
        ) from cause
    except (RecursionError, ValueError) as cause:  # nests too deep; a number of too many digits
        raise error(f"{path} is not valid JSON ({type(cause).__name__}); {remedy}") from cause
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as cause:
            raise error(
                f"{path} holds half a character (a lone surrogate, such as \\ud83d without its "
                f"second half); {remedy}"
            ) from cause
    if kind is not None and not isinstance(value, kind):
        raise error(f"{path} holds {_name(value)}, but must hold {_KINDS[kind]}; {remedy}")
    return value


def entry(
    values: Mapping[str, Any],
    key: str,
    kinds: type | tuple[type, ...],
    where: str,
    error: Callable[[str], V2LError],
) -> Any:
    """One value of a JSON object, checked.

    Args:
      values: the object.
      key: whose value is wanted.
      kinds: types that it may have; a bool passes for an int only where bool is among them.
      where: what to call the object in an error.
      error: makes the error to raise.

    Raises:
      V2LError: what `error` makes: the key is missing or its value is of another type.
    """
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    wanted = " or ".join(kind.__name__ for kind in kinds)
    if key not in values:
        raise error(f"{where} lacks {key!r} ({wanted}); download it again, or add it")
    value = values[key]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise error(f"{where}: {key!r} is {_name(value)}, but must be of type {wanted}")
    if isinstance(value, float) and not math.isfinite(value):
        raise error(f"{where}: {key!r} is {value}, but must be a finite number")
    return value


def _name(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 60 else shown[:57] + "…"
