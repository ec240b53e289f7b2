# SPDX-License-Identifier: Apache-2.0
"""What moves bytes between the CPU's caches and memory, behind one interface.

On a coherent bus nothing has to be done, and `CoherentBus` does nothing; it is what is used until
`use` gives another one (a board's own means, or a model of such a board).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from dma_rehearsal.guest.iobuffer.base.options import IODirection

if TYPE_CHECKING:
    from dma_rehearsal.guest.iobuffer.descriptors.buffer import IOBufferMemoryDescriptor
    from dma_rehearsal.guest.iobuffer.descriptors.memory_descriptor import IOMemoryDescriptor


class Coherence(Protocol):
    """Maintenance of the CPU's caches over ``length`` bytes of ``memory`` from ``offset`` on.

    ``memory`` is a buffer, or what is made of no other descriptor. Each method returns when the
    maintenance is done.
    """

    @property
    def line(self) -> int:
        """Bytes of a cache line, 1 when no maintenance is needed: a buffer's least alignment."""

    def track(self, buffer: IOBufferMemoryDescriptor) -> Callable[[], None]:
        """Take note of a buffer that is mapped and wired; return what to call when that ends.

        That may come from a finalizer, so also in the middle of another call: it raises
        `IONotPermittedError` when it cannot be done there, and other errors when it failed. Called
        again it goes on; in a forked child it does nothing.
        """

    def track_existing(
        self, memory: IOMemoryDescriptor, address: int, length: int
    ) -> Callable[[], None]:
        """Take note of wired memory of this process that was no buffer; return as `track`."""

    def sync_for_device(
        self, memory: IOMemoryDescriptor, offset: int, length: int, direction: IODirection
    ) -> None:
        """Give the bytes to the device: what the CPU has stored is in memory afterwards."""

    def sync_for_cpu(
        self, memory: IOMemoryDescriptor, offset: int, length: int, direction: IODirection
    ) -> None:
        """Take the bytes back: the CPU loads what the device has written afterwards."""

    def clean(self, memory: IOMemoryDescriptor, offset: int, length: int) -> None:
        """Write back: kIOMemoryIncoherentIOStore."""

    def clean_and_invalidate(self, memory: IOMemoryDescriptor, offset: int, length: int) -> None:
        """Write back, then forget: kIOMemoryIncoherentIOFlush."""

    def completed(self, memory: IOMemoryDescriptor, offset: int, length: int) -> None:
        """Take note that no DMA uses the bytes any more; not called where ``line`` is 1."""


class CoherentBus:
    """A bus on which every device access sees what the CPU sees, and the other way round."""

    line = 1

    def track(self, buffer: IOBufferMemoryDescriptor) -> Callable[[], None]:  # noqa: ARG002
        """Do nothing, now and at the end."""
        return nothing

    def track_existing(
        self,
        memory: IOMemoryDescriptor,  # noqa: ARG002
        address: int,  # noqa: ARG002
        length: int,  # noqa: ARG002
    ) -> Callable[[], None]:
        """Do nothing, now and at the end."""
        return nothing

    def sync_for_device(
        self, memory: IOMemoryDescriptor, offset: int, length: int, direction: IODirection
    ) -> None:
        """Do nothing."""

    def sync_for_cpu(
        self, memory: IOMemoryDescriptor, offset: int, length: int, direction: IODirection
    ) -> None:
        """Do nothing."""

    def clean(self, memory: IOMemoryDescriptor, offset: int, length: int) -> None:
        """Do nothing."""

    def clean_and_invalidate(self, memory: IOMemoryDescriptor, offset: int, length: int) -> None:
        """Do nothing."""

    def completed(self, memory: IOMemoryDescriptor, offset: int, length: int) -> None:
        """Do nothing."""


def nothing() -> None:
    """Do nothing: the end of what needed no beginning."""


_backend: Coherence = CoherentBus()


def backend() -> Coherence:
    """Return what maintains the caches here."""
    return _backend


def use(coherence: Coherence) -> Coherence:
    """Take another one from now on; return the one before.

    It is asked for whatever lives, so also for buffers that it was not told of: give it before
    they are made. What the one before was told of ends there, too: who tracked is who untracks.
    """
    global _backend
    before, _backend = _backend, coherence
    return before
