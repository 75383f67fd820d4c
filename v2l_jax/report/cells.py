"""Numbers as table cells."""

import math

from v2l_jax.metrics.results import Result


def result_cell(
    result: Result | None, decimals: int, scale: float = 1.0, between: str = "–"
) -> str:
    """The value times `scale`, and its 95 % interval on a second line, `between` its ends; an en
    dash where there is none.
    """
    if result is None:
        return "–"
    if not math.isfinite(result.value):
        return "undefined"
    interval = (
        ""
        if result.ci95 is None
        else "\n" + between.join(f"{end * scale:.{decimals}f}" for end in result.ci95)
    )
    return f"{result.value * scale:.{decimals}f}{interval}"
