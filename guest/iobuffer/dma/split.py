# SPDX-License-Identifier: Apache-2.0
"""A transfer that is too long for one DMA, or has too many segments, as several."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dma_rehearsal.guest.iobuffer.base.errors import IONotReadyError
from dma_rehearsal.guest.iobuffer.base.ranges import align_down
from dma_rehearsal.guest.iobuffer.descriptors.memory_descriptor import Segment
from dma_rehearsal.guest.iobuffer.dma.prepared_transfer import TooManySegments, checked_part
from dma_rehearsal.guest.iobuffer.dma.specification import Specification

if TYPE_CHECKING:
    from dma_rehearsal.guest.iobuffer.dma.command import IODMACommand


@dataclass(frozen=True, slots=True)
class Transfer:
    """One of several DMAs: ``length`` bytes of the memory from ``offset`` on, in ``segments``."""

    offset: int
    length: int
    segments: list[Segment]


def transfers(command: IODMACommand, offset: int, length: int) -> Iterator[Transfer]:
    """See `IODMACommand.transfers`."""
    specification, memory = command._ready()
    end = offset + checked_part(specification, memory, offset, length)
    while offset < end:
        if command.prepared:
            raise IONotReadyError(f"{command!r} is prepared: complete() comes before transfers()")
        part = _prepare(command, specification, offset, end - offset)
        try:
            yield Transfer(offset, part, command.genIOVMSegments(0, part)[0])
        finally:
            command.complete()
        offset += part


def _prepare(command: IODMACommand, specification: Specification, offset: int, left: int) -> int:
    """Prepare as much as one transfer can be; return its length."""
    most = specification.max_transfer
    part = _whole(specification, most) if 0 < most < left else left
    while True:
        try:
            command.prepare(offset, part)
        except TooManySegments as error:
            part = _whole(specification, error.fit)
            if not part:
                raise
            continue
        return part


def _whole(specification: Specification, length: int) -> int:
    """Return the most of a length after which the next part is aligned as well, if one is."""
    return align_down(length, specification.granule) or align_down(
        length, specification.length_alignment
    )
