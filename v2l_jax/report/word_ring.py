"""A photo ringed by its nearest words, as inline SVG (Zhu et al. 2024, Figure 6): same input, same
text.

Colours are the page's CSS variables, so that the figure follows its light or dark style.
"""

import html
import math
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from v2l_jax.report.images import centre_square, data_uri
from v2l_jax.report.visible_text import visible_text

_WIDTH = 356  # one SVG unit is about one pixel where a column of the page is narrowest, on a phone
_RADIUS = 76  # of the photo
_SIZES = (13.0, 21.0)  # of letters, for the farthest and the nearest word
_OPACITIES = (0.72, 1.0)
_GAP = 5.0  # between words, and between words and photo
_LONGEST = 240.0  # width of the nearest word at most; a longer one is cut
_NARROW, _WIDEST = frozenset("fijlrtI.,:;'|!()[]- "), frozenset("mwMW@%")


class Box(NamedTuple):
    """A word's place: its centre and half its sides, in SVG units from the centre of the photo."""

    x: float
    y: float
    half_width: float
    half_height: float


def word_ring(
    photo: UInt8[np.ndarray, "height width 3"],
    words: Sequence[str],
    similarities: Sequence[float],
    caption: str = "",
) -> str:
    """Draws the photo's centre square as a disc, with its words around it; the nearest are closest,
    largest and darkest.

    Args:
      photo: RGB, 0..255.
      words: nearest first, as the language model decodes them; surrounding white space is dropped.
      similarities: of each word to the photo, such as cosines; only their order and spread matter.
      caption: a line below, such as the class name.

    Raises:
      ValueError: not one similarity a word.
    """
    if len(words) != len(similarities):
        raise ValueError(f"{len(words)} words, {len(similarities)} similarities")
    shown = [_shown(word) for word in words]
    weights = _weights(similarities)
    sizes = [_between(_SIZES, weight) for weight in weights]
    boxes = place_words([text_width(word, size) for word, size in zip(shown, sizes)], sizes)
    top, bottom = _extent(boxes)
    parts = [
        f'<circle r="{_RADIUS + 2}" fill="none" stroke="var(--rule)" stroke-width="1"/>',
        f'<image href="{data_uri(centre_square(photo), 2 * _RADIUS * 2)}" x="{-_RADIUS}" '
        f'y="{-_RADIUS}" '
        f'width="{2 * _RADIUS}" height="{2 * _RADIUS}" preserveAspectRatio="xMidYMid slice" '
        'style="clip-path: circle(50%)"/>',
    ]
    for rank, (word, size, weight, box) in enumerate(zip(shown, sizes, weights, boxes)):
        parts.append(_text(word, box, size, _between(_OPACITIES, weight), nearest=rank == 0))
    if caption:
        bottom += 24
        parts.append(
            f'<text y="{bottom - 6:.1f}" font-size="13" '
            f'fill="var(--muted)">{html.escape(visible_text(caption))}</text>'
        )
    label = html.escape(
        f"{caption or 'A photo'}, ringed by its nearest words: {', '.join(shown)}.", quote=True
    )
    style = "display: block; width: 100%; height: auto; font-family: var(--sans, sans-serif)"
    view = f"{-_WIDTH / 2:.0f} {top:.1f} {_WIDTH} {bottom - top:.1f}"
    return (
        f'<svg role="img" aria-label="{label}" viewBox="{view}" text-anchor="middle" '
        f'style="{style}">{"".join(parts)}</svg>'
    )


def _text(word: str, box: Box, size: float, opacity: float, nearest: bool) -> str:
    colour, boldness = ("--accent", "600") if nearest else ("--ink", "400")
    return (
        f'<text x="{box.x:.1f}" y="{box.y + 0.34 * size:.1f}" font-size="{size:.1f}" '
        f'font-weight="{boldness}" '
        f'fill="var({colour})" fill-opacity="{opacity:.2f}">{html.escape(word)}</text>'
    )


def place_words(widths: Sequence[float], heights: Sequence[float]) -> list[Box]:
    """Puts words around the photo so that none touches it, another word, or the sides of the
    figure.

    Each word in turn takes the free place nearest to the photo; where several are as near, the one
    that is farthest round from the words before it, so that words surround the photo instead of
    piling up on a side.

    Args:
      widths, heights: of each word, in SVG units; no word is wider than the figure.
    """
    boxes: list[Box] = []
    for width, height in zip(widths, heights, strict=True):
        boxes.append(_free_place(boxes, width / 2, height * 0.62))
    return boxes


def _free_place(boxes: Sequence[Box], half_width: float, half_height: float) -> Box:
    """The nearest free place, searched on growing circles; above and below there is always room."""
    radius = _RADIUS
    while True:
        angles = 2 * math.pi * np.arange(120) / 120 - math.pi / 2
        free = []
        for angle in angles:
            box = Box(radius * math.cos(angle), radius * math.sin(angle), half_width, half_height)
            if _is_free(box, boxes):
                free.append(box)
        if free:
            return max(free, key=lambda box: (round(_distance_round(box, boxes), 6), -box.y, box.x))
        radius += 4


def _is_free(box: Box, boxes: Sequence[Box]) -> bool:
    if abs(box.x) + box.half_width > _WIDTH / 2 - _GAP:
        return False
    beside, above = max(abs(box.x) - box.half_width, 0), max(abs(box.y) - box.half_height, 0)
    if math.hypot(beside, above) < _RADIUS + _GAP:
        return False
    return not any(
        abs(box.x - other.x) < box.half_width + other.half_width + _GAP
        and abs(box.y - other.y) < box.half_height + other.half_height
        for other in boxes
    )


def _distance_round(box: Box, boxes: Sequence[Box]) -> float:
    """Smallest angle between a place and the words placed, seen from the photo's centre; π where
    there is none.
    """
    angle = math.atan2(box.y, box.x)
    return min(
        (abs(math.remainder(angle - math.atan2(b.y, b.x), 2 * math.pi)) for b in boxes),
        default=math.pi,
    )


def text_width(text: str, size: float) -> float:
    """A width, in SVG units, that the text does not exceed in common sans-serif typefaces."""
    return size * sum(_letter_width(letter) for letter in text)


def _letter_width(letter: str) -> float:
    if letter in _WIDEST or unicodedata.east_asian_width(letter) in "WF":
        return 1.0
    if letter in _NARROW:
        return 0.42
    return 0.82 if letter.isupper() else 0.64


def _shown(word: str) -> str:
    text = visible_text(word.strip())
    if text_width(text, _SIZES[1]) <= _LONGEST:
        return text
    while text_width(text + "…", _SIZES[1]) > _LONGEST:
        text = text[:-1]
    return text + "…"


def _weights(similarities: Sequence[float]) -> list[float]:
    """Similarities scaled to 0 (the farthest word) … 1 (the nearest)."""
    low, high = min(similarities, default=0.0), max(similarities, default=0.0)
    return [(s - low) / (high - low) if high > low else 1.0 for s in similarities]


def _between(ends: tuple[float, float], weight: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * weight


def _extent(boxes: Sequence[Box]) -> tuple[float, float]:
    """Top and bottom of photo and words."""
    tops = [box.y - box.half_height for box in boxes]
    bottoms = [box.y + box.half_height for box in boxes]
    return min([-_RADIUS, *tops]) - _GAP, max([_RADIUS, *bottoms]) + _GAP
