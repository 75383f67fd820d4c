"""One renderer of tables: a `TableSpec` says where each result stands and how it is written."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from v2l_jax.metrics.results import Result, Scalar
from v2l_jax.report.data import Table

Fields = Mapping[str, Any]
Key = tuple[Scalar, ...]

OF_THE_RUN = frozenset({"job", "task", "identity", "commit", "device"})
"""Fields that say which run made a row; a table of what was measured leaves them out."""

_ACRONYMS = {"clip", "fid", "gan", "gpu", "lpips", "psnr", "ssim", "vq", "vqa"}


@dataclasses.dataclass(frozen=True)
class Number:
    """How a number and its interval are written.

    Attributes:
      decimals: digits after the point; None writes four significant digits.
      scale: what the number is multiplied by, such as 100 for percent.
      sign: "+" writes the sign of positive numbers too.
      between: stands between the ends of the interval; " to " where one is negative.
      unit: stands after the number, not after the interval.
      undefined: stands for a number that is not finite.
      counted: whether the table's caption counts its samples; a cost is not of the samples that
        the other columns are of.
    """

    decimals: int | None = None
    scale: float = 1.0
    sign: str = ""
    between: str = "–"
    unit: str = ""
    undefined: str = "undefined"
    counted: bool = True

    def text(self, value: float) -> str:
        """The number alone."""
        digits = ".4g" if self.decimals is None else f",.{self.decimals}f"
        return f"{value * self.scale:{self.sign}{digits}}"

    def cell(self, result: Result) -> str:
        """The number, and its 95 % interval on a second line where it has one."""
        if not math.isfinite(result.value):
            return self.undefined
        value = self.text(result.value) + self.unit
        if result.ci95 is None or not all(map(math.isfinite, result.ci95)):
            return value
        between = " to " if min(result.ci95) < 0 else self.between
        return f"{value}\n{between.join(map(self.text, result.ci95))}"


@dataclasses.dataclass(frozen=True)
class Published:
    """A row of numbers that others published; it stands below the measured ones.

    Attributes:
      label: names the row; what follows a newline is set small.
      values: by column: the value of the column's field, or a tuple of values where columns are
        made by several fields. Numbers are in the unit of the column's cells (percent, not shares);
        texts are written as they are.
      fields: the tables where it stands (those with these values), and its `row_columns`.
    """

    label: str
    values: Mapping[Any, float | str]
    fields: Fields = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class TableSpec:
    """Where each result of a task stands. Fields are those of `Result.measured_on`, and "metric".

    Values of a field stand in the order of their labels; then numbers by size, and other values in
    the order of the results.

    Example: rows are controls, columns metrics, a table for each data set:

        TableSpec(
            caption="{dataset}: {count} images; {llm}",
            tables=("dataset", "llm"),
            rows=("control",),
            columns=("metric",),
            labels={
                "control": {"none": "The image's words", "shuffled": "Control: another image's"},
                "metric": {"cider": "CIDEr", "bleu_4": "BLEU-4"},
            },
            numbers={"cider": Number(3), "bleu_4": Number(3)},
        )

    Attributes:
      caption: a format string of the fields in `tables` (with their labels), `count` (how many
        samples a number has) and `setting` (all fields in `tables`, named).
      rows: fields that make rows.
      columns: fields that make columns; with none there is a single column.
      tables: fields that make tables; None takes every field that is not used otherwise,
        but floats, which are further measurements; tables then stand in the order of the results.
      labels: by field, or by a tuple of fields that stand together in `rows` or `columns`: a label
        for each value, or tuple of values. A label is a format string of the result's fields; the
        part after a newline is set small. Values without a label are written as they are.
      row_label: a format string that names a row; by default the labels of `rows`, each on a line.
      row_columns: fields of `rows` with a column of their own, and its head; they are not part of
        the row's default name.
      corner: head of the first column.
      single: head of the column where `columns` is empty.
      counts: head of a last column with the samples behind the row's first number; "" = none.
      counts_in_head: whether each column's head says how many samples its first number has.
      all_columns: whether every column that has a label is shown, even an empty one.
      numbers: by metric, how its numbers are written.
      published: rows from papers.
      published_apart: caption of a table of their own, below the others; "" puts them below ours.
      missing: stands where nothing was measured.
    """

    caption: str
    rows: tuple[str, ...]
    columns: tuple[str, ...] = ()
    tables: tuple[str, ...] | None = ()
    labels: Mapping[Any, Mapping[Any, str]] = dataclasses.field(default_factory=dict)
    row_label: str = ""
    row_columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    corner: str = ""
    single: str = "Value"
    counts: str = ""
    counts_in_head: bool = False
    all_columns: bool = False
    numbers: Mapping[str, Number] = dataclasses.field(default_factory=dict)
    published: Sequence[Published] = ()
    published_apart: str = ""
    missing: str = "–"


def render(results: Iterable[Result], spec: TableSpec) -> list[Table]:
    """The tables that a specification makes of results; none without results.

    A result that lacks one of the fields of rows, columns or tables is left out. Of two results in
    one cell the later stands.
    """
    results = list(results)
    fields = _table_fields(results, spec)
    needed = {*spec.rows, *spec.columns, *(fields if spec.tables is not None else ())}
    placed = [(r, f) for r in results if needed <= (f := fields_of(r)).keys()]
    groups = _grouped(placed, fields, spec if spec.tables is not None else None)
    tables = [
        _table([result for result, _ in members], dict(zip(fields, key)), spec)
        for key, members in groups
    ]
    if spec.published_apart and tables:
        rows = [(row, {}) for row in spec.published]
        tables.append(_assembled(spec.published_apart, [], {}, rows, spec))
    return tables


def with_fields(result: Result, **fields: Scalar) -> Result:
    """The result with further or other fields, such as a column that several fields decide."""
    return dataclasses.replace(result, measured_on={**result.measured_on, **fields})


def fields_of(result: Result) -> dict[str, Any]:
    """Every field that a table may use: what it was measured on, and "metric"."""
    return {**result.measured_on, "metric": result.metric}


def setting_of(result: Result, hidden: Iterable[str] = ()) -> dict[str, Any]:
    """What a result was measured on; floats are further measurements (seconds), not settings."""
    return {
        key: value
        for key, value in result.measured_on.items()
        if key not in OF_THE_RUN and key not in hidden and isinstance(value, str | int)
    }


def described(setting: Fields) -> str:
    """Fields in one line: "llm: SmolLM2 · tokens: 5"."""
    return " · ".join(f"{key.replace('_', ' ')}: {value}" for key, value in setting.items())


def metric_label(metric: str) -> str:
    """Names a metric as the field writes it: PSNR, Few shot throughput."""
    words = metric.replace("_", " ").replace("/", " ").split()
    text = " ".join(word.upper() if word in _ACRONYMS else word for word in words)
    return text[:1].upper() + text[1:]


def table_text(table: Table) -> str:
    """A table for the terminal: columns in line, intervals left out."""
    cells = [tuple(table.head)] + [
        (" — ".join(row[0].split("\n")), *(cell.split("\n")[0] for cell in row[1:]))
        for row in table.rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join([table.caption, *lines])


def _table_fields(results: Sequence[Result], spec: TableSpec) -> tuple[str, ...]:
    if spec.tables is not None:
        return spec.tables
    used = {*spec.rows, *spec.columns}
    return tuple(dict.fromkeys(key for r in results for key in setting_of(r, used)))


_Placed = tuple[Result, Fields]


def _grouped(
    placed: Sequence[_Placed], names: Sequence[str], spec: TableSpec | None
) -> list[tuple[Key, list[_Placed]]]:
    """Results by their values of some fields, in the order in which these values stand; without a
    specification, in the order they came.
    """
    groups: dict[Key, list[_Placed]] = {}
    for result, fields in placed:
        groups.setdefault(tuple(fields.get(name) for name in names), []).append((result, fields))
    if spec is None:
        return list(groups.items())
    seen = [{value: i for i, value in enumerate(dict.fromkeys(v))} for v in zip(*groups)]
    together = list(spec.labels.get(tuple(names), ()))

    def place(key: Key) -> tuple:
        if key in together:
            return (0, together.index(key))
        return (1, *(_place(n, v, first, spec) for n, v, first in zip(names, key, seen)))

    return sorted(groups.items(), key=lambda item: place(item[0]))


def _place(name: str, value: Scalar, seen: Mapping[Scalar, int], spec: TableSpec) -> tuple:
    labels = list(spec.labels.get(name, ()))
    if value in labels:
        return (0, labels.index(value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (1, value)
    return (2, seen[value])


def _table(results: Sequence[Result], on: Fields, spec: TableSpec) -> Table:
    placed = [(result, fields_of(result)) for result in results]
    columns = [key for key, _ in _grouped(placed, spec.columns, spec)]
    published = [
        (row, on)
        for row in (() if spec.published_apart else spec.published)
        if all(row.fields[name] == on[name] for name in on if name in row.fields)
    ]
    if spec.all_columns:
        labelled = [
            key if isinstance(key, tuple) else (key,) for key in _labels(spec.columns, spec)
        ]
        columns = labelled + [key for key in columns if key not in labelled]
    counted = [r.count for r in results if spec.numbers.get(r.metric, Number()).counted]
    counts = sorted(set(counted)) or [0]
    count = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    shown = {name: _written(name, value, on, spec) for name, value in on.items()}
    setting = described({name: value for name, value in on.items() if value is not None})
    caption = spec.caption.format_map({**shown, "count": count, "setting": setting}).strip()
    return _assembled(caption, placed, dict.fromkeys(columns), published, spec)


def _assembled(
    caption: str,
    placed: Sequence[_Placed],
    columns: Iterable[Key],
    published: Sequence[tuple[Published, Fields]],
    spec: TableSpec,
) -> Table:
    """Head and rows; without columns, those of the published rows."""
    columns = list(columns) or list(
        dict.fromkeys(_key(name) for row, _ in published for name in row.values)
    )
    firsts: dict[Key, Result] = {}
    body = []
    for _, members in _grouped(placed, spec.rows, spec):
        cells = {tuple(fields[name] for name in spec.columns): r for r, fields in members}
        firsts = {key: cells[key] for key in columns if key in cells} | firsts
        body.append((*_row_head(members[0][1], spec), *_row_cells(cells, columns, spec)))
    for row, on in published:
        own = (_plain(row.fields.get(name), spec) for name in spec.row_columns)
        body.append((row.label, *own, *_published_cells(row, on, columns, spec)))
    heads = [_column_head(key, firsts.get(key), spec) for key in columns]
    last = (spec.counts,) if spec.counts else ()
    return Table(caption, (spec.corner, *spec.row_columns.values(), *heads, *last), body)


def _row_head(fields: Fields, spec: TableSpec) -> list[str]:
    own = [_plain(fields[name], spec) for name in spec.row_columns]
    if spec.row_label:
        shown = {name: _written(name, value, fields, spec) for name, value in fields.items()}
        return [spec.row_label.format_map(shown), *own]
    names = tuple(name for name in spec.rows if name not in spec.row_columns)
    return ["\n".join(filter(None, _named(names, fields, spec))), *own]


def _row_cells(cells: Mapping[Key, Result], columns: Sequence[Key], spec: TableSpec) -> list[str]:
    found = [cells.get(key) for key in columns]
    texts = [
        spec.missing if r is None else spec.numbers.get(r.metric, Number()).cell(r) for r in found
    ]
    first = next((result for result in found if result is not None), None)
    return texts + ([f"{first.count:,}" if first else ""] if spec.counts else [])


def _published_cells(
    row: Published, on: Fields, columns: Sequence[Key], spec: TableSpec
) -> list[str]:
    values = {_key(name): value for name, value in row.values.items()}
    texts = []
    for key in columns:
        fields = {**on, **dict(zip(spec.columns, key))}
        only = next(iter(spec.numbers)) if len(spec.numbers) == 1 else ""
        number = dataclasses.replace(
            spec.numbers.get(str(fields.get("metric", only)), Number()), scale=1.0
        )
        value = values.get(key)
        texts.append(
            spec.missing
            if value is None
            else value
            if isinstance(value, str)
            else number.text(value) + number.unit
        )
    return texts + [""] * bool(spec.counts)


def _column_head(key: Key, first: Result | None, spec: TableSpec) -> str:
    fields = {} if first is None else fields_of(first)
    fields |= dict(zip(spec.columns, key))
    named = _named(spec.columns, fields, spec, plain=lambda v: metric_label(str(v)))
    text = ", ".join(filter(None, named)) if spec.columns else spec.single
    return f"{text} ({first.count:,})" if spec.counts_in_head and first else text


def _named(
    names: tuple[str, ...], fields: Fields, spec: TableSpec, plain: Callable[[Scalar], str] = str
) -> list[str]:
    """Labels of several fields: one where their values have one together, otherwise one each."""
    together = spec.labels.get(names, {}).get(tuple(fields[name] for name in names))
    if together is not None:
        return [together.format_map(fields)]
    texts = []
    for name in names:
        label = spec.labels.get(name, {}).get(fields[name])
        texts.append(plain(fields[name]) if label is None else label.format_map(fields))
    return texts


def _labels(names: tuple[str, ...], spec: TableSpec) -> Mapping[Any, str]:
    return spec.labels.get(names) or spec.labels.get(names[0] if len(names) == 1 else names) or {}


def _written(name: str, value: Any, fields: Fields, spec: TableSpec) -> Any:
    label = spec.labels.get(name, {}).get(value)
    return value if label is None else label.format_map(fields)


def _plain(value: Any, spec: TableSpec) -> str:
    return spec.missing if value is None else str(value)


def _key(name: Any) -> Key:
    return name if isinstance(name, tuple) else (name,)
