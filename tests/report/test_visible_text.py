"""Every character of a token is either drawn or named."""

import unicodedata

import pytest

from v2l_jax.report.visible_text import visible_pieces, visible_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" dog", "␣dog"),
        ("\n\t", "↵⇥"),
        ("a\x00b\x7f", "a[U+0000]b[U+007F]"),
        ("\u202eevil", "[U+202E]evil"),
        ("\ud800", "[U+D800]"),
        ("\u00a0\u2028\ue000", "[U+00A0][U+2028][U+E000]"),
        ("שלום", "שלום"),
        ("\u0301e\u0301", "◌\u0301e\u0301"),
        ("", ""),
    ],
)
def test_signs(text, shown):
    assert visible_text(text, keep="") == shown


def test_kept_characters_stay():
    assert visible_text("a b\nc\t", keep=" \n") == "a b\nc⇥"


def test_nothing_invisible_is_left_in_the_first_plane():
    text = "".join(map(chr, range(0x10000)))
    invisible = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"}
    assert not [
        hex(ord(c)) for c in visible_text(text, keep="") if unicodedata.category(c) in invisible
    ]


def test_signs_are_told_from_text():
    assert [tuple(piece) for piece in visible_pieces(" a␣")] == [("␣", True), ("a␣", False)]
