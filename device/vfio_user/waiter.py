# SPDX-License-Identifier: Apache-2.0
"""Waits for a socket of a server, and does what a model has due meanwhile."""

from __future__ import annotations

import os
import select
import socket
import time

from dma_rehearsal.device.vfio_user.model import DeviceModel
from dma_rehearsal.device.vfio_user.turn import Action, Turn
from dma_rehearsal.device.vfio_user.watches import Watch

_POLL_IN = int(select.POLLIN)  # a plain int: an operation on an IntFlag costs as much as ten of it
# poll() counts milliseconds in an int; a longer wait is repeated.
_MAX_WAIT_S = 3600.0


class Waiter:
    """Waits for a socket and the end of serving; runs timers, watches and posted work."""

    def __init__(
        self, stream: socket.socket, stop: int, woken: int, model: DeviceModel, turn: Turn
    ) -> None:
        self._stream, self._stop, self._woken = stream, stop, woken
        self._timers, self._work, self._turn = model.timers, model.posted, turn
        self._poll = select.poll()  # select() has no room for descriptors from 1024 on
        self._poll.register(stop, select.POLLIN)
        self._poll.register(woken, select.POLLIN)
        self._poll.register(stream, select.POLLIN)
        self._events = _POLL_IN
        self._descriptor = stream.fileno()
        self.message = [(self._descriptor, _POLL_IN)]  # as `look` has it, and nothing else
        self._own = (stop, woken, self._descriptor)
        self._watches = model.posted.watches
        self._shown: dict[int, Watch] = {}

    def look(self) -> list[tuple[int, int]]:
        """Return the descriptors that have an event by now, with their events; do not wait."""
        return self._poll.poll(0)

    def once(self, events: int, *deadlines: float | None) -> tuple[bool, bool]:
        """Wait for an event of the socket or the first deadline.

        Return whether to go on serving, and whether the socket has an event.
        """
        if events != self._events:
            self._poll.register(self._stream, events)
            self._events = events
        if self._watches.table or self._shown:
            self._show_watches()
        wait = None
        due = [each for each in (*deadlines, self._timers.next_deadline()) if each is not None]
        if self._work.ready:
            wait = 0.0
        elif due:
            until = min(due)
            wait = min(max(0.0, until - time.monotonic()), _MAX_WAIT_S) * 1000
        come = self._poll.poll(wait)
        if wait is None and come == self.message:
            return True, True  # as nearly always
        found = {descriptor for descriptor, _ in come}
        if self._woken in found:
            os.eventfd_read(self._woken)
        if self._timers.next_deadline() is not None:
            self._turn.work = Action("a timer")
            self._timers.run_due()
            self._turn.work = None
        if self._shown:
            self._watches.dispatch(come, self._turn)
        self._work.run(self._turn)
        return self._stop not in found, self._descriptor in found

    def _show_watches(self) -> None:
        """Have poll look at what the model watches now."""
        self._watches.check(self._own)
        shown = self._watches.shown
        if shown is self._shown:
            return
        for descriptor in self._shown:
            if descriptor not in shown and descriptor not in self._own:
                self._poll.unregister(descriptor)
        for watch in shown.values():
            self._poll.register(watch.descriptor, watch.events)
        self._shown = shown

    def wait(self, events: int) -> bool:
        """Wait for an event of the socket: True then, False to stop serving."""
        while True:
            serving, ready = self.once(events)
            if ready or not serving:
                return serving

    def pause(self, seconds: float) -> bool:
        """Let time pass without the socket; return whether to go on serving."""
        poll = select.poll()
        poll.register(self._stop, select.POLLIN)
        return not poll.poll(seconds * 1000)
