# SPDX-License-Identifier: Apache-2.0
"""Refusals that a test announced (``with expects(...)``), held against those in the trace."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dma_rehearsal.host_harness.machine.channel import GuestProtocolError
from dma_rehearsal.host_harness.verdict.evidence import Request

PROPERTY = "expects"
COUNTED = "requests"  # the number of the newest request at the test's end, as the guest read it
UNANNOUNCED = "unannounced"  # the guest says that the platform counted such a refusal
MAX = 20_000  # in one test
_REASONS_MAX = 64
_NAME_MAX = 40
_SEQUENCE_END = 1 << 64


@dataclass(frozen=True, slots=True)
class Announcement:
    """Requests with ``first`` < sequence <= ``last`` may be refused for one of ``reasons``."""

    reasons: frozenset[str]
    first: int
    last: int

    def __str__(self) -> str:
        return f"expects({', '.join(sorted(self.reasons))})"


@dataclass(frozen=True, slots=True)
class Matched:
    """Refusals that were ``announced`` and ``unannounced``; announcements without a refusal."""

    announced: tuple[Request, ...] = ()
    unannounced: tuple[Request, ...] = ()
    unmet: tuple[Announcement, ...] = ()


def announced(properties: Sequence[Sequence[Any]]) -> list[Announcement]:
    """Return what a report's properties announce; GuestProtocolError for anything else."""
    found = [value for name, value in properties if name == PROPERTY]
    if len(found) > MAX:
        raise GuestProtocolError(f"the guest announces refusals {len(found)} times in one test")
    return [_announcement(value) for value in found]


def _announcement(value: object) -> Announcement:
    if isinstance(value, dict):
        reasons, first, last = (value.get(each) for each in ("reasons", "first", "last"))
        if (
            isinstance(reasons, list)
            and 0 < len(reasons) <= _REASONS_MAX
            and all(isinstance(each, str) and each.isidentifier() for each in reasons)
            and all(len(each) <= _NAME_MAX for each in reasons)
            and type(first) is int
            and type(last) is int
            and 0 <= first <= last < _SEQUENCE_END
        ):
            return Announcement(frozenset(reasons), first, last)
    raise GuestProtocolError(f"the guest announces a refusal that cannot be: {value!r:.100}")


def counted(properties: Sequence[Sequence[Any]]) -> int:
    """Return the number of the newest request according to the guest, 0 where it gives none.

    GuestProtocolError for anything but a request's number.
    """
    newest = 0
    for name, value in properties:
        if name == COUNTED:
            if type(value) is not int or not 0 <= value < _SEQUENCE_END:
                raise GuestProtocolError(
                    f"the guest counts requests that cannot be: {value!r:.100}"
                )
            newest = value
    return newest


def match(refusals: Sequence[Request], said: Sequence[Announcement]) -> Matched:
    """Split ``refusals`` into announced ones and others; list announcements without one."""
    ordered = sorted(refusals, key=lambda each: each.sequence)
    sequences = [each.sequence for each in ordered]
    covered = [False] * len(ordered)
    unmet = []
    for each in said:
        met = False
        for index in range(bisect_right(sequences, each.first), bisect_right(sequences, each.last)):
            if ordered[index].reason in each.reasons:
                covered[index] = met = True
        if not met:
            unmet.append(each)
    pairs = list(zip(ordered, covered, strict=True))
    return Matched(
        tuple(each for each, yes in pairs if yes),
        tuple(each for each, yes in pairs if not yes),
        tuple(unmet),
    )


def complaint(unmet: Sequence[Announcement], refusals: Sequence[Request]) -> str:
    """Return the complaint about announcements without a refusal; empty when there are none."""
    if not unmet:
        return ""
    first = unmet[0]
    within = [each for each in refusals if first.first < each.sequence <= first.last]
    seen = ", ".join(sorted({each.reason for each in within})) or "none at all"
    more = f" (and {len(unmet) - 1} more such)" if len(unmet) > 1 else ""
    return (
        f"{first}: the device's trace has no such refusal between its requests {first.first} and "
        f"{first.last}{more}; refused there: {seen}\n"
        "  next: remove the announcement if the DMA is right, or find out why it was allowed"
    )


def untraced(properties: Sequence[Sequence[Any]], matched: Matched) -> str:
    """Return the complaint where the platform counted a refusal that the trace lacks; else empty.

    Two witnesses record a refusal that no test announced, so that none goes unnoticed.
    """
    if matched.unannounced or all(name != UNANNOUNCED for name, _ in properties):
        return ""
    return (
        "the platform counted a refused request that the test did not announce, and the device's "
        "trace has none\n"
        "  next: look into device-trace.jsonl for a gap in the sequence of requests"
    )
