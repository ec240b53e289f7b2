# SPDX-License-Identifier: Apache-2.0
"""The DMAs of a function that were started and are not done.

Theory of operation. DMAs are done in the order they were started, and end in that order. None ends
before the call that started it has returned: the queue runs when a register access or a timer of
the model's is done, and so before the access is answered; then when the client has answered; and
what one turn leaves, when the next one comes. The DMA in front is begun; where it needs the client,
the queue waits for the answer, while every other message is served. A DMA for which the queue has
no room never enters it: its refusal comes in the next turn, before others that wait.

A DMA that is dropped leaves the queue. Only a message that the client has cannot be taken back: its
DMA keeps its place until the answer, and so whatever is started after the drop moves after it.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import GEN_RUNNING, getgeneratorstate

from dma_rehearsal.device.endpoints.dma import (
    Asking,
    Attributes,
    DmaRefused,
    Dropped,
    Outcome,
    ScatterList,
    ranges_of,
)
from dma_rehearsal.device.layout import RING_BYTES_CACHED_LEAST, RING_BYTES_CACHED_MAX, DmaReason
from dma_rehearsal.device.vfio_user.errors import ClientGone, MemoryFault
from dma_rehearsal.device.vfio_user.model import Ask

_log = logging.getLogger(__name__)

# Under way at a time.
MAX_QUEUED = 256
MAX_QUEUED_BYTES = 1 << 26
# Within one turn, so that no access is answered late. A doorbell of the ring does less; the DMA
# that reaches a bound is done whole.
TURN_DMAS = 8192
TURN_BYTES = 1 << 27
# The same behind a cache, where each segment counts as so many bytes at least: its cost is that of
# its lines. A doorbell's descriptors and what they say fit.
TURN_BYTES_CACHED = RING_BYTES_CACHED_MAX + (1 << 20)
SEGMENT_BYTES_CACHED = RING_BYTES_CACHED_LEAST


@dataclass(slots=True, eq=False)
class Started:
    """One DMA of ``length`` bytes. ``on_done`` gets its outcome.

    ``asking``, once it has begun and needs the client, is what it asks. One that ``waits`` does not
    begin before ``DmaQueue.release``, nor do those behind it. One that is ``dropped`` asks nothing
    more, and does not end.
    """

    segments: ScatterList
    attributes: Attributes
    write: bool
    by_message: bool
    length: int
    on_done: Callable[[Outcome], object]
    asking: Asking | None = None
    asked: Ask | None = None
    waits: bool = False
    dropped: bool = False

    @property
    def address(self) -> int:
        """Return the bus address of the first byte; 0 of a list of nothing."""
        return self.segments[0][0] if self.segments else 0

    def cached_length(self) -> int:
        """Return the bytes that it counts as behind a cache."""
        ranges = ranges_of(self.segments, write=self.write)
        return sum([max(length, SEGMENT_BYTES_CACHED) for _, length in ranges])


class DmaQueue:
    """One function's queue.

    ``begin`` does a DMA, or returns what it asks first; ``ask`` sends a message to the client;
    ``cached`` says whether caches are in the way. ``uncaught`` gets a refusal that an ``on_done``
    raised; what else it raises is a bug of the model's, and logged as one.
    """

    def __init__(
        self,
        begin: Callable[[Started], Outcome | Asking],
        ask: Callable[[Ask, Callable[[bytes | MemoryFault], None]], None],
        uncaught: Callable[[DmaRefused], None],
        cached: Callable[[], bool],
    ) -> None:
        self._begin, self._ask, self._uncaught, self._cached = begin, ask, uncaught, cached
        self._dmas: deque[Started] = deque()
        self._bytes = 0
        self._refused: deque[tuple[Started, DmaRefused]] = deque()
        self._owed: Ask | None = None  # that the client has not answered, for any DMA
        self._answer: bytes | MemoryFault | None = None  # to the one in front
        self._running = False
        self._begins = False  # the DMA in front is being begun, or goes on
        self.holding = False  # DMAs that are started now wait
        self.idle = True  # nothing is started: it is asked at every register access

    def start(self, dma: Started) -> bool:
        """Take a DMA; False when there is no room for it."""
        if len(self._dmas) >= MAX_QUEUED or self._bytes + dma.length > MAX_QUEUED_BYTES:
            return False
        dma.waits = self.holding
        self._dmas.append(dma)
        self._bytes += dma.length
        self.idle = False
        return True

    def refuse(self, dma: Started, refusal: DmaRefused) -> None:
        """End a DMA that was not taken, in the next turn."""
        self._refused.append((dma, refusal))
        self.idle = False

    @property
    def empty(self) -> bool:
        """Return whether no DMA that was started is still to be done."""
        return not (self._dmas or self._refused)

    @property
    def ready(self) -> bool:
        """Return whether ``go_on`` has something to do."""
        if self._refused:
            return True
        if not self._dmas or self._dmas[0].waits:
            return False
        # Behind an answer that is owed, only a DMA that may need none can begin.
        return self._owed is None or self._dmas[0].asking is None

    @property
    def waits(self) -> bool:
        """Return whether a DMA waits for ``release``."""
        return any(dma.waits for dma in self._dmas)

    def release(self) -> None:
        """Let the DMAs begin that wait."""
        for dma in self._dmas:
            dma.waits = False

    def go_on(self) -> None:
        """Do what one turn may. Nothing when it is called from within: an end runs no other."""
        if self._running:
            return
        self._running = True
        try:
            self._end_refused()
            cached = self._cached()
            dmas, length = TURN_DMAS, TURN_BYTES_CACHED if cached else TURN_BYTES
            while self._dmas and dmas > 0 and length > 0:
                dma = self._dmas[0]
                if dma.waits or not self._advance(dma):
                    break
                dmas -= 1
                length -= dma.cached_length() if cached else dma.length
        finally:
            self._running = False
            self._note_idle()

    def finish(self) -> None:
        """End what is under way: the client is gone, reaches nothing and answers nothing."""
        self._owed = None
        self._running = True
        try:
            self._end_refused()
            for dma in [*self._dmas]:
                if self._dmas and self._dmas[0] is dma:  # not cancelled meanwhile
                    if dma.asked is not None:
                        self._answer = ClientGone(dma.asked.address)
                    self._advance(dma)
        finally:
            self._running = False
            self._note_idle()

    def drop(self, dma: Started) -> None:
        """Forget a DMA: it moves nothing more, and does not end. Nothing when it has ended.

        A message of it that the client has may still move bytes; those behind it wait for that.
        """
        dma.dropped = True
        if dma not in self._dmas:
            self._refused = deque(each for each in self._refused if each[0] is not dma)
        elif dma is not self._dmas[0] or not (self._begins or dma.asking is not None):
            self._dmas.remove(dma)
            self._bytes -= dma.length
        elif not self._begins and self._owed is not dma.asked:
            self._leave(dma)
        self._note_idle()

    def cancel(self) -> None:
        """Forget every DMA: none moves anything, or ends. An answer that is owed is dropped."""
        dmas = [*self._dmas]
        self._dmas.clear()
        self._refused.clear()
        self._bytes = 0
        self.idle = True
        self._answer = None
        for dma in dmas:
            dma.dropped = True
            if dma.asking is not None and getgeneratorstate(dma.asking) != GEN_RUNNING:
                dma.asking.close()

    def _end_refused(self) -> None:
        """Tell the refusals that there are by now; those of DMAs that they start wait."""
        for dma, refusal in [*self._refused]:
            if self._refused and self._refused[0][0] is dma:  # not forgotten meanwhile
                self._refused.popleft()
                self._end(dma, refusal)

    def _advance(self, dma: Started) -> bool:
        """Go on with the DMA in front; return False when it has to wait for the client."""
        if dma.dropped:
            if self._owed is not None:
                return False
            self._leave(dma)
            return True
        outcome: Outcome | None
        self._begins = True
        try:
            if dma.asking is not None:
                outcome = self._step(dma, dma.asking)
            elif isinstance(begun := self._begin(dma), (list, DmaRefused)):
                outcome = begun
            else:
                dma.asking = begun
                outcome = self._step(dma, begun)
        except Exception:
            _log.exception("the device model failed within a DMA")
            outcome = DmaRefused(DmaReason.CLIENT_ERROR, dma.address)
        finally:
            self._begins = False
        if outcome is None:
            return False
        if self._dmas and self._dmas[0] is dma:  # not cancelled within
            self._dmas.popleft()
            self._bytes -= dma.length
            if not dma.dropped:
                self._end(dma, outcome)
        return True

    def _leave(self, dma: Started) -> None:
        """Take the DMA in front out of the queue, and end what it asks: it was dropped."""
        answer, self._answer = self._answer, None
        self._dmas.popleft()
        self._bytes -= dma.length
        if dma.asking is not None:
            with contextlib.suppress(Dropped, StopIteration):
                dma.asking.throw(Dropped(answer))

    def _note_idle(self) -> None:
        self.idle = not (self._dmas or self._refused)

    def _step(self, dma: Started, asking: Asking) -> Outcome | None:
        """Ask what comes next; return the outcome when there is nothing more to ask."""
        if self._owed is not None:
            return None
        answer, self._answer = self._answer, None
        try:
            ask = next(asking) if answer is None else asking.send(answer)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        if dma.dropped:  # within, by who heard of its refusal
            asking.close()
            return []
        self._owed = dma.asked = ask
        self._ask(ask, partial(self._answered, ask))
        return None

    def _answered(self, ask: Ask, answer: bytes | MemoryFault) -> None:
        if self._owed is not ask:
            return  # of a client that is gone
        self._owed = None
        if self._dmas and self._dmas[0].asked is ask:
            self._answer = answer
        self.go_on()

    def _end(self, dma: Started, outcome: Outcome) -> None:
        try:
            dma.on_done(outcome)
        except DmaRefused as refusal:
            self._uncaught(refusal)
        except Exception:
            _log.exception("the device model failed at the end of a DMA")
