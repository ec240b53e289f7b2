# SPDX-License-Identifier: Apache-2.0
"""The platform: the surroundings of this process's DMA memory, each of which a board can replace.

There is one `Platform` in a process, `dma_platform`. The program (the test agent, a test kit, a
program on a board) sets its attributes before it makes buffers; the rest of the package only reads
them. ::

    dma_platform.coherence = UDmaBufCoherence(pool)
    dma_platform.use_pools(HeapPool(pool))
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from dma_rehearsal.guest.iobuffer.base.coherence import Coherence, CoherentBus
from dma_rehearsal.guest.iobuffer.base.fork_safe_lock import make_lock
from dma_rehearsal.guest.iobuffer.base.interfaces import AccessControl, DmaEvidence, Iommu, Pinner
from dma_rehearsal.guest.iobuffer.memory.placement import Policy
from dma_rehearsal.guest.iobuffer.memory.pool import Pool
from dma_rehearsal.guest.iobuffer.os.driver import Driver


@dataclass(slots=True)
class Platform:
    """The surroundings of this process's DMA memory. Each attribute has a sound default."""

    access_control: AccessControl | None = None
    """Told of each grant, such as the platform's protection unit; None: nobody is."""

    coherence: Coherence = field(default_factory=CoherentBus)
    """Maintains the caches. Set it before buffers are made: it is asked for all that live."""

    iommu: Iommu | None = None
    """Maps memory that is wired; None: bus addresses are physical.

    A buffer keeps the one that it was made under. A forked child has none: the mappings are of its
    parent's memory.
    """

    pinner: Pinner | None = None
    """Pins memory that was there before (`IOGeneralMemoryDescriptor`); None: the driver does."""

    placement: Policy = field(default_factory=Policy)
    """Chooses among the places that a request allows its memory."""

    dma_evidence: DmaEvidence | None = None
    """Sees which bytes DMA touched, for `descriptors.coverage`; None: nobody does."""

    driver: Driver | None = None
    """The kernel module as this process has it open; None: `open_driver` opens it."""

    pools: dict[str, Pool] | None = None
    """The pools by name, in the order they are tried; None: `pool_registry` discovers them."""

    lock: threading.RLock = field(default_factory=make_lock, repr=False)
    """Held while the driver is opened, and while the pools are discovered."""

    def open_driver(self) -> Driver:
        """Return this process's `Driver`; `IODeviceError` when the module is not there."""
        with self.lock:
            if self.driver is None:
                self.driver = Driver()
            return self.driver

    def use_pools(self, *pools: Pool) -> None:
        """Take these pools, in this order, in place of the kernel module's.

        Memory that was allocated before stays valid. Without arguments: discover them again.
        """
        with self.lock:
            self.pools = {pool.name: pool for pool in pools} or None

    @property
    def translated(self) -> bool:
        """Whether bus addresses are an IOMMU's, and not physical."""
        return self.iommu is not None

    def reclaim_grants(self) -> None:
        """Take back the grants of dead processes: before memory is used that they may cover."""
        if self.access_control is not None:
            self.access_control.reclaim()

    @contextmanager
    def replaced(self, **attributes: Any) -> Iterator[None]:
        """Set these attributes for as long as the context lasts, then set them as they were."""
        before = {name: getattr(self, name) for name in attributes}
        try:
            for name, value in attributes.items():
                setattr(self, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(self, name, value)


dma_platform: Final = Platform()
"""The platform of this process."""


def _after_fork_in_child() -> None:
    """The open driver and the IOMMU's mappings are the parent's."""
    dma_platform.driver = dma_platform.iommu = None


os.register_at_fork(after_in_child=_after_fork_in_child)
