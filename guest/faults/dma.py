# SPDX-License-Identifier: Apache-2.0
"""Named faults of DMA commands and of parts, applied from outside.

Each is a function that breaks one promise for the rest of this process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dma_rehearsal.guest.iobuffer.base.options import IODirection
from dma_rehearsal.guest.iobuffer.base.ranges import Segment
from dma_rehearsal.guest.iobuffer.descriptors import derived, sub_descriptor
from dma_rehearsal.guest.iobuffer.descriptors.memory_descriptor import IOMemoryDescriptor
from dma_rehearsal.guest.iobuffer.descriptors.preparation import Grants, Preparation, device_may
from dma_rehearsal.guest.iobuffer.dma.bounce_buffer import Bounce
from dma_rehearsal.guest.iobuffer.dma.command import IODMACommand
from dma_rehearsal.guest.iobuffer.dma.prepared_transfer import Prepared
from dma_rehearsal.guest.iobuffer.dma.specification import Specification

_hold = derived.hold
_copy_back = Bounce.copy_back
_piece = Specification._piece
_generate = Prepared.generate


def bounce_not_copied_back() -> None:
    """Bytes that a device wrote into a bounce buffer are not copied back."""

    def copy_back(bounce: Bounce, target: IOMemoryDescriptor, offset: int) -> None:
        pass

    setattr(Bounce, copy_back.__name__, copy_back)


def bounce_wrong_direction() -> None:
    """Before a device reads, the empty bounce buffer overwrites the memory."""

    def copy_out(bounce: Bounce, source: IOMemoryDescriptor, offset: int) -> None:
        _copy_back(bounce, source, offset)

    setattr(Bounce, copy_out.__name__, copy_out)


def mask_ignored() -> None:
    """Memory above the device's address limit is given to it."""

    def reaches(*_: object) -> bool:
        return True

    def generate(
        prepared: Prepared, offset: int, number: int, bits: int
    ) -> tuple[list[Segment], int]:
        return _generate(prepared, offset, number, max(bits, 64))

    setattr(Specification, reaches.__name__, reaches)
    setattr(Prepared, generate.__name__, generate)


def boundary_crossed() -> None:
    """Segments are cut at the longest length alone."""

    def piece(specification: Specification, address: int, length: int) -> int:
        return _piece(replace(specification, boundary=0), address, length)

    setattr(Specification, _piece.__name__, piece)


def part_grants_all() -> None:
    """Preparing a part lets devices reach the whole."""

    def hold(
        part: IOMemoryDescriptor, direction: IODirection, by: IOMemoryDescriptor
    ) -> Preparation:
        held = _hold(part, direction, by)
        held.grants = Grants(part.segments(), device_may(direction))
        return held

    setattr(sub_descriptor, hold.__name__, hold)


def non_coherent_ignored() -> None:
    """A command treats every device as coherent."""

    def is_non_coherent(*_: object) -> bool:
        return False

    setattr(IODMACommand, IODMACommand._is_non_coherent.__name__, is_non_coherent)


def list_cut_unnoticed() -> None:
    """complete() accepts a list that was not generated to its end."""

    def check_generated(_prepared: Prepared) -> None:
        pass

    setattr(Prepared, check_generated.__name__, check_generated)


def bounce_data_forgotten() -> None:
    """Nothing checks whether a device wrote to a bounce buffer."""

    def newer(*_: object) -> str:
        return ""

    setattr(Prepared, newer.__name__, newer)


IMPLEMENTATIONS: dict[str, Callable[[], None]] = {
    "allocator-bounce-not-copied-back": bounce_not_copied_back,
    "allocator-bounce-wrong-direction": bounce_wrong_direction,
    "allocator-mask-ignored": mask_ignored,
    "allocator-boundary-crossed": boundary_crossed,
    "allocator-part-grants-all": part_grants_all,
    "allocator-non-coherent-ignored": non_coherent_ignored,
    "allocator-list-cut-unnoticed": list_cut_unnoticed,
    "allocator-bounce-data-forgotten": bounce_data_forgotten,
}
