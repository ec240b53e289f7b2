# SPDX-License-Identifier: Apache-2.0
"""Placement: the choice among the places that a request allows its memory. One policy for all.

The default, `Policy`, chooses harmless places. `Hostile` chooses places at which a driver with a
mistake fails: high, across 4 GiB, off the page, beside others. The promises hold with either.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Final

from dma_rehearsal.guest.iobuffer.base.ranges import PAGE, Range, align_down, align_up

KIND: Final = "kind"
HOSTILE: Final = "hostile"
POLICIES: Final = (KIND, HOSTILE)

_CARRY: Final = 1 << 32  # where an address that is computed in 32 bits wraps
_CARRIES_MAX: Final = 256  # multiples of it that are tried
_FIRST_MAX: Final = 64
_TOUCHED_MAX: Final = 4096  # pages


class Policy:
    """The kind one: low addresses, starts of pages, cache lines not shared. All sizes in bytes."""

    name = KIND
    highest = False
    """Whether the highest address that is allowed is taken, of pools and within them."""
    packs = False
    """Whether small buffers lie side by side, also in one cache line."""

    def skip(self, capacity: int, alignment: int) -> int:  # noqa: ARG002
        """Return where in its first page a buffer begins that has its pages to itself."""
        return 0

    def first(self) -> int:
        """Return where in a page the first of the small buffers may begin."""
        return 0

    def touched(self, pages: int) -> Sequence[int]:  # noqa: ARG002
        """Return the order in which the kernel is to find pages for new memory; empty: any."""
        return ()

    def bus_address(self, runs: Iterable[Range], size: int, alignment: int) -> int | None:
        """Choose of free bus addresses, ascending; None without room."""
        for start, room in runs:
            place = align_up(start, alignment)
            if place + size <= start + room:
                return place
        return None


class Hostile(Policy):
    """The hostile one. It depends on ``seed`` and the request alone, not on earlier ones."""

    name = HOSTILE
    highest = True
    packs = True

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def _draw(self, *words: object) -> int:
        return zlib.crc32(repr((self._seed, *words)).encode())

    def skip(self, capacity: int, alignment: int) -> int:
        """Return an odd multiple of the alignment; a buffer below a page stays within its page."""
        last = PAGE - (capacity if capacity < PAGE else alignment)
        odd = (last // alignment + 1) // 2  # how many odd multiples there are up to it
        if odd <= 0:
            return 0
        return (2 * (self._draw("skip", capacity, alignment) % odd) + 1) * alignment

    def first(self) -> int:
        """Return an odd offset, so that no small buffer begins with a page."""
        return 2 * (self._draw("first") % (_FIRST_MAX // 2)) + 1

    def touched(self, pages: int) -> Sequence[int]:
        """Return every other page, then those between: no two neighbours come in a row."""
        if not 1 < pages <= _TOUCHED_MAX:
            return ()
        return (*range(1, pages, 2), *range(0, pages, 2))

    def bus_address(self, runs: Iterable[Range], size: int, alignment: int) -> int | None:
        """Choose a place across 4 GiB, or a multiple of that; else the highest one.

        There a page is left free behind it, where there is one, so that no two become neighbours.
        """
        known = list(runs)
        across = self._across(known, size, alignment)
        if across is not None:
            return across
        for gap in PAGE, 0:
            for start, room in reversed(known):
                place = align_down(start + room - size - gap, alignment)
                if place >= start:
                    return place
        return None

    def _across(self, runs: Sequence[Range], size: int, alignment: int) -> int | None:
        places = (size - 1) // alignment  # that many multiples of it before a carry are across
        if not places or alignment > _CARRY:
            return None
        before = (1 + self._draw("across", size, alignment) % places) * alignment
        tried = 0
        for start, room in runs:
            carry = align_up(start + 1, _CARRY)
            while carry < start + room and tried < _CARRIES_MAX:
                place = carry - before
                if start <= place and place + size <= start + room:
                    return place
                carry += _CARRY
                tried += 1
        return None


def named(name: str, seed: int) -> Policy:
    """Return a policy by its name; `KeyError` for an unknown name."""
    return {KIND: Policy(), HOSTILE: Hostile(seed)}[name]
