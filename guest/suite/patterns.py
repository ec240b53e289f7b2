"""Data for DMA tests: different in every run, for every test and use, and from what was there."""

from __future__ import annotations

import random
import zlib

_INVERT = bytes(value ^ 0xFF for value in range(256))


class Patterns:
    """Bytes that follow from the run's seed and a test's node id, so that one test replays."""

    def __init__(self, seed: int, nodeid: str) -> None:
        self._random = random.Random(f"{seed}:{nodeid}")

    def take(self, length: int) -> bytes:
        """Return ``length`` fresh bytes."""
        return self._random.randbytes(length)

    def cut(self, length: int, largest: int) -> list[int]:
        """Return odd lengths, none above ``largest``, that add up to ``length``."""
        parts = []
        while length:
            part = min(length, self._random.randrange(largest // 2, largest) | 1, largest)
            parts.append(part)
            length -= part
        return parts


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
