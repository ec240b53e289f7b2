# SPDX-License-Identifier: Apache-2.0
"""Chance as functions of the seed: evictions and fills, and the poison.

Nothing here depends on time or on a physical address, so the same seed is the same run.
"""

from __future__ import annotations

import hashlib
import struct

_KEY = struct.Struct("<8sQQQQ")
_LINES = 512  # lines that one hash decides
_POISON = 4096  # bytes of poison that one hash gives
_DIGITS = bytes(0xFF if each == ord("1") else 0x00 for each in range(256))
SEED_MAX = (1 << 64) - 1


def draws(seed: int, ordinal: int, operation: int, first: int, count: int) -> bytes:
    """Return the mask of a buffer's lines [first, first + count) that chance evicts or fills.

    One line in eight, each for itself: bit ``line % 512`` of the AND of the three 64-byte
    little-endian numbers that SHAKE-128 gives for (seed, ordinal, operation, line // 512).
    """
    if count == 0:
        return b""
    start = first // _LINES
    masks = (
        _drawn(_KEY.pack(b"eviction", seed, ordinal, operation, block))
        for block in range(start, (first + count - 1) // _LINES + 1)
    )
    return b"".join(masks)[first - start * _LINES :][:count]


def _drawn(key: bytes) -> bytes:
    stream = hashlib.shake_128(key).digest(3 * _LINES // 8)
    third = len(stream) // 3
    bits = (
        int.from_bytes(stream[:third], "little")
        & int.from_bytes(stream[third : 2 * third], "little")
        & int.from_bytes(stream[2 * third :], "little")
    )
    return f"{bits:0{_LINES}b}".encode().translate(_DIGITS)[::-1]


def poison(seed: int, ordinal: int, start: int, length: int) -> bytes:
    """Return what bytes [start, start + length) of a buffer's lines hold in DRAM before its first
    clean: from each 4096 bytes, SHAKE-128 of (seed, ordinal, start // 4096).
    """
    first, last = start // _POISON, (start + length - 1) // _POISON
    pages = (
        hashlib.shake_128(_KEY.pack(b"poison\0\0", seed, ordinal, 0, page)).digest(_POISON)
        for page in range(first, last + 1)
    )
    return b"".join(pages)[start - first * _POISON :][:length]
