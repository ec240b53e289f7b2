"""Data for DMA tests: different in every run, for every test and use, and from what was there.

Bytes below 0x80 and bytes from 0x80 on take turns, and neither 0x00 nor 0xff occurs. So at every
place a pattern differs from its neighbours, from zeroed memory, from what a dead bus gives, from
itself moved by one, and from `inverted` itself.
"""

from __future__ import annotations

import random
import zlib

_INVERT = bytes(value ^ 0xFF for value in range(256))
_LOW = bytes(1 + value % 127 for value in range(256))  # 0x01 to 0x7f
_HIGH = bytes(128 + value % 127 for value in range(256))  # 0x80 to 0xfe


class Patterns:
    """Bytes that follow from the run's seed and a test's node id, so that one test replays."""

    def __init__(self, seed: int, nodeid: str) -> None:
        self._random = random.Random(f"{seed}:{nodeid}")

    def take(self, length: int) -> bytes:
        """Return ``length`` fresh bytes."""
        drawn = self._random.randbytes(length)
        pattern = bytearray(length)
        pattern[0::2] = drawn[0::2].translate(_LOW)
        pattern[1::2] = drawn[1::2].translate(_HIGH)
        return bytes(pattern)

    def cut(self, length: int, largest: int) -> list[int]:
        """Return odd lengths, none above ``largest``, that add up to ``length``.

        So each piece but the first begins at another place of a cache line and of a page. An even
        rest is cut into two odd ones.
        """
        pieces = []
        while length > largest:
            pieces.append(self._random.randrange(largest // 2, largest) | 1)
            length -= pieces[-1]
        if length and length % 2 == 0:
            pieces.append(length // 2 - 1 | 1)
            length -= pieces[-1]
        return [*pieces, length] if length else pieces


def inverted(data: bytes) -> bytes:
    """Return bytes that differ from ``data`` at every place."""
    return data.translate(_INVERT)


def joined_crc32(first: int, second: int, second_length: int) -> int:
    """Return the CRC-32 of two pieces, one after the other, from the CRC-32 of each.

    The checksum is affine: what the first contributes is what it does to as many zeros.
    """
    zeros = bytes(second_length)
    return second ^ zlib.crc32(zeros, first) ^ zlib.crc32(zeros)


def difference(expected: bytes, seen: bytes) -> str:
    """Say where two byte strings first differ, and how much of them does; "" when nowhere."""
    if expected == seen:
        return ""
    if len(expected) != len(seen):
        return f"{len(seen)} bytes where {len(expected)} were expected"
    places = [i for i, (a, b) in enumerate(zip(expected, seen, strict=True)) if a != b]
    first = places[0]
    return (
        f"{len(places)} of {len(expected)} bytes differ, the first at offset {first:#x}: "
        f"expected {expected[first : first + 8].hex(' ')}, seen {seen[first : first + 8].hex(' ')}"
    )
