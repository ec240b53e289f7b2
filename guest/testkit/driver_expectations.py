# SPDX-License-Identifier: Apache-2.0
"""Reports that a test of a kernel driver announces; the host holds them against the trace.

The guest draws the borders of an announcement as marks in the device's trace. The rest is the
host's: the trace has the order of the reports about the driver's use of the DMA API, of the cache
model's reports and of refused DMA.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import pytest

from dma_rehearsal.device.layout import CacheReportKind, DmaReason
from dma_rehearsal.device.layout.driver_reports import DriverReportKind

PROPERTY: Final = "driver expects"
Kind = DriverReportKind | CacheReportKind | DmaReason


class Session(Protocol):
    """The session's platform, as far as announcements need it."""

    def mark(self) -> int:
        """Put a mark into the device's trace; return its number."""

    def sequence(self) -> int:
        """Return the number of requests so far."""

    def say(self, name: str, value: object) -> None:
        """Record a property of the test that runs."""

    def announce(self, reasons: frozenset[DmaReason], first: int, last: int) -> None:
        """Expect requests with ``first`` < sequence <= ``last`` to be refused for ``reasons``."""


@contextmanager
def expects(
    session: Session, kinds: tuple[Kind, ...], count: int | None, *, optional: bool = False
) -> Iterator[None]:
    """Announce what comes within the ``with``; see `DriverRehearsal.expects`.

    ``optional``: nothing need come. ValueError for an announcement that says nothing.
    """
    if not kinds:
        raise ValueError("name the kinds: expects(DriverReportKind.NEVER_UNMAPPED, ...)")
    if count is not None and count < 1:
        raise ValueError(f"count={count}: leave out the announcement where nothing is due")
    reasons = frozenset(each for each in kinds if isinstance(each, DmaReason))
    names = sorted({f"{type(each).__name__}.{each.name}" for each in kinds})
    first, before = session.mark(), session.sequence()
    skipped = False
    try:
        yield
    except pytest.skip.Exception:
        skipped = True
        raise
    finally:
        if not skipped:
            value = {"kinds": names, "first": first, "last": session.mark(), "count": count}
            session.say(PROPERTY, {**value, "optional": optional})
            if reasons:
                session.announce(reasons, before, session.sequence())
