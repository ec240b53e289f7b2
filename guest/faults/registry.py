# SPDX-License-Identifier: Apache-2.0
"""The implementations of the guest's faults, by the names of ``device.layout.faults``."""

from __future__ import annotations

from collections.abc import Callable

from dma_rehearsal.device.layout.faults import BY_NAME
from dma_rehearsal.guest.agent.channel import Channel
from dma_rehearsal.guest.faults import (
    buffers,
    channel,
    dma,
    heap,
    iokit,
    iommu,
    memory_types,
    owner,
    rehearsal,
)
from dma_rehearsal.guest.iobuffer.base import provenance

PATCHES: dict[str, Callable[[], None]] = {
    **heap.IMPLEMENTATIONS,
    **buffers.IMPLEMENTATIONS,
    **dma.IMPLEMENTATIONS,
    **iokit.IMPLEMENTATIONS,
    **owner.IMPLEMENTATIONS,
    **iommu.IMPLEMENTATIONS,
    **memory_types.IMPLEMENTATIONS,
    **rehearsal.IMPLEMENTATIONS,
}
IMPLEMENTATIONS = (*PATCHES, *channel.IMPLEMENTATIONS)


class UnknownFault(Exception):
    """A name that is not in the table of faults."""


def patch(name: str) -> None:
    """Break one part of the guest's Python for the rest of this process.

    A fault of another component (the device, the driver, the channel) does nothing here.
    UnknownFault for a name that is not in the table.
    """
    if name not in BY_NAME:
        raise UnknownFault(f"there is no fault {name!r}; there are {', '.join(BY_NAME)}")
    if name in PATCHES:
        # What a fault replaces is the allocator's own: its lines are not those of a caller.
        provenance.transparent(__package__)
        PATCHES[name]()


def apply(name: str, to: Channel) -> list[object]:
    """Apply a fault to this process and its channel; return plugins for pytest's session.

    UnknownFault as `patch`.
    """
    patch(name)
    return channel.apply(name, to)
