# SPDX-License-Identifier: Apache-2.0
"""The seam between the server and what it serves."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from dma_rehearsal.device.vfio_user.client_memory import View
from dma_rehearsal.device.vfio_user.errors import MemoryFault
from dma_rehearsal.device.vfio_user.migration import Migration
from dma_rehearsal.device.vfio_user.timers import Timers
from dma_rehearsal.device.vfio_user.work import Work


@dataclass(frozen=True, slots=True)
class FileRange:
    """Adjacent bytes of a client's memory, by the file that holds them.

    ``file`` is one name for the same memory, by whichever mapping and client it is reached.
    ``memory`` is the whole file and lasts as long as it is referenced, also after an unmap; but a
    client may cut the file: ``holds`` says whether it still reaches up to an offset, and an access
    through a `FileView` may raise Unmapped all the same.
    """

    file: Hashable
    offset: int
    length: int
    address: int  # on the bus, of the first byte
    memory: View
    holds: Callable[[int], bool]


class Ask(NamedTuple):
    """One DMA_READ or DMA_WRITE. Bus address; 1 to ``Client.message_max`` bytes.

    ``data`` are the bytes to write, or None to read.
    """

    address: int
    length: int
    data: bytes | memoryview | None


class MappedRange(NamedTuple):
    """One mapping, while this turn lasts: bus addresses [address, end).

    The byte at ``address`` is ``memory[offset]``. A slice of ``memory`` is a copy, at
    half of what a view and then its copy cost.
    """

    address: int
    end: int
    memory: mmap.mmap
    offset: int


class Client(Protocol):
    """The client, as a device model uses it."""

    def memory(self, address: int, length: int, *, write: bool) -> Sequence[View]:
        """Return views, in order, that cover ``length`` bytes at bus address ``address``.

        Raises Unmapped (NoDescriptor where only the client reaches it) or ReadOnly; never gives a
        part. An access through a `FileView` may raise Unmapped, too: its client has taken the
        memory away.
        """

    def file_ranges(self, address: int, length: int, *, write: bool) -> list[FileRange]:
        """Return where the same bytes lie, in order; errors as ``memory``'s."""

    def mapped_range(self, address: int, *, write: bool) -> MappedRange | None:
        """Return the mapping around ``address``, for many small accesses to it.

        None when no mapping may be used so; ``memory`` then raises the error, if there is one.
        """

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield the mapped bus addresses, in order: (address, bytes)."""

    @property
    def message_max(self) -> int:
        """Return how many bytes one message may carry."""

    def ask(self, ask: Ask, answered: Callable[[bytes | MemoryFault], None]) -> None:
        """Send a message; whatever the map says, the client judges it.

        ``answered`` is called once, when the reply came or is late, from the server's thread and
        never before this returns: with the bytes read (of a write: none), or ClientFault. It is
        not called when the client goes. LocalProtocolError while another answer is awaited.
        """

    def trigger(self, index: int, subindex: int) -> bool:
        """Signal the eventfd of interrupt ``subindex`` of VFIO's IRQ ``index``, if one is set.

        Return whether it was signalled. False is not an error: without an eventfd, or masked,
        nothing is kept here. INTx, a level, is offered again by ``end_of_interrupt``, a message
        that the model keeps by ``message_unmasked``.
        """

    def armed(self, index: int, subindex: int) -> bool:
        """Return whether ``trigger`` finds an eventfd, and no mask."""


@dataclass(frozen=True, slots=True)
class Mappable:
    """A region that the client may map: ``areas`` (offset, bytes) of the file ``descriptor``.

    The descriptor stays the model's. Offsets and sizes are multiples of 4096; ``offset`` is where
    the region begins in the file.
    """

    descriptor: int
    areas: tuple[tuple[int, int], ...]
    offset: int = 0


class DeviceModel(Protocol):
    """The device that a server serves: one PCI function. All calls come from its thread."""

    @property
    def timers(self) -> Timers:
        """Return the model's deadlines, which the server runs."""

    @property
    def posted(self) -> Work:
        """Return the work that other threads post for the model, which the server runs."""

    @property
    def migration(self) -> Migration | None:
        """Return the state that can be migrated, if the model declares one."""

    def region_size(self, index: int) -> int:
        """Return the bytes of region ``index`` (0-5 BARs, 6 ROM, 7 configuration); 0 = absent."""

    def region_mappable(self, index: int) -> Mappable | None:
        """Return what the client may map of region ``index``, if anything."""

    def irq_count(self, index: int) -> int:
        """Return how many interrupts VFIO's index has (0 INTx, 1 MSI, 2 MSI-X, 3 ERR, 4 REQ)."""

    def attach(self, client: Client) -> None:
        """Take note of a client that finished negotiation."""

    def detach(self) -> None:
        """Forget the client: every view of its memory is invalid, and it answers nothing more."""

    def unmapped(self, address: int, length: int) -> None:
        """Take note that the client took back bus addresses; views of them are invalid."""

    def region_read(self, index: int, offset: int, length: int) -> bytes:
        """Return ``length`` bytes; the range was checked against ``region_size``."""

    def region_write(self, index: int, offset: int, data: bytes) -> None:
        """Store ``data``; the range was checked against ``region_size``."""

    def end_of_interrupt(self) -> None:
        """INTx was serviced, or goes another way from now on.

        A line that is still asserted is a new interrupt.
        """

    def message_unmasked(self, index: int, subindex: int) -> None:
        """Take note that message ``subindex`` of IRQ ``index`` (1 MSI, 2 MSI-X) may go by now.

        It was unmasked, or has another eventfd. One that is pending is sent.
        """

    def device_reset(self) -> None:
        """Reset the function, which forgets its DMAs, as any other reset does."""

    @property
    def dma_ready(self) -> bool:
        """Return whether a DMA waits for nothing but ``go_on``."""

    def go_on(self) -> None:
        """Do DMAs that were started, as many as one turn may."""
