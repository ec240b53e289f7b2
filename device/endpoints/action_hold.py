# SPDX-License-Identifier: Apache-2.0
"""Holds the actions of one function: each waits before its first DMA, while HOLD is on.

Theory of operation. The side effect of a BAR write runs in a thread of its own, which takes turns
with the thread that serves the function (`Baton`). At its first DMA it waits, and the write is
answered. A side effect that only starts DMAs ends, and they wait in the queue. At most one action
waits, for the next one lets it go first, and so does everything else that would call the model's
code in the middle of its side effect: a change of the command register, a timer. Reads of registers
are the exception: they are answered meanwhile, by the model's ``read_`` methods where it has any,
and their own DMA is not held. A reset cancels an action that waits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from dma_rehearsal.device.endpoints.baton import Baton, Cancelled
from dma_rehearsal.device.endpoints.bus import Bus
from dma_rehearsal.device.endpoints.hold_board import HoldBoard, Wait
from dma_rehearsal.device.vfio_user.timers import Timers

_log = logging.getLogger(__name__)


class ActionHold:
    """The hold of one function. All calls come from the thread that serves it.

    ``run`` runs a part of a side effect, and takes the refusals that it ends by; ``settle`` does
    the DMAs that were started; ``event`` writes to the trace. ``wait`` is that of the action that
    waits; None without one.
    """

    def __init__(
        self,
        bus: Bus,
        timers: Timers,
        *,
        run: Callable[[Callable[[], None]], None],
        settle: Callable[[], None],
        event: Callable[..., None],
    ) -> None:
        self._bus, self._timers = bus, timers
        self._run, self._settle, self._event = run, settle, event
        self._baton: Baton | None = None
        self._board = HoldBoard()  # of the wait
        self.wait: Wait | None = None
        bus.on_cancel = self._forget_started

    @property
    def on(self) -> bool:
        """Return whether an action that begins now waits."""
        return self._bus.interconnect.holds.on

    @property
    def in_side_effect(self) -> bool:
        """Return whether the action that waits does so in the middle of a side effect."""
        return self.wait is not None and self._baton is not None and not self._baton.done

    def act(self, body: Callable[[], None], place: str) -> None:
        """Do an action, up to its first DMA. One that waits goes before."""
        rules = self._bus.interconnect.holds.rules
        if self.wait is not None:
            if not rules.ordered:
                self._run(body)
                return
            self.finish("order")
        if not rules.waits or not self.on:
            self._run(body)
            return
        baton = Baton(body)
        self._hold_requests(baton)
        try:
            self._run(baton.go)
        finally:
            self._pass_requests()
            if not baton.done or self._bus.queue.waits:
                self._begin(baton, place)

    def _hold_requests(self, baton: Baton) -> None:
        def wait() -> None:
            self._pass_requests()
            baton.wait()

        self._bus.gate, self._bus.queue.holding = wait, True

    def _pass_requests(self) -> None:
        self._bus.gate, self._bus.queue.holding = None, False

    def _begin(self, baton: Baton, place: str) -> None:
        self._baton, self._board = baton, self._bus.interconnect.holds
        self.wait = Wait(self._timers.wake)
        self._timers.deferred = True
        self._event("held", place=place)
        self._board.begin(self.wait)

    def _end(self, why: str) -> tuple[Wait | None, Baton | None]:
        """Wait no more; return what did."""
        wait, self.wait = self.wait, None
        baton, self._baton = self._baton, None
        if wait is not None:
            wait.end(why)
            self._timers.deferred = False
            self._event("released", why=wait.why)
        return wait, baton

    def count_read(self) -> None:
        """Take note of a read of a BAR: who polls for the end of an action lets it go."""
        if self.wait is not None:
            self.wait.reads += 1
            if self.wait.reads >= self._board.rules.polls:
                self.finish("poll")

    def go_on(self) -> None:
        """Let the action go when another thread says so."""
        if self.wait is not None and self.wait.why is not None:
            self.finish(self.wait.why)

    def finish(self, why: str) -> None:
        """Let the action that waits go, if there is one; its side effect is over then."""
        wait, baton = self._end(why)
        if wait is None:
            return
        try:
            self._bus.queue.release()
            if baton is not None:
                self._run(baton.go)
        except Exception:
            _log.exception("the device model failed in an action that was held")
        finally:
            self._settle()
            self._board.end(wait)

    def cancel(self, why: str) -> None:
        """End the action that waits where it is: it moves nothing any more."""
        wait, baton = self._end(why)
        if wait is None:
            return
        self._bus.gate = _refuse
        try:
            if baton is not None:
                self._run(baton.cancel)
        except Exception:
            _log.exception("the device model failed in an action that was cancelled")
        finally:
            self._bus.gate = None
            self._board.end(wait)

    def _forget_started(self) -> None:
        """Take note that the model forgot the DMAs that it had started."""
        if self.wait is not None and not self.in_side_effect:
            wait, _ = self._end("cancelled")
            if wait is not None:
                self._board.end(wait)


def _refuse() -> None:
    raise Cancelled
