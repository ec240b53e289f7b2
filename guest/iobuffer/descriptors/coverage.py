# SPDX-License-Identifier: Apache-2.0
"""Coverage: how much of the prepared memory DMA has touched, as seen from outside the allocator.

`Platform.dma_evidence` knows it; the platform's protection unit can be that. With one set, each
preparation is an account, from the first `prepare` to the last `complete`; for wired memory that
nobody prepared, from its making to its `release`. `lines` lists bytes that no DMA touched, for a
test that failed; within `strict` such a `complete` or `release` raises `CoverageError`. For memory
in a bounce buffer, the bounce buffer has the account.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from dma_rehearsal.guest.iobuffer.base import provenance
from dma_rehearsal.guest.iobuffer.base.errors import IOReturn, IOReturnError, IOUnsupportedError
from dma_rehearsal.guest.iobuffer.base.interfaces import Untouched
from dma_rehearsal.guest.iobuffer.base.options import IODirection
from dma_rehearsal.guest.iobuffer.base.provenance import Record, without
from dma_rehearsal.guest.iobuffer.base.ranges import Segment
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform

ACCOUNTS_MAX: Final = 256  # that are kept until `begin`
SEGMENTS_MAX: Final = 64  # of one account; the others are taken for touched
LINES_MAX: Final = 16


class CoverageError(IOReturnError):
    """No DMA touched some prepared bytes. The call that raised this is done all the same."""

    default_code = IOReturn.kIOReturnUnderrun


_strict = 0
_accounts: deque[Account] = deque(maxlen=ACCOUNTS_MAX)
_began = 0


@dataclass(frozen=True, slots=True)
class Account:
    """Prepared memory: ``segments`` in the descriptor's order, except for ``elsewhere``.

    ``elsewhere``: (offset, length) of the parts that went through a bounce buffer.
    """

    record: Record
    direction: IODirection
    since: int
    segments: tuple[Segment, ...]
    elsewhere: tuple[tuple[int, int], ...]

    def words(self) -> str:
        """Describe the bytes that no DMA touched; "" for none, and when that is unknown."""
        missing = self.missing()
        if missing is None or not missing.count:
            return ""
        length = sum(size for _, size in self.segments)
        which = "any" if missing.count == length else str(missing.count)
        where = "" if missing.count == length else f", from offset {missing.offset}"
        way = self.direction.name.removeprefix("kIODirection")
        return (
            f"{self.record}: prepared {length} bytes for {way}; no DMA touched {which} of "
            f"them{where}"
        )

    def missing(self) -> Untouched | None:
        """Return the bytes that no DMA touched; None when that is unknown."""
        evidence = dma_platform.dma_evidence
        if evidence is None:
            return None
        count, first = 0, -1
        offset = 0
        for address, length in self.segments[:SEGMENTS_MAX]:
            for skip, size in without(self.elsewhere, offset, length):
                found = evidence.untouched(address + skip, size, self.direction, self.since)
                if found is None:
                    return None
                if found.count and first < 0:
                    first = offset + skip + found.offset
                count += found.count
            offset += length
        return Untouched(count, max(0, first))


def _account(record: Record, direction: IODirection) -> Account:
    return Account(record, direction, record.since, tuple(record.segments), tuple(record.elsewhere))


def ended(record: Record, direction: IODirection) -> None:
    """Close the account of a descriptor's memory. `CoverageError`: within `strict`, see there."""
    record.closed = True
    if dma_platform.dma_evidence is None:
        return
    account = _account(record, direction)
    _accounts.append(account)
    if _strict and (words := account.words()):
        raise CoverageError(
            f"{words}: have the device move all that is prepared, or prepare a part "
            "(IOSubMemoryDescriptor)",
            length=sum(size for _, size in account.segments),
            direction=direction,
        )


def written(address: int, length: int, since: int) -> int:
    """Return how many bytes of a range a device wrote after ``since``, 0 when nobody knows."""
    if dma_platform.dma_evidence is None:
        return 0
    found = dma_platform.dma_evidence.untouched(address, length, IODirection.kIODirectionIn, since)
    return 0 if found is None else length - found.count


@contextmanager
def strict() -> Iterator[None]:
    """Have `complete` and `release` raise `CoverageError` for bytes that no DMA touched.

    `IOUnsupportedError` when nobody outside sees the DMA.
    """
    global _strict
    if dma_platform.dma_evidence is None:
        raise IOUnsupportedError(
            "strict coverage: nobody here sees the DMA; set dma_platform.dma_evidence"
        )
    _strict += 1
    try:
        yield
    finally:
        _strict -= 1


def begin() -> None:
    """Forget the accounts so far: `lines` lists those from here on."""
    global _began
    _accounts.clear()
    _began = provenance.operations()


def lines() -> list[str]:
    """Return a line for each account since `begin` with bytes that no DMA touched.

    Open accounts count with the bytes touched up to now. At most `LINES_MAX`, and how many more.
    """
    if dma_platform.dma_evidence is None:
        return []
    open_ones = [
        _account(record, record.direction)
        for record in provenance.live()
        if record.newest > _began and record.segments and not record.closed
    ]
    said = [words for each in (*list(_accounts), *open_ones) if (words := each.words())]
    if len(said) > LINES_MAX:
        said[LINES_MAX:] = [f"and {len(said) - LINES_MAX} more"]
    return said
