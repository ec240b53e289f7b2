# SPDX-License-Identifier: Apache-2.0
"""Data for DMA tests, different in every run, for every test and use, and from old bytes.

Bytes below 0x80 and bytes from 0x80 on alternate, and neither 0x00 nor 0xff occurs. So at every
place a pattern differs from its neighbours, from zeroed memory, from the bytes of a dead bus, from
itself moved by one, and from `inverted` itself.
"""

from __future__ import annotations

import random
import zlib
from functools import cache
from typing import Final

# Random bytes that make up longer patterns: an even number, and not a multiple of a page or of a
# device's DMA length. Under emulation, drawing costs ten times as much as translating.
BLOCK: Final = 16382
_VALUES: Final = 127  # in each half
_INVERT = bytes(value ^ 0xFF for value in range(256))
_LOW = bytes(1 + value % _VALUES for value in range(256))  # 0x01 to 0x7f
_HIGH = bytes(128 + value % _VALUES for value in range(256))  # 0x80 to 0xfe


@cache
def _shifted(by: int) -> bytes:
    """Return the table that moves each value on within its half."""
    low = bytes(1 + (value + by) % _VALUES for value in range(_VALUES))
    high = bytes(128 + (value + by) % _VALUES for value in range(_VALUES))
    return b"\0" + low + high + b"\xff"


class Patterns:
    """Bytes from the run's seed and a test's node id, so that one test can be replayed."""

    def __init__(self, seed: int, nodeid: str) -> None:
        self._random = random.Random(f"{seed}:{nodeid}")

    def take(self, length: int) -> bytes:
        """Return ``length`` fresh bytes.

        Beyond `BLOCK` bytes they are those of one block again and again, each time moved on within
        their half by another number: so of 127 blocks no two have the same byte at the same place.
        """
        drawn = self._random.randbytes(min(length, BLOCK))
        block = bytearray(len(drawn))
        block[0::2] = drawn[0::2].translate(_LOW)
        block[1::2] = drawn[1::2].translate(_HIGH)
        if length <= BLOCK:
            return bytes(block)
        first = self._random.randrange(_VALUES)
        blocks = -(-length // BLOCK)
        moved = (block.translate(_shifted((first + at) % _VALUES)) for at in range(blocks))
        return b"".join(moved)[:length]

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

    The checksum is affine: the first piece contributes what its CRC does to as many zeros as
    the second has bytes.
    """
    if not first:  # the CRC of an empty piece
        return second
    zeros = bytes(second_length)
    return second ^ zlib.crc32(zeros, first) ^ zlib.crc32(zeros)


def difference(expected: bytes, seen: bytes) -> str:
    """Describe where two byte strings first differ, and how many bytes differ; "" when equal."""
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
