# SPDX-License-Identifier: Apache-2.0
"""Events that are not in their order yet, and plain values from files that nobody vouches for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dma_rehearsal.host_harness.process.plain_text import printable
from dma_rehearsal.host_harness.timeline.events import Event, Range

WORD = (1 << 64) - 1
TEXT_MAX = 500  # characters
RANGES_MAX = 16384  # of one event
NS = 1_000_000_000


class Draft(NamedTuple):
    """An event without its index; ``time_ns`` is of CLOCK_MONOTONIC."""

    time_ns: int
    vm: int
    kind: type[Event]
    device: str
    test: str | None
    fields: Mapping[str, Any]

    def event(self, index: int, start_ns: int) -> Event:
        """Return the event, of a timeline that starts at ``start_ns``."""
        return self.kind(
            index=index,
            time_ns=self.time_ns - start_ns,
            vm=self.vm,
            device=self.device,
            test=self.test,
            **self.fields,
        )


class Malformed(ValueError):
    """A value that its writer would not have written."""


def number(value: object) -> int:
    """Return a number of at most 64 bits; text is in any base that it names. `Malformed`."""
    try:
        if isinstance(value, str) and len(value) <= 32:
            return int(value, 0) & WORD
        if isinstance(value, int | float):
            return int(value) & WORD
    except (ValueError, OverflowError):
        pass
    raise Malformed(f"not a number: {value!r:.40}")


def signed(value: object) -> int:
    """Return a number from -2**63 to 2**63 - 1."""
    found = number(value)
    return found - (1 << 64) if found >> 63 else found


def text(value: object, limit: int = TEXT_MAX) -> str:
    """Return printable text of at most ``limit`` characters; "" for None."""
    if value is None:
        return ""
    said = value if isinstance(value, str) else str(value)
    return printable(said[:limit])


def ranges(value: object) -> tuple[Range, ...]:
    """Return bus addresses and bytes. `Malformed`."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise Malformed("not a list of ranges")
    found = []
    for each in value[:RANGES_MAX]:
        if not isinstance(each, Sequence) or isinstance(each, str) or len(each) != 2:
            raise Malformed(f"not a range: {each!r:.40}")
        found.append((number(each[0]), number(each[1])))
    return tuple(found)
