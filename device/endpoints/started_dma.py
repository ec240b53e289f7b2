# SPDX-License-Identifier: Apache-2.0
"""The DMAs of a bus that are started, and end later: with a callback, or awaited by a coroutine.

Memory that the client mapped without a descriptor needs the client's help, and that takes time. So
these calls work in all memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dma_rehearsal.device.endpoints.awaited_dma import AwaitedDma
from dma_rehearsal.device.endpoints.dma import (
    DATA,
    PLAIN,
    Asking,
    Attributes,
    Data,
    DmaRefused,
    Outcome,
    Ranges,
    ScatterList,
    bare,
    ranges_of,
    type_mistake,
)
from dma_rehearsal.device.endpoints.dma_engine import DmaEngine
from dma_rehearsal.device.endpoints.dma_queue import DmaQueue, Started
from dma_rehearsal.device.endpoints.request_log import RequestLog
from dma_rehearsal.device.layout import DmaReason


class StartedDma(AwaitedDma):
    """A part of `Bus`, which has these attributes."""

    queue: DmaQueue
    check_thread: Callable[[str], None] | None
    limits: Callable[[Ranges], None] | None
    on_cancel: Callable[[], None]
    _engine: DmaEngine
    _log: RequestLog

    def read_async(
        self,
        address: int,
        length: int,
        on_done: Callable[[bytes | DmaRefused], object],
        attributes: Attributes = PLAIN,
        *,
        by_message: bool = False,
    ) -> Started:
        """Read memory, and call ``on_done`` once with a copy of it or the refusal.

        ``on_done`` is never called before this returns: it comes from the same thread, when the
        register access or the timer that called this is done, and in mapped memory before that
        access is answered; otherwise later, while registers are read and written as ever. So an
        ``on_done`` may start the next DMA, however long the chain. DMAs are done, and end, in the
        order they were started, behind the messages that a refusal sends to the client's IOMMU.
        Each is admitted when its bytes move. After ``cancel``, which a reset does, ``on_done``
        never comes. It returns the DMA, for ``drop``.

        At most 256 DMAs of 64 MiB in all are under way; one beyond that is refused with
        CLIENT_ERROR. ``by_message`` asks the client by DMA_READ or DMA_WRITE, whatever its map
        says: for an address that is not mapped, QEMU then raises the fault of its IOMMU in the
        guest.
        """

        def done(outcome: Outcome) -> None:
            on_done(outcome if isinstance(outcome, DmaRefused) else outcome[0])

        if not (isinstance(address, int) and isinstance(length, int)):
            _raise_mistake(((address, length),), write=False)
        return self._start(((address, length),), length, attributes, done, False, by_message)

    def write_async(
        self,
        address: int,
        data: bytes,
        on_done: Callable[[bytes | DmaRefused], object],
        attributes: Attributes = PLAIN,
        *,
        by_message: bool = False,
    ) -> Started:
        """Write memory; ``on_done`` gets no bytes, or the refusal. See ``read_async``.

        A write by messages that is refused has moved the pieces that the client had answered, and
        the one that it was asked to take when its right was withdrawn.
        """

        def done(outcome: Outcome) -> None:
            on_done(outcome if isinstance(outcome, DmaRefused) else b"")

        if not (isinstance(address, int) and isinstance(data, DATA)):
            _raise_mistake(((address, data),), write=True)
        return self._start(((address, data),), len(data), attributes, done, True, by_message)

    def read_list_async(
        self,
        segments: Sequence[tuple[int, int]],
        on_done: Callable[[Outcome], object],
        attributes: Attributes = PLAIN,
    ) -> Started:
        """Read segments, and call ``on_done`` once with a copy of each or the refusal.

        In mapped memory it is ``read_list``. Otherwise nothing is asked of the client unless each
        segment can be reached, and they are read one after the other, each a request of its own.
        See ``read_async``.
        """
        length = sum([length for _, length in segments])
        return self._start(tuple(segments), length, attributes, on_done, False)

    def write_list_async(
        self,
        segments: Sequence[tuple[int, Data]],
        on_done: Callable[[Outcome], object],
        attributes: Attributes = PLAIN,
    ) -> Started:
        """Write segments; ``on_done`` gets no bytes, or the refusal. See ``read_list_async``."""
        length = sum([len(data) for _, data in segments])
        return self._start(tuple(segments), length, attributes, on_done, True)

    def _start(
        self,
        segments: ScatterList,
        length: int,
        attributes: Attributes,
        on_done: Callable[[Outcome], object],
        write: bool,
        by_message: bool = False,
    ) -> Started:
        if self.check_thread is not None:
            self.check_thread("a DMA")
        dma = Started(segments, attributes, write, by_message, length, on_done)
        if self.queue.start(dma):
            return dma
        refusal = DmaRefused(DmaReason.CLIENT_ERROR, dma.address)
        self._log.record_refused(dma.address, length, attributes, refusal, write=write)
        self.queue.refuse(dma, refusal)
        return dma

    def _begin_started(self, dma: Started) -> Outcome | Asking:
        if self.limits is not None:
            try:
                ranges = ranges_of(dma.segments, write=dma.write)
                self._keep_limits(self.limits, ranges, write=dma.write)
            except DmaRefused as refusal:
                return bare(refusal)
        return self._engine.begin(
            dma.segments, dma.attributes, write=dma.write, by_message=dma.by_message
        )

    def _keep_limits(
        self, limits: Callable[[Ranges], None], ranges: Ranges, *, write: bool
    ) -> None:
        """Record what is beyond a limit of the device's own, and raise DmaRefused."""
        try:
            limits(ranges)
        except DmaRefused as refusal:
            self._log.refuse(refusal.reason, ranges, write=write, moved=0, byte=refusal.address)
            raise

    def drop(self, dma: Started) -> None:
        """Forget one DMA that was started; ``on_done`` never comes. Nothing when it is done.

        It moves nothing more but a message that the client has already, which nobody can take back:
        DMAs that are started from now on move after that. The trace has what it moved.
        """
        self.queue.drop(dma)
        if dma.waits and not self.queue.waits:
            self.on_cancel()


def _raise_mistake(segments: ScatterList, *, write: bool) -> None:
    """Raise TypeError with words for an author, if the segments are at fault."""
    mistake = type_mistake(segments, write=write)
    if mistake is not None:
        raise TypeError(mistake)
