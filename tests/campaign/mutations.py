"""Seeded damages of files, of nested containers and of texts."""

from __future__ import annotations

import copy
import random
import zlib
from collections.abc import Callable
from typing import Any


def mutate(chance: random.Random, data: bytes) -> bytes:
    """A file with one or several random damages."""
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        data = chance.choice(_DAMAGES)(chance, bytearray(data))
    return data


def _place(chance: random.Random, data: bytearray) -> slice:
    start = chance.randrange(len(data) + 1)
    return slice(start, min(len(data), start + chance.choice((1, 2, 4, 16, 256))))


def _set(values: Callable[[random.Random, int], bytes]) -> Callable[[random.Random, bytearray], bytes]:
    def damage(chance: random.Random, data: bytearray) -> bytes:
        place = _place(chance, data)
        data[place] = values(chance, place.stop - place.start)
        return bytes(data)

    return damage


def _flip(chance: random.Random, data: bytearray) -> bytes:
    for _ in range(chance.choice((1, 8)) if data else 0):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def _cut(chance: random.Random, data: bytearray) -> bytes:
    return bytes(data[: chance.randrange(len(data) + 1)])


def _repeat(chance: random.Random, data: bytearray) -> bytes:
    place = _place(chance, data)
    data[place.stop : place.stop] = data[place] * chance.choice((1, 3, 50))
    return bytes(data)


_DAMAGES: tuple[Callable[[random.Random, bytearray], bytes], ...] = (
    *(_flip, _flip, _cut, _repeat),
    _set(lambda chance, size: chance.randbytes(size)),
    *(_set(lambda chance, size, value=value: value * size) for value in (b"\0", b"\xff", b"\x7f")),
    _set(lambda chance, size: b""),
    _set(lambda chance, size: chance.randbytes(chance.choice((1, 7, 300)))),
)

WORDS: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 1e308, -1e-9, float("nan"), "", "a", "../x", "/etc/passwd", "${seed}", "\0"),
    *("=1+1", "é" * 300, "[" * 50, [], {}, [[]], [0] * 100, {"_target_": "os.system", "command": "touch out"}, {"": 1}),
)


def _word(chance: random.Random) -> Any:
    return copy.deepcopy(chance.choice(WORDS))  # what is filled with others must not be in the next case


def junk(chance: random.Random, node: Any) -> Any:
    """Nested containers with one or several values replaced, removed or added."""
    places: list[tuple[Any, Any]] = []

    def walk(part: Any) -> None:
        inner = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
        for key, value in inner:
            places.append((part, key))
            walk(value)

    walk(node)
    for _ in range(chance.choice((1, 1, 2, 5)) if places else 0):
        part, key = chance.choice(places)
        if isinstance(part, dict) and chance.random() < 0.3:
            part.pop(key, None)
        elif isinstance(part, dict) and chance.random() < 0.2:
            part[chance.choice(("x", "_target_", "__class__"))] = _word(chance)
        elif isinstance(part, dict) or key < len(part):
            part[key] = _word(chance)
    return node


def lines(chance: random.Random, data: bytes) -> bytes:
    """A text with lines removed, repeated, mixed or replaced, or damaged as any file."""
    if chance.random() < 0.3:
        return mutate(chance, data)
    found = data.splitlines()
    for _ in range(chance.choice((1, 2, 5))):
        place = chance.randrange(len(found) + 1)
        word = str(_word(chance)).encode(errors="replace")
        change = chance.randrange(5)
        if change == 0:
            found[place : place + 1] = []
        elif change == 1:
            found[place:place] = found[place : place + 1] * 2
        elif change == 2:
            found.insert(place, word)
        elif place < len(found):
            parts = found[place].split(b" " if change == 3 else b"/")
            parts[chance.randrange(len(parts))] = word
            found[place] = b" ".join(parts)
    return b"\n".join(found)


_PNG = b"\x89PNG\r\n\x1a\n"


def sealed(chance: random.Random, data: bytes) -> bytes:
    """A damaged PNG, half of the time with right checksums again, so that the damage reaches the decoder."""
    place, parts = len(_PNG), [_PNG]
    if not data.startswith(_PNG) or chance.random() < 0.5:
        return data
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        parts += [data[place:end], zlib.crc32(data[place + 4 : end]).to_bytes(4, "big")]
        place = end + 4
    return b"".join(parts)
