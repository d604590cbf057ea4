"""Damage of files, as bad disks, hasty hands and other programs do it: reproducible from a random generator."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

__all__ = ["ODD", "damage_bytes", "damage_json", "encode"]

#: Values that take the place of any other one.
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 0.5, 2**63, 2**64, 10**400, -(10**400), 1e308, -1e308),
    *(float("nan"), float("inf"), float("-inf")),
    *("", " ", "0", "nan", "1e400", "-1", "metric", "run", "value", "=HYPERLINK(0)", "../../x", "/", "a" * 5000),
    *(r"$\frac{$", r"\input{x}", "\ud800", "\0", "\u202eé\N{SNOWMAN}\U0001f600", "\n\n", "\x1b[2J", "<b>&amp;"),
    *([], {}, [1], [None], {"a": 1}, {"": []}, [[[]]]),
    *("<deep 300>", "<deep 900>", "<deep 100000>", "<digits>"),
)

#: Strings of :data:`ODD` -> what stands in the file instead, which ``json.dumps`` can't write.
RAW = {
    **{f'"<deep {depth}>"': "[" * depth + "]" * depth for depth in (300, 900, 100_000)},
    '"<digits>"': "9" * 5000,
}


def encode(data: Any) -> bytes:
    """JSON with the odd values in it."""
    text = json.dumps(data)
    for mark, raw in RAW.items():
        text = text.replace(mark, raw)
    return text.encode()


def damage_json(data: Any, rng: random.Random) -> bytes:
    """The JSON text of ``data`` with one to three of its values replaced, removed, renamed or doubled."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = _damage_node(data, rng)
    return encode(data)


def damage_bytes(content: bytes, rng: random.Random) -> bytes:
    """The content with bits flipped, cut off, or with something inserted."""
    kind = rng.choice((_flip, _flip, _cut, _insert, _repeat))
    return kind(content, rng)


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8)) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _insert(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    odd = rng.choice(
        (b"\0" * 512, b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"NaN", b"{", b'"', b"\r\n", b"[" * 2000)
    )
    return content[:place] + odd + content[place:]


def _repeat(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    return content[:place] + content[rng.randrange(len(content) + 1) :]


def _damage_node(data: Any, rng: random.Random) -> Any:
    """``data`` with one change, at a place chosen by going down from the root."""
    if isinstance(data, dict) and data and rng.random() < 0.93:
        key = rng.choice(list(data))
        change: Callable[[], Any] = rng.choice(
            (
                *(lambda: {**data, key: _damage_node(data[key], rng)},) * 6,
                lambda: {name: value for name, value in data.items() if name != key},
                lambda: {str(rng.choice(ODD)) if name == key else name: value for name, value in data.items()},
                lambda: {**data, str(rng.choice(ODD)): data[key]},
            )
        )
        return change()
    if isinstance(data, list) and data and rng.random() < 0.9:
        place = rng.randrange(len(data))
        new = [_damage_node(data[place], rng)] if rng.random() < 0.8 else rng.choice(([], [data[place]] * 2))
        return [*data[:place], *new, *data[place + 1 :]]
    return rng.choice(ODD)
