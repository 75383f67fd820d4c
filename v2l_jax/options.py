"""How an option is declared: its default, what it means, what it may hold, whether it can change a
result.

A dataclass declares the options of one part of the program:

    @dataclasses.dataclass(frozen=True)
    class Options:
        shots: int = option(5, "examples shown before the question", COUNT)

`experiment.py` puts such dataclasses together to the tree that configs change and `--help` prints.
"""

import ast
import dataclasses
import difflib
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from v2l_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Rule:
    """A test of a value, and the words that say what it wants."""

    wants: str
    allows: Callable[[Any], bool]


def number(low: int | float, high: int | float = float("inf"), integer: bool = False) -> Rule:
    """A number from `low` to `high`, an integer if so asked; never a bool."""
    kind = int if integer else (int, float)
    span = f"of at least {low}" if high == float("inf") else f"from {low} to {high}"
    return Rule(
        f"{'an integer' if integer else 'a number'} {span}",
        lambda v: isinstance(v, kind) and not isinstance(v, bool) and low <= v <= high,
    )


def one_of(*choices: Any) -> Rule:
    """One of the choices."""
    return Rule("one of " + ", ".join(map(repr, choices)), lambda v: v in choices)


def each(rule: Rule, least: int = 0) -> Rule:
    """A tuple of at least `least` values that all follow `rule`."""
    at_least = f" (at least {least})" if least else ""
    return Rule(
        f"a tuple{at_least}, each {rule.wants}",
        lambda v: isinstance(v, (tuple, list)) and len(v) >= least and all(map(rule.allows, v)),
    )


def one_or_more(rule: Rule) -> Rule:
    """One value that follows `rule`, or a tuple of at least one."""
    several = each(rule, least=1)
    return Rule(
        f"{rule.wants}, or a tuple of such",
        lambda v: several.allows(v) if isinstance(v, (tuple, list)) else rule.allows(v),
    )


def entries(rule: Rule) -> Rule:
    """A dictionary with text keys whose values all follow `rule`."""
    return Rule(
        f"a dictionary whose values are each {rule.wants}",
        lambda v: isinstance(v, Mapping) and all(map(rule.allows, v.values())),
    )


TEXT = Rule("a text", lambda v: isinstance(v, str))
NAME = Rule("a text that is not empty", lambda v: isinstance(v, str) and bool(v))
FLAG = Rule("True or False", lambda v: isinstance(v, bool))
POSITIVE = number(1, integer=True)
COUNT = number(0, integer=True)
WEIGHT = number(0)
SHARE = number(0, 1)
DTYPE = one_of("float32", "tf32", "bfloat16", "auto")
TEMPLATE = Rule("a text with one {}", lambda v: isinstance(v, str) and v.count("{}") == 1)
CONTROLS = each(one_of("no_tokens", "shuffled"))


def option(
    default: Any, meaning: str, rule: Rule, *, changes_results: bool = True, in_row: bool = False
) -> Any:
    """A field of a dataclass of options.

    Args:
      default: the value where no config says another; dictionaries start empty.
      meaning: what `--help` says of it.
      rule: what it may hold.
      changes_results: whether another value can change a number that is measured. Only options of
        speed, logging, pictures and storage say False; all others are part of a result's identity.
      in_row: whether it only says which rows are measured, each of which carries its own value.
    """
    about = {"meaning": meaning, "rule": rule}
    about |= {"changes_results": changes_results, "in_row": in_row}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=about)
    return dataclasses.field(default=default, metadata=about)


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of the whole tree, as `option` declared it."""

    path: str
    kind: Any
    default: Any
    meaning: str
    rule: Rule
    changes_results: bool
    in_row: bool


def options_of(sections: Mapping[str, type]) -> dict[str, Option]:
    """Every option by its dotted path.

    Args:
      sections: the dataclass of options at each dotted path; "" is the root.
    """
    found = {}
    for prefix, declared in sections.items():
        kinds = typing.get_type_hints(declared)
        for field in dataclasses.fields(declared):
            path = f"{prefix}.{field.name}" if prefix else field.name
            make: Any = field.default_factory
            default = field.default if make is dataclasses.MISSING else make()
            about = (
                field.metadata[key] for key in ("meaning", "rule", "changes_results", "in_row")
            )
            found[path] = Option(path, kinds[field.name], default, *about)
    return found


def known_path(path: str, known: Mapping[str, Option]) -> str:
    """The option that a dotted path stands for: itself, or the dictionary that it is an entry of.

    Raises:
      ConfigError: there is none; the nearest known one is named.
    """
    parent = path.rpartition(".")[0]
    if path in known:
        return path
    if parent in known and isinstance(known[parent].default, Mapping):
        return parent
    long = len(path) > 2 * max(map(len, known))
    nearest = [] if long else difflib.get_close_matches(path, known, n=1, cutoff=0.6)
    hint = f"; did you mean config.{nearest[0]}?" if nearest else "; --help lists all"
    raise ConfigError(f"unknown key config.{path}{hint}")


def parse(text: str, option: Option) -> Any:
    """The value that a command line's text stands for.

    Tuples are written with or without parentheses and quotes: `evaluate,report`, `(1, 3)`, `5,`.

    Raises:
      ConfigError: the text cannot be read as what the option holds.
    """
    alternatives = typing.get_args(option.kind) if _is_union(option.kind) else (option.kind,)
    origins = {typing.get_origin(kind) or kind for kind in alternatives}
    if tuple in origins and (len(origins) == 1 or "," in text or text[:1] in ("(", "[")):
        inner = _literal(text)
        if isinstance(inner, (tuple, list)):
            return tuple(inner)
        return tuple(_literal(part.strip()) for part in text.split(",") if part.strip())
    if bool in origins and text.lower() in ("true", "false", "1", "0"):
        return text.lower() in ("true", "1")
    if str in origins:
        return text
    value = _literal(text)
    if float in origins and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        raise ConfigError(f"config.{option.path} is {text!r}, but must be {option.rule.wants}")
    return value


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, type(int | str))


def _literal(text: str) -> Any:
    """A Python literal where the text is one, otherwise the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError):
        return text


def flatten(tree: Any, known: Mapping[str, Option], prefix: str = "") -> Iterator:
    """(dotted path, value) of a nested config; a dictionary that is one option's value stays
    whole.
    """
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) or hasattr(value, "items"):
            if path in known:
                yield path, dict(value)
            else:
                yield from flatten(value, known, f"{path}.")
        else:
            yield path, value


def describe(known: Mapping[str, Option], width: int = 100) -> str:
    """Every option with its default and meaning, a line or a few each, for `--help`."""
    import textwrap

    lines = []
    for path, one in known.items():
        lines.append(f"--config.{path}={_shown(one.default)}")
        lines += textwrap.wrap(
            one.meaning, width - 6, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return (
            ",".join(map(str, value))
            if not any(isinstance(v, (tuple, list)) for v in value)
            else repr(value)
        )
    return repr(value) if value == "" else str(value)
