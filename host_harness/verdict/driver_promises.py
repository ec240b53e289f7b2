# SPDX-License-Identifier: Apache-2.0
"""Rows of the table for what a driver asked of the DMA API: a function and a direction each.

The device attests them: its own DMA moved bytes of these mappings the way that they were mapped
for. A mapping that no device touched attests nothing, so a row says how many there are. A function
of which no mapping was touched in a whole run is a note of the run, and no row: a test need not
have the device use all that a driver maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from dma_rehearsal.device.layout.mailbox import DmaCall
from dma_rehearsal.host_harness.verdict.driver_mappings import (
    LINUX_DIRECTIONS,
    Mapping,
    function_of,
)
from dma_rehearsal.host_harness.verdict.promise import Promise

_VERBS = {False: "read", True: "wrote"}


def rows(mappings: Sequence[Mapping], test: str) -> list[Promise]:
    """Return the rows of one test: those functions of which the device touched a mapping."""
    found = []
    for promise, alike in _by_promise(mappings).items():
        ways = _ways(alike[0])
        touched = [each for each in alike if any(each.requests[write] for write in ways)]
        if not touched:
            continue
        asked = f"{_mappings(len(alike))}, {sum(each.length for each in alike)} bytes"
        parts = [_moved(touched, write=write) for write in ways]
        if left := len(alike) - len(touched):
            parts.append(f"{_mappings(left)} never touched")
        attested = "; ".join(filter(None, parts))
        found.append(Promise(promise, asked, attested, "kept", "", test))
    return found


def _moved(touched: Sequence[Mapping], *, write: bool) -> str:
    requests = sum(each.requests[write] for each in touched)
    if not requests:
        return ""
    moved = sum(each.moved(write=write) for each in touched)
    size = sum(each.length for each in touched)
    return f"{_VERBS[write]} {moved} of {size} bytes in {requests} DMA{'s' * (requests > 1)}"


@dataclass(slots=True)
class Untouched:
    """The functions of a run of which the device has touched no mapping so far."""

    _seen: dict[str, int] = field(default_factory=dict)  # mappings that were not touched
    _touched: set[str] = field(default_factory=set)

    def add(self, mappings: Sequence[Mapping]) -> None:
        """Take the mappings of one test."""
        for promise, alike in _by_promise(mappings).items():
            if any(each.requests[write] for each in alike for write in _ways(each)):
                self._touched.add(promise)
            self._seen[promise] = self._seen.get(promise, 0) + len(alike)

    def notes(self) -> list[str]:
        """Return what a reader of the verdict must know."""
        return [
            f"{promise}: the device touched none of {_mappings(count)}, so nothing attests them"
            for promise, count in self._seen.items()
            if promise not in self._touched
        ]


def promise_of(mapping: Mapping) -> str:
    """Return the promise that a mapping is about: the function and the direction."""
    direction = LINUX_DIRECTIONS.get(mapping.direction, mapping.direction)
    return f"{function_of(mapping.call)}: {direction}"


def _mappings(count: int) -> str:
    return f"{count} mapping{'s' * (count != 1)}"


def _by_promise(mappings: Iterable[Mapping]) -> dict[str, list[Mapping]]:
    found: dict[str, list[Mapping]] = {}
    for each in mappings:
        if each.call == DmaCall.NONE.name:
            continue  # a test of the mailbox made it, and no driver
        found.setdefault(promise_of(each), []).append(each)
    return found


def _ways(mapping: Mapping) -> tuple[bool, ...]:
    """Return whether devices may write (True) and read (False) a mapping, the latter first."""
    return {"IN": (True,), "OUT": (False,)}.get(mapping.direction, (False, True))
