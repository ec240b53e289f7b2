# SPDX-License-Identifier: Apache-2.0
"""Uncached memory is read and written in words at their alignment, never by memcpy or memset.

On arm64 kIOMapInhibitCache is Device memory. An access off its alignment faults there, and so does
DC ZVA (Arm ARM, Device memory; DC ZVA), and the C library uses both: a bus error. Only
this module knows that. It does the same on every processor. Addresses and sizes in bytes.
"""

from __future__ import annotations

import array
import ctypes
from collections.abc import Iterator
from typing import Any, Final

WORD: Final = ctypes.sizeof(ctypes.c_ulong)  # of the processor: it is stored as one
_WORDS_AT_ONCE: Final = 8192


def load(address: int, length: int) -> bytes:
    """Return a copy of what is there."""
    return b"".join(
        array.array(code, items[:]).tobytes() for code, _, items in _items(address, length)
    )


def store(address: int, data: bytes) -> None:
    """Store bytes."""
    for code, at, items in _items(address, len(data)):
        items[:] = array.array(code, data[at : at + ctypes.sizeof(items)])


def zero(address: int, length: int) -> None:
    """Fill with zeros."""
    for _, _, items in _items(address, length):
        items[:] = (0,) * len(items)


def _items(address: int, length: int) -> Iterator[tuple[str, int, Any]]:
    """Yield the parts: as `array` names the items, the offset, and a ctypes array of the items.

    ctypes moves one item at a time, as whole words where they are words.
    """
    kind: type[ctypes.c_ubyte] | type[ctypes.c_ulong]
    done = 0
    while done < length:
        left = length - done
        beside = (address + done) % WORD
        if beside or left < WORD:
            code, kind, count = "B", ctypes.c_ubyte, min(left, WORD - beside)
        else:
            code, kind, count = "L", ctypes.c_ulong, min(left // WORD, _WORDS_AT_ONCE)
        items = (kind * count).from_address(address + done)
        yield code, done, items
        done += ctypes.sizeof(items)
