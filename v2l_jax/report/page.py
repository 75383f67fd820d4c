"""The report: one self-contained HTML page, made from plain data, that opens offline in any
browser.
"""

import importlib.resources
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from v2l_jax.metrics.results import Result
from v2l_jax.report import accuracy, images, plots, quality
from v2l_jax.report.curves import Curves, curve_plots
from v2l_jax.report.data import PhotoRow, ReportData, TaskSection
from v2l_jax.report.tables import metric_label
from v2l_jax.report.visible_text import visible_pieces, visible_text

_NUMBERS = dict(
    enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
)
_OPEN_CURVES = 6  # further curves are folded away


def render_page(data: ReportData) -> str:
    """Renders the report; the same data gives the same text.

    The page needs no script and loads nothing: style, pictures and plots are inside it. A section
    without data becomes a sentence that names the job which makes it.
    """
    groups = accuracy.accuracy_groups(data.results)
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        finalize=lambda value: visible_text(value) if type(value) is str else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "visible": _visible,
        "percent": lambda share: "undefined" if math.isnan(share) else f"{100 * share:.1f}\u00a0%",
        "short_percent": lambda share: f"{100 * share:.3g}\u00a0%",
        "spelled": lambda number: _NUMBERS.get(number, str(number)),
        "duration": _duration,
        "interval": lambda ends: "–".join(f"{100 * end:.1f}" for end in ends),
        "value": _value,
        "label": lambda name: str(name).replace("_", " "),
    }
    return environment.get_template("page.html").render(
        data=data,
        css=Markup(_read("page.css")),
        headline=accuracy.headline(groups),
        facts=_facts(data.results),
        photos=[_photo(photo) for photo in data.photos],
        accuracy=accuracy.accuracy_tables(data.results, data.to_beat),
        groups=groups,
        accuracy_plots=_accuracy_plots(groups),
        quality=quality.quality_tables(data.results),
        sections=[_section(section) for section in data.sections],
        other=quality.other_tables(
            result
            for result in data.results
            if result.measured_on.get("task") not in {section.name for section in data.sections}
        ),
        curves=_curve_plots(data.curves),
        open_curves=_OPEN_CURVES,
    )


def _read(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _photo(photo: PhotoRow) -> dict[str, Any]:
    reconstruction = photo.reconstruction
    return {
        "original": Markup(images.data_uri(images.centre_square(photo.original))),
        "reconstruction": None
        if reconstruction is None
        else Markup(images.data_uri(reconstruction)),
        "size": None
        if reconstruction is None
        else f"{reconstruction.shape[1]} × {reconstruction.shape[0]} pixels",
        "words": photo.words,
        "local_words": photo.local_words,
        "caption": photo.caption,
        "credit": photo.credit,
    }


def _section(section: TaskSection) -> dict[str, Any]:
    def picture(image: np.ndarray | None) -> Markup | None:
        return None if image is None else Markup(images.data_uri(image))

    return {
        "section": section,
        "figures": [Markup(figure) for figure in section.figures],
        "galleries": [
            (
                gallery.caption,
                [[(picture(shown.image), shown.caption) for shown in row] for row in gallery.rows],
            )
            for gallery in section.galleries
        ],
    }


def _accuracy_plots(groups: Sequence[Sequence[accuracy.AccuracyGroup]]) -> list[list[Markup]]:
    return [
        [Markup(plots.accuracy_plot(g.ways, g.by_shots, f"accuracy-{n}-{g.ways}")) for g in setting]
        for n, setting in enumerate(groups)
    ]


def _curve_plots(curves: Curves) -> list[dict[str, Any]]:
    drawn = []
    for number, (quantity, lines) in enumerate(curve_plots(curves)):
        label = visible_text(metric_label(quantity))
        svg = Markup(plots.curve_plot(label, lines, f"curve-{number}"))
        drawn.append({"label": label, "lines": [line.name for line in lines], "svg": svg})
    return drawn


def _facts(results: Sequence[Result]) -> dict[str, Any]:
    """What the summary says about the run: the language model and the tower that its first few-shot
    results name.
    """
    on = [result.measured_on for result in results if result.metric == accuracy.METRIC]
    return {key: next((o[key] for o in on if key in o), None) for key in ("llm", "tower")}


def _visible(text: str, keep: str = "") -> Markup:
    """Escapes a text and draws what cannot be seen as signs."""
    form = {True: Markup('<wbr><span class="sign">{}</span>'), False: Markup("{}")}
    return Markup("").join(
        form[piece.sign].format(piece.text) for piece in visible_pieces(text, keep)
    )


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _value(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_value(part) for part in value)
    return str(value)
