"""Damages bytes as storage, editors and attackers do; the same seed gives the same damage."""

import random
import struct

_SPECIAL = (
    b"", b"\0", b"\xff\xff\xff\xff", b"\xff" * 8, b"\x7f\xff\xff\xff", b"\0" * 16, b"\xef\xbb\xbf",
    b"\xff\xfe", b"null", b"NaN", b"-1", b"1e999", b"99999999999999999999", b"[]", b"{}", b'""',
    b"true", b"[" * 2000, b"../", b"\r\n", b",", b"\xc3\x28", b"cos\nsystem\n(S'true'\ntR.", b"'",
    b'"',     b"\\ud800", b"\xed\xa0\x80",
)  # fmt: skip
_NUMBERS = (0, 1, 2, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)


def damaged(content: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """A copy with one to six damages."""
    result = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        rng.choice(_DAMAGES)(result, others, rng)
        if len(result) > 1 << 20:
            del result[1 << 20 :]
    return bytes(result)


def _flip(result: bytearray, others: list[bytes], rng: random.Random) -> None:
    if result:
        result[rng.randrange(len(result))] ^= 1 << rng.randrange(8)


def _byte(result: bytearray, others: list[bytes], rng: random.Random) -> None:
    if result:
        result[rng.randrange(len(result))] = rng.randrange(256)


def _early_byte(result: bytearray, others: list[bytes], rng: random.Random) -> None:
    """Headers are short and matter most."""
    if result:
        result[rng.randrange(min(len(result), 64))] = rng.randrange(256)


def _truncate(result: bytearray, others: list[bytes], rng: random.Random) -> None:
    del result[rng.randrange(len(result) + 1) :]


def _remove(result: bytearray, others: list[bytes], rng: random.Random) -> None:
    start, end = sorted(rng.randrange(len(result) + 1) for _ in range(2))
    del result[start : min(end, start + rng.choice((1, 4, 64, 4096)))]


def _repeat(result: bytearray, others: list[bytes], rng: random.Random) -> None:
    start = rng.randrange(len(result) + 1)
    piece = bytes(result[start : start + rng.choice((1, 4, 64, 512))])
    result[start:start] = piece * rng.choice((1, 2, 50))


def _insert(result: bytearray, others: list[bytes], rng: random.Random) -> None:
    start = rng.randrange(len(result) + 1)
    result[start : start + rng.choice((0, 0, 1, 4))] = rng.choice(_SPECIAL)


def _number(result: bytearray, others: list[bytes], rng: random.Random) -> None:
    """A length or an offset."""
    kind = rng.choice(("<H", "<I", "<Q", ">I", ">H"))
    size = struct.calcsize(kind)
    if len(result) >= size:
        start = rng.randrange(len(result) - size + 1)
        result[start : start + size] = struct.pack(
            kind, rng.choice(_NUMBERS) & ((1 << 8 * size) - 1)
        )


def _splice(result: bytearray, others: list[bytes], rng: random.Random) -> None:
    other = rng.choice(others)
    result[rng.randrange(len(result) + 1) :] = other[rng.randrange(len(other) + 1) :]


_DAMAGES = (
    _flip, _byte, _early_byte, _early_byte, _truncate, _remove, _repeat, _insert, _insert, _number,
    _number, _splice,
)  # fmt: skip
