# SPDX-License-Identifier: Apache-2.0
"""Refusals that a test announces: they are not failures, but their absence fails the test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from dma_rehearsal.device.layout import REFUSED_CAPACITY, DmaReason
from dma_rehearsal.guest.drivers.platform.request_log import RefusedRequest, RequestLog
from dma_rehearsal.guest.testkit.attestation import CheckFailed, is_verdict

__tracebackhide__ = is_verdict
_SHOWN = 3  # refusals in a message


@dataclass(frozen=True, slots=True)
class _Announced:
    """Requests with ``first`` < sequence <= ``last``, refused for one of the reasons."""

    reasons: frozenset[DmaReason]
    first: int
    last: int

    def covers(self, refused: RefusedRequest) -> bool:
        return self.first < refused.sequence <= self.last and refused.reason in self.reasons


class Expectations:
    """The refusals that the running test has announced; `begin` starts a test.

    ``log`` returns the platform's log of requests, or raises without a platform. ``say``
    records a property of the running test.
    """

    def __init__(self, log: Callable[[], RequestLog], say: Callable[[str, object], None]) -> None:
        self._log, self._say = log, say
        self._announced: list[_Announced] = []
        self._count = self._sequence = 0
        self._known: dict[int, RefusedRequest] = {}  # those of the test that were read

    def begin(self) -> None:
        """Forget the test before, and note where the log stands."""
        log = self._log()
        self._announced.clear()
        self._known.clear()
        self._count, self._sequence = log.refused_count, log.count

    @property
    def newest(self) -> int:
        """The number of the newest request."""
        return self._log().count

    def announce(self, reasons: frozenset[DmaReason], first: int, last: int) -> None:
        """Take refusals with ``first`` < sequence <= ``last`` for announced; none need come."""
        self._announced.append(_Announced(reasons, first, last))

    def excuse(self, reason: DmaReason, since: int) -> None:
        """Announce what was refused for ``reason`` after request ``since``, if anything was.

        For DMA that may come late or not at all, such as that of a device that is being removed.
        """
        found = [each for each in self._read(self._log(), since) if each.reason is reason]
        if found:
            last = max(each.sequence for each in found)
            self.announce(frozenset({reason}), since, last)
            self._say("expects", {"reasons": [reason.name], "first": since, "last": last})

    def unannounced(self) -> bool:
        """Whether a request was refused since `begin` that the test did not announce.

        When more were refused than the log keeps, it looks at the newest.
        """
        log = self._log()
        if log.refused_count == self._count:
            return False
        return not all(
            any(each.covers(refused) for each in self._announced)
            for refused in self._read(log, self._sequence)
        )

    def refused(self) -> list[int]:
        """Return the first bytes at fault of what was refused since `begin`."""
        return [each.byte for each in self._read(self._log(), self._sequence)]

    def _read(self, log: RequestLog, since: int) -> list[RefusedRequest]:
        return log.refused(since, self._known)

    @contextmanager
    def expects(
        self, *reasons: DmaReason, count: int | None = None
    ) -> Iterator[list[RefusedRequest]]:
        """See `refusals.expects`. `CheckFailed` lists what was refused instead."""
        if not reasons:
            raise ValueError("name the reasons: expects(DmaReason.PROTECTION_DIRECTION, ...)")
        log = self._log()
        wanted = frozenset(DmaReason(reason) for reason in reasons)
        first, before = log.count, log.refused_count
        found: list[RefusedRequest] = []
        skipped = False
        try:
            yield found
        except pytest.skip.Exception:
            skipped = True
            raise
        finally:
            last, after = log.count, log.refused_count
            if not skipped or after != before:  # else it was skipped at once
                self._announced.append(_Announced(wanted, first, last))
                names = sorted(reason.name for reason in wanted)
                self._say("expects", {"reasons": names, "first": first, "last": last})
        total = (after - before) & 0xFFFF_FFFF
        refused = (
            [each for each in self._read(log, first) if each.sequence <= last] if total else []
        )
        found += [each for each in refused if each.reason in wanted]
        due = "at least one request" if count is None else f"{count} requests"
        if total > REFUSED_CAPACITY and count is not None:
            raise CheckFailed(
                f"{due} to be refused for {_named(wanted)}: {total} were, and only the newest "
                f"{REFUSED_CAPACITY} are kept; announce fewer at a time"
            )
        if found if count is None else len(found) == count:
            return
        raise CheckFailed(
            f"{due} to be refused for {_named(wanted)}: {len(found)} were; {_said(refused)}"
        )


def _named(reasons: frozenset[DmaReason]) -> str:
    return " or ".join(sorted(reason.name for reason in reasons))


def _said(refused: list[RefusedRequest]) -> str:
    if not refused:
        return "nothing was refused. Did the device do that DMA, and has it ended?"
    count = Counter(each.reason.name for each in refused)
    shown = "; ".join(
        f"{each.direction.name} of {each.length} bytes at {each.address:#x}: {each.reason.name}"
        for each in refused[:_SHOWN]
    )
    more = f"; and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
    kinds = ", ".join(f"{number} {name}" for name, number in count.items())
    return f"refused were {kinds} ({shown}{more})"
