# SPDX-License-Identifier: Apache-2.0
"""The one way to memory of an endpoint: what the bus would refuse is refused, and says exactly why.

Everything that a function reads is copied once; it can only work with the copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dma_rehearsal.device.endpoints.dma import (
    PLAIN,
    Attributes,
    Data,
    DmaRefused,
    NotMapped,
    OnlyByMessage,
    Outcome,
    Segments,
    bare,
)
from dma_rehearsal.device.endpoints.dma_engine import Asking, Moves
from dma_rehearsal.device.endpoints.dma_queue import DmaQueue, Started
from dma_rehearsal.device.endpoints.iommu_forwarding import page_at_fault
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.vfio_user.errors import MemoryFault
from dma_rehearsal.device.vfio_user.model import Ask

if TYPE_CHECKING:
    from dma_rehearsal.device.endpoints.endpoint import Endpoint

# Refusals that nobody waits for, of which the client's IOMMU is still to be told; what is refused
# beyond them is not told.
UNTOLD_MAX = 64


class Bus(Moves):
    """Reads and writes memory at bus addresses for one function. Not for several threads.

    ``queue`` has the DMAs that were started and are not done; ``uncaught`` gets a refusal that the
    end of one raised.
    """

    def __init__(self, function: Endpoint, uncaught: Callable[[DmaRefused], None]) -> None:
        super().__init__(function)
        self.queue = DmaQueue(
            self._begin_started, self._ask, uncaught, lambda: self.interconnect.caches is not None
        )
        self._untold = 0

    def read(self, address: int, length: int, attributes: Attributes = PLAIN) -> bytes:
        """Return a copy of memory, taken once. DmaRefused, and then nothing was read."""
        return self._now(((address, length),), attributes, write=False)[0]

    def write(self, address: int, data: bytes, attributes: Attributes = PLAIN) -> None:
        """Store ``data`` in memory. DmaRefused, and then nothing was written."""
        self._now(((address, data),), attributes, write=True)

    def read_list(
        self, segments: Sequence[tuple[int, int]], attributes: Attributes = PLAIN
    ) -> list[bytes]:
        """Return a copy of each segment (address, length). DmaRefused: nothing was read."""
        return self._now(segments, attributes, write=False)

    def write_list(
        self, segments: Sequence[tuple[int, Data]], attributes: Attributes = PLAIN
    ) -> None:
        """Store each segment (address, data), in order. DmaRefused: nothing was written."""
        self._now(segments, attributes, write=True)

    def _now(self, segments: Segments, attributes: Attributes, *, write: bool) -> list[bytes]:
        try:
            with self.interconnect.lock:
                return self._move(segments, attributes, write=write)
        except NotMapped as refusal:
            if self.behind_iommu:
                self._tell_later(refusal, segments, attributes, write=write)
            raise

    # The same, where the client's help may be needed: memory that it mapped without a descriptor.

    def read_async(
        self,
        address: int,
        length: int,
        on_done: Callable[[bytes | DmaRefused], None],
        attributes: Attributes = PLAIN,
        *,
        by_message: bool = False,
    ) -> None:
        """Read memory, and call ``on_done`` once with a copy of it or the refusal.

        ``on_done`` is never called before this returns: it comes from the same thread, when the
        register access or the timer that called this is done, and in mapped memory before that
        access is answered; otherwise later, while registers are read and written as ever. So an
        ``on_done`` may start the next DMA, however long the chain. DMAs are done, and end, in the
        order they were started, behind what a refusal asks of the client's IOMMU. Each is admitted
        when its bytes move. After ``cancel``, which a reset does, ``on_done`` never comes.

        At most 256 DMAs of 64 MiB in all are under way; what is too much is refused with
        CLIENT_ERROR. ``by_message`` asks the client by DMA_READ or DMA_WRITE, whatever its map
        says: for an address that is not mapped, QEMU then raises the fault of its IOMMU in the
        guest.
        """

        def done(outcome: Outcome) -> None:
            on_done(outcome if isinstance(outcome, DmaRefused) else outcome[0])

        self._start(((address, length),), length, attributes, done, False, by_message)

    def write_async(
        self,
        address: int,
        data: bytes,
        on_done: Callable[[bytes | DmaRefused], None],
        attributes: Attributes = PLAIN,
        *,
        by_message: bool = False,
    ) -> None:
        """Write memory; ``on_done`` gets no bytes, or the refusal. See ``read_async``.

        A write by messages that is refused has moved the pieces that the client had answered, and
        the one that it was asked to take when its right was withdrawn.
        """

        def done(outcome: Outcome) -> None:
            on_done(outcome if isinstance(outcome, DmaRefused) else b"")

        self._start(((address, data),), len(data), attributes, done, True, by_message)

    def read_list_async(
        self,
        segments: Sequence[tuple[int, int]],
        on_done: Callable[[Outcome], None],
        attributes: Attributes = PLAIN,
    ) -> None:
        """Read segments, and call ``on_done`` once with a copy of each or the refusal.

        In mapped memory it is ``read_list``. Otherwise nothing is asked of the client unless each
        segment can be reached, and they are read one after the other, each a request of its own.
        See ``read_async``.
        """
        length = sum([length for _, length in segments])
        self._start(tuple(segments), length, attributes, on_done, False)

    def write_list_async(
        self,
        segments: Sequence[tuple[int, Data]],
        on_done: Callable[[Outcome], None],
        attributes: Attributes = PLAIN,
    ) -> None:
        """Write segments; ``on_done`` gets no bytes, or the refusal. See ``read_list_async``."""
        length = sum([len(data) for _, data in segments])
        self._start(tuple(segments), length, attributes, on_done, True)

    def _start(
        self,
        segments: Segments,
        length: int,
        attributes: Attributes,
        on_done: Callable[[Outcome], None],
        write: bool,
        by_message: bool = False,
    ) -> None:
        dma = Started(segments, attributes, write, by_message, length, on_done)
        if self.queue.start(dma):
            return
        refusal = DmaRefused(DmaReason.CLIENT_ERROR, dma.address)
        self._record_refused(dma.address, length, attributes, refusal, write=write)
        self.queue.refuse(dma, refusal)

    def _begin_started(self, dma: Started) -> Outcome | Asking:
        return self._begin(dma.segments, dma.attributes, write=dma.write, by_message=dma.by_message)

    def _tell_later(
        self, refusal: DmaRefused, segments: Segments, attributes: Attributes, *, write: bool
    ) -> None:
        """Have the client's IOMMU told of a refusal for which nobody waits."""
        page = page_at_fault(segments, refusal.address, write=write)
        if page is None or self._untold >= UNTOLD_MAX:
            return
        if page.data is not None:
            page = page._replace(data=bytes(page.data))
        segments = ((page.address, page.data if write else page.length),)
        asking = self._refer(bare(refusal), page, attributes)
        dma = Started(segments, attributes, write, True, page.length, self._told, asking)
        self._untold += self.queue.start(dma)

    def _told(self, _outcome: Outcome) -> None:
        self._untold -= 1

    def cancel(self) -> None:
        """Forget every DMA that was started and is not done."""
        self._untold = 0
        self.queue.cancel()

    def leave(self) -> None:
        """End every DMA that was started: its client is going. CLIENT_GONE, where it is needed."""
        self._leaving = True
        try:
            self.queue.finish()
        finally:
            self._leaving = False

    def _ask(self, ask: Ask, answered: Callable[[bytes | MemoryFault], None]) -> None:
        if self.client is not None:
            self.client.ask(ask, answered)

    def ranges(self) -> list[tuple[int, int]]:
        """Return the bus addresses that the client has mapped, in order: (address, bytes)."""
        return list(self.client.ranges()) if self.client is not None else []

    def reachable(self, address: int, length: int, *, write: bool) -> bool:
        """Return whether memory is there for a request, perhaps by a message.

        Sends none, and asks no interconnect.
        """
        try:
            client = self._leaves(address, length)
            self._reach.views(client, address, length, write=write)
        except OnlyByMessage:
            return True
        except DmaRefused:
            return False
        return True
