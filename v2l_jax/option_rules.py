"""What a value of a config may be: a test, and the words that say what it wants."""

import dataclasses
from collections.abc import Callable
from typing import Any


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


TEXT = Rule("a text", lambda v: isinstance(v, str))
NAME = Rule("a text that is not empty", lambda v: isinstance(v, str) and bool(v))
FLAG = Rule("True or False", lambda v: isinstance(v, bool))
POSITIVE = number(1, integer=True)
COUNT = number(0, integer=True)
WEIGHT = number(0)
SHARE = number(0, 1)
DTYPE = one_of("float32", "bfloat16", "auto")
TEMPLATE = Rule("a text with one {}", lambda v: isinstance(v, str) and v.count("{}") == 1)
CONTROLS = each(one_of("no_tokens", "shuffled"))
