# SPDX-License-Identifier: Apache-2.0
"""Cache maintenance: the interface between the CPU's caches and memory.

On a coherent bus nothing has to be done, and `CoherentBus` does nothing. A platform has that one
until `Platform.coherence` is set to another (a board's own means, or a model of such a board).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from dma_rehearsal.guest.iobuffer.base.interfaces import BufferDescriptor, Descriptor
from dma_rehearsal.guest.iobuffer.base.options import IODirection


class Coherence(Protocol):
    """Maintenance of the CPU's caches over ``length`` bytes of ``memory`` from ``offset`` on.

    ``memory`` is a buffer, or existing memory; never a part or a row of other descriptors. Each
    method returns when the maintenance is done.

    All live memory is maintained by the one that is set, including buffers that it did not track:
    set it before they are made. Each one ends its own tracking, also after another one was set.
    """

    @property
    def line(self) -> int:
        """Bytes of a cache line, 1 when no maintenance is needed: a buffer's least alignment."""

    def track(self, buffer: BufferDescriptor) -> Callable[[], None]:
        """Take note of a buffer that is mapped and wired; return what to call when that ends.

        A finalizer may call it, so also in the middle of another call: it raises
        `IONotPermittedError` when it cannot be done there, and other errors when it failed. Called
        again it goes on; in a forked child it does nothing.
        """

    def track_existing(self, memory: Descriptor, address: int, length: int) -> Callable[[], None]:
        """Take note of wired memory that was not allocated here; return as `track`."""

    def sync_for_device(
        self, memory: Descriptor, offset: int, length: int, direction: IODirection
    ) -> None:
        """Give the bytes to the device: what the CPU has stored is in memory afterwards."""

    def sync_for_cpu(
        self, memory: Descriptor, offset: int, length: int, direction: IODirection
    ) -> None:
        """Take the bytes back: the CPU loads what the device has written afterwards."""

    def clean(self, memory: Descriptor, offset: int, length: int) -> None:
        """Write back: kIOMemoryIncoherentIOStore."""

    def clean_and_invalidate(self, memory: Descriptor, offset: int, length: int) -> None:
        """Write back, then forget: kIOMemoryIncoherentIOFlush."""

    def completed(self, memory: Descriptor, offset: int, length: int) -> None:
        """Take note that no DMA uses the bytes any more; not called where ``line`` is 1."""


class CoherentBus:
    """A bus on which every device access sees what the CPU sees, and the other way round."""

    line = 1

    def track(self, buffer: BufferDescriptor) -> Callable[[], None]:  # noqa: ARG002
        """Do nothing, now and at the end."""
        return nothing

    def track_existing(
        self,
        memory: Descriptor,  # noqa: ARG002
        address: int,  # noqa: ARG002
        length: int,  # noqa: ARG002
    ) -> Callable[[], None]:
        """Do nothing, now and at the end."""
        return nothing

    def sync_for_device(
        self, memory: Descriptor, offset: int, length: int, direction: IODirection
    ) -> None:
        """Do nothing."""

    def sync_for_cpu(
        self, memory: Descriptor, offset: int, length: int, direction: IODirection
    ) -> None:
        """Do nothing."""

    def clean(self, memory: Descriptor, offset: int, length: int) -> None:
        """Do nothing."""

    def clean_and_invalidate(self, memory: Descriptor, offset: int, length: int) -> None:
        """Do nothing."""

    def completed(self, memory: Descriptor, offset: int, length: int) -> None:
        """Do nothing."""


def nothing() -> None:
    """Do nothing: the end of what needed no beginning."""
