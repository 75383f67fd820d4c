"""Progress with an ETA: a live bar on a terminal, a line every half minute in a log file."""

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress_bar(
    iterable: Iterable[T], description: str, unit: str, total: int | None = None
) -> "tqdm[T]":
    """Wraps `iterable` so that whoever waits sees what runs, how fast, and for how long still.

    Args:
      iterable: what to loop over.
      description: what is being done, in a few words; an empty one shows nothing, for loops inside
        a loop that has a bar.
      unit: what one item is ("image", "episode", "step").
      total: number of items where `len(iterable)` does not tell.

    Returns:
      A tqdm iterator; `set_postfix_str` shows a live value beside the bar.
    """
    live = sys.stderr.isatty()
    return tqdm(
        iterable,
        desc=description,
        unit=unit,
        total=total,
        mininterval=0.5 if live else 30.0,
        miniters=1 if not live else None,
        dynamic_ncols=live,
        leave=True,
        disable=not description,
    )
