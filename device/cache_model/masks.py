# SPDX-License-Identifier: Apache-2.0
"""Where two pieces of memory differ, as masks: one byte for each byte or line, 0xFF where it is so.

The work on a mask is done by operations on whole ranges, so that its cost in Python does not grow
with the number of bytes, lines or runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_SET = re.compile(rb"[^\0]+")
_TO_MASK = bytes((0x00,)) + b"\xff" * 255
_WORD = 8  # bytes that one element of a memoryview cast to "Q" has


def runs(mask: bytes) -> Iterator[tuple[int, int]]:
    """Yield [first, last) of every run of set elements."""
    return (found.span() for found in _SET.finditer(mask))


def count_runs(mask: bytes) -> int:
    """Return how many runs of set elements there are."""
    return mask.count(b"\x00\xff") + mask.startswith(b"\xff")


def differing(old: bytes | bytearray, new: bytes | bytearray) -> bytes:
    """Return the mask of the bytes in which the two, of one length, differ."""
    number = int.from_bytes(old, "little") ^ int.from_bytes(new, "little")
    return number.to_bytes(len(old), "little").translate(_TO_MASK)


def both(one: bytes, other: bytes) -> bytes:
    """Return what is set in two masks of one length."""
    number = int.from_bytes(one, "little") & int.from_bytes(other, "little")
    return number.to_bytes(len(one), "little")


def without(one: bytes, other: bytes) -> bytes:
    """Return what is set in the first of two masks of one length, and not in the second."""
    less = int.from_bytes(other, "little")
    return ((int.from_bytes(one, "little") | less) ^ less).to_bytes(len(one), "little")


def blended(old: bytes | bytearray, new: bytes | bytearray, mask: bytes) -> bytes:
    """Return ``new`` where the mask is set, and ``old`` elsewhere; all have one length."""
    number = int.from_bytes(old, "little")
    change = (number ^ int.from_bytes(new, "little")) & int.from_bytes(mask, "little")
    return (number ^ change).to_bytes(len(old), "little")


def of_lines(mask: bytes, line: int) -> bytes:
    """Return the mask of the lines of which any byte is set. ``line``: bytes, 32 or more."""
    step, number = line // _WORD, 0
    with memoryview(mask) as plain, plain.cast("Q") as words:
        for first in range(step):
            number |= int.from_bytes(words[first::step].tobytes(), "little")
    for shift in (32, 16, 8):
        number |= number >> shift
    return number.to_bytes(len(mask) // step, "little")[::_WORD].translate(_TO_MASK)


def of_bytes(lines: bytes, line: int) -> bytes:
    """Return the mask of all bytes of the lines that are set: the other way round."""
    wide = bytearray(len(lines) * _WORD)
    wide[::_WORD] = lines
    number = int.from_bytes(wide, "little")
    for shift in (8, 16, 32):
        number |= number << shift
    found, step = bytearray(len(lines) * line), line // _WORD
    each = number.to_bytes(len(wide), "little")
    with (
        memoryview(found) as plain,
        plain.cast("Q") as target,
        memoryview(each) as one,
        one.cast("Q") as words,
    ):
        for first in range(step):
            target[first::step] = words
    return bytes(found)


def padded(mask: bytes, before: int, length: int) -> bytes:
    """Return a mask of ``length`` that has this one behind ``before`` unset elements."""
    if before == 0 and len(mask) == length:
        return mask
    return (bytes(before) + mask).ljust(length, b"\0")


def first_difference(one: bytes | bytearray, other: bytes | bytearray) -> int:
    """Return the first place in which the two, of one length, differ; the length: in none."""
    low, high = 0, len(one)
    if one == other:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low
