# SPDX-License-Identifier: Apache-2.0
"""The guest's list of its buffers, for the message about a refused DMA. It is untrusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dma_rehearsal.host_harness.machine.channel import GuestProtocolError
from dma_rehearsal.host_harness.process.plain_text import printable

PROPERTY = "memory"
ROWS_MAX = 256
_TEXT_MAX = 300
_END = 1 << 64


@dataclass(frozen=True, slots=True)
class Memory:
    """A buffer that is, or was, in the guest's memory. ``made``, ``released``: file:line.

    ``released_after`` is the number of the newest request to memory at its release; ``ago`` counts
    the allocator's operations between its release and the guest's report.
    """

    address: int
    length: int
    name: str
    direction: str
    made: str
    released: str
    released_after: int
    ago: int

    def __str__(self) -> str:
        place = f"{self.length} bytes at {self.address:#x}"
        name = f"{self.name}, " if self.name else ""
        direction = f", {self.direction}" if self.direction else ""
        made = f", made at {self.made}" if self.made else ""
        return f"{name}{place}{direction}{made}"

    def gone(self, sequence: int) -> bool:
        """Whether it had been released when the request of that number came."""
        return bool(self.released) and self.released_after < sequence


def rows(properties: Sequence[Sequence[Any]]) -> list[Memory]:
    """Return the rows in a report's properties; GuestProtocolError for anything else."""
    found: list[Memory] = []
    for name, value in properties:
        if name != PROPERTY:
            continue
        if not isinstance(value, list) or len(value) + len(found) > ROWS_MAX:
            raise GuestProtocolError("the guest's list of its memory is not a list, or too long")
        found += [_row(each) for each in value]
    return found


def _row(value: object) -> Memory:
    if not isinstance(value, dict):
        raise _wrong(value)
    return Memory(
        _number(value, "address"),
        _number(value, "length"),
        _text(value, "name"),
        _text(value, "direction"),
        _text(value, "made"),
        _text(value, "released"),
        _number(value, "released_after"),
        _number(value, "ago"),
    )


def _number(value: dict[str, Any], name: str) -> int:
    found = value.get(name) or 0
    if type(found) is not int or not 0 <= found < _END:
        raise _wrong(value)
    return found


def _text(value: dict[str, Any], name: str) -> str:
    found = value.get(name) or ""
    if not isinstance(found, str) or len(found) > _TEXT_MAX:
        raise _wrong(value)
    return printable(found)


def _wrong(value: object) -> GuestProtocolError:
    return GuestProtocolError(f"the guest describes memory that cannot exist: {value!r:.100}")


def nearest_to(memory: Sequence[Memory], address: int, sequence: int) -> Memory | None:
    """Return the buffer of the byte at ``address`` at the time of the request of that number.

    Of several it is the one that was not released by then, else the one released last.
    """
    found = [each for each in memory if each.address <= address < each.address + each.length]
    return min(found, key=lambda each: (each.gone(sequence), each.ago), default=None)
