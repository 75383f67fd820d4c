"""The study of token choice as tables: what each way of choosing words adds to few-shot accuracy."""

from collections.abc import Mapping, Sequence

from v2l_jax.metrics.results import Result
from v2l_jax.report.data import Table

_HEAD = (
    "Way to choose",
    "Training photos",
    "Held-out photos",
    "Adds to that",
    "Adds to the paper’s way",
)


def token_choice_tables(results: Sequence[Result]) -> list[Table]:
    """One table for each number of ways; the way with the best accuracy on training photos, over
    all ways, is marked.

    Args:
      results: rows with metric "token_choice_accuracy", "token_choice_added" or
        "token_choice_over_paper", whose fields name the "choice", what it is "against", its
        "reader", "ways", "photos" ("training" or "held-out"), "shots", "tokens" and "llm".
    """
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        groups.setdefault(
            tuple(
                str(result.measured_on.get(key))
                for key in ("llm", "dataset", "shots", "tokens", "episodes")
            ),
            [],
        ).append(result)
    return [table for members in groups.values() for table in _tables(members)]


def _tables(results: Sequence[Result]) -> list[Table]:
    cells = {
        (
            r.measured_on["ways"],
            r.measured_on["choice"],
            r.measured_on["photos"],
            r.metric.removeprefix("token_choice_"),
        ): r
        for r in results
    }
    against = {r.measured_on["choice"]: r.measured_on["against"] for r in results}
    best = best_choice(results)
    tables = []
    for ways in sorted({key[0] for key in cells}):
        first = next(r for key, r in cells.items() if key[0] == ways)
        on = first.measured_on
        caption = f"{ways}-way {on['shots']}-shot accuracy in percent, {on['llm']}, {on['dataset']}, {first.count} episodes each"
        rows = [
            (_name(choice, basis, choice == best), *_row(cells, ways, choice))
            for choice, basis in against.items()
        ]
        tables.append(Table(caption, _HEAD, rows))
    return tables


def best_choice(results: Sequence[Result]) -> str | None:
    """The choice with the highest mean accuracy on training photos over all numbers of ways
    measured; the earlier of equals.

    What asks no language model is there to compare with, and cannot be picked.
    """
    found: dict[str, list[float]] = {}
    for result in results:
        on = result.measured_on
        if (result.metric, on["photos"], on["reader"]) == (
            "token_choice_accuracy",
            "training",
            "language model",
        ):
            found.setdefault(str(on["choice"]), []).append(result.value)
    most = max(map(len, found.values()), default=0)
    whole = {choice: sum(values) for choice, values in found.items() if len(values) == most}
    return max(whole, key=whole.__getitem__) if whole else None


def _name(choice: str, against: str, best: bool) -> str:
    notes = [f"changes: {against}"] * bool(against) + ["best on training photos"] * best
    return "\n".join([choice, *notes])


def _row(cells: Mapping[tuple, Result], ways: int, choice: str) -> tuple[str, ...]:
    found = lambda photos, kind: cells.get((ways, choice, photos, kind))
    return (
        _points(found("training", "accuracy"), ""),
        _points(found("held-out", "accuracy"), ""),
        _points(found("held-out", "added"), "+"),
        _points(found("held-out", "over_paper"), "+"),
    )


def _points(result: Result | None, sign: str) -> str:
    if result is None:
        return "–"
    low, high = result.ci95 or (None, None)
    interval = "" if low is None else f"\n{100 * low:{sign}.1f} to {100 * high:{sign}.1f}"
    return f"{100 * result.value:{sign}.1f}{interval}"
