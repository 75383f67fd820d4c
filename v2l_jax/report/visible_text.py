"""Token texts made visible: a space, a control character or a stray byte must be seen, not
guessed.
"""

import unicodedata
from typing import NamedTuple

# Unassigned, private, surrogate and format characters: nothing to draw, or an effect on their
# neighbours.
_INVISIBLE = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"}
_SIGNS = {" ": "␣", "\n": "↵", "\t": "⇥"}


class Piece(NamedTuple):
    """A run of text; `sign` is true where it stands for characters that cannot be seen
    themselves.
    """

    text: str
    sign: bool


def visible_pieces(text: str, keep: str = "") -> list[Piece]:
    """Splits text into runs that can be drawn and signs for what cannot.

    A space becomes ␣, a newline ↵, a tab ⇥, and every other character without a shape of its own
    (control characters, bidirectional marks, lone surrogates, private use, …) its number, as in
    [U+200F]. A combining mark that starts a run is put on a dotted circle. Characters in `keep`
    stay as they are.
    """
    pieces: list[Piece] = []
    for character in text:
        sign = None if character in keep else _sign(character)
        if sign is None and unicodedata.combining(character) and (not pieces or pieces[-1].sign):
            character = "◌" + character
        new = Piece(character, False) if sign is None else Piece(sign, True)
        if pieces and pieces[-1].sign == new.sign:
            pieces[-1] = Piece(pieces[-1].text + new.text, new.sign)
        else:
            pieces.append(new)
    return pieces


def visible_text(text: str, keep: str = " \n\u00a0") -> str:
    """The pieces in a row, as plain text."""
    return "".join(piece.text for piece in visible_pieces(text, keep))


def _sign(character: str) -> str | None:
    if character in _SIGNS:
        return _SIGNS[character]
    if unicodedata.category(character) in _INVISIBLE:
        return f"[U+{ord(character):04X}]"
    return None
