# SPDX-License-Identifier: Apache-2.0
"""The resources of a buffer; a finalizer gives them back when nobody else has."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from dma_rehearsal.guest.iobuffer.base import deferred
from dma_rehearsal.guest.iobuffer.base.provenance import Record
from dma_rehearsal.guest.iobuffer.descriptors.iommu import BusWindow
from dma_rehearsal.guest.iobuffer.descriptors.preparation import Preparations
from dma_rehearsal.guest.iobuffer.descriptors.remote import Remote
from dma_rehearsal.guest.iobuffer.memory.backing import Backing


@dataclass(slots=True)
class BufferResources:
    """The resources of one descriptor; a finalizer gives them back when nobody else has.

    ``remote``: the task that the buffer was made in, which is its owner when we have let go of it.
    """

    backing: Backing
    window: BusWindow
    preparations: Preparations
    pid: int
    record: Record
    untrack: Callable[[], None] | None = None
    remote: Remote | None = None

    def end_track(self) -> None:
        """End the tracking of the buffer for cache maintenance, if it was tracked."""
        if self.untrack is not None:
            self.untrack()
            self.untrack = None

    def withdraw(self) -> None:
        """Take the memory from devices, and end its cache maintenance.

        Errors are those of the access control, the caches or the IOMMU; a call after an error goes
        on where it failed.
        """
        self.preparations.withdraw()
        self.end_track()
        self.window.close()

    def give_back(self) -> None:
        """Free the memory. Another owner may get it at once, so devices lose it before."""
        self.withdraw()
        if self.remote is not None:
            self.remote.drop()
        self.backing.close_late()


def reclaim(held: BufferResources) -> None:
    """Free the memory of a descriptor that was dropped without release()."""
    if os.getpid() != held.pid:
        return  # a forked child: the memory is its parent's
    deferred.finalize(held.give_back, str(held.record))
    held.record.drop()
    warnings.warn(f"{held.record} was not released", ResourceWarning, stacklevel=2)
