# SPDX-License-Identifier: Apache-2.0
"""Deadlines of a device model, without I/O: the server's thread runs what is due."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)
_KEPT = 64  # cancelled timers that may stay where they are


class Timer:
    """One deadline. ``cancel`` it to make it never happen; again is nothing."""

    __slots__ = ("_action", "_cancelled")

    def __init__(self, action: Callable[[], None], cancelled: Callable[[], None]) -> None:
        self._action: Callable[[], None] | None = action
        self._cancelled = cancelled

    def cancel(self) -> None:
        """Forget the action."""
        if self._action is not None:
            self._action = None
            self._cancelled()

    @property
    def active(self) -> bool:
        """Return whether it will still happen: not yet run, cancelled, or cleared by a reset."""
        return self._action is not None

    def fire(self) -> None:
        """Run the action, once."""
        action, self._action = self._action, None
        if action is not None:
            action()


class Timers:
    """Runs actions later, in the thread that serves the device, so that they need no lock.

    ``after`` and ``Timer.cancel`` may be called from any thread, such as one that does slow work
    for a device. While timers are held, time stands still for them. A server sets ``wake``, which
    is called when there is a new timer.

    They live on while no client is connected, as the device's state does. ``run`` calls an action;
    what it raises is a bug of the model's, and logged as one.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        run: Callable[[Callable[[], None]], None] = lambda action: action(),
    ) -> None:
        self.clock = clock
        self._run = run
        self._order = itertools.count()
        self._heap: list[tuple[float, int, Timer]] = []
        self._dead = 0  # at most: those in the heap that were cancelled
        self._held: float | None = None  # since when
        self.deferred = False  # what is due waits, and time goes on; the server's thread sets it
        self._lock = threading.RLock()  # over the three
        self.wake: Callable[[], None] = lambda: None

    @property
    def kept(self) -> int:
        """Return how many are kept, cancelled ones among them."""
        return len(self._heap)

    @property
    def paused(self) -> bool:
        """Return whether nothing happens, whatever is due: they are held, or deferred."""
        return self._held is not None or self.deferred

    def hold(self) -> None:
        """Let nothing happen until ``release``; again is nothing."""
        if self._held is None:
            self._held = self.clock()

    def release(self) -> None:
        """Go on: each has the time left that it had, and those set meanwhile have all of it."""
        if self._held is None:
            return
        with self._lock:
            passed, self._held = self.clock() - self._held, None
            # The order stays, so it is still a heap.
            self._heap = [(due + passed, order, timer) for due, order, timer in self._heap]

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Run ``action`` in ``seconds``, or at once when that is not above 0, from the server."""
        timer = Timer(action, self._count_cancelled)
        with self._lock:
            now = self.clock() if self._held is None else self._held
            heapq.heappush(self._heap, (now + max(0.0, seconds), next(self._order), timer))
        self.wake()
        return timer

    def _count_cancelled(self) -> None:
        """Drop the cancelled ones when they are most: a guest may set and cancel on and on."""
        with self._lock:
            self._dead += 1
            if 2 * self._dead > max(len(self._heap), _KEPT):
                self._heap = [each for each in self._heap if each[2].active]
                heapq.heapify(self._heap)
                self._dead = 0

    def clear(self) -> None:
        """Forget every action; no timer that was set is active then."""
        with self._lock:
            heap, self._heap, self._dead = self._heap, [], 0
            for _, _, timer in heap:
                timer.cancel()
            self._dead = 0

    def next_deadline(self) -> float | None:
        """Return when the next is due, by the clock; None when none is set, or they are held."""
        if not self._heap or self.paused:
            return None
        with self._lock:
            while self._heap and not self._heap[0][2].active:
                heapq.heappop(self._heap)
            return self._heap[0][0] if self._heap else None

    def run_due(self) -> None:
        """Run the timers that are due. Timers that they set wait for the next call."""
        if not self._heap or self.paused:
            return
        now, last = self.clock(), next(self._order)
        while (timer := self._next_due(now, last)) is not None:
            try:
                self._run(timer.fire)
            except Exception:
                _log.exception("a timer of the device model failed")

    def _next_due(self, now: float, last: int) -> Timer | None:
        with self._lock:
            if self.deferred:  # by the one that ran before
                return None
            if self._heap and self._heap[0][0] <= now and self._heap[0][1] < last:
                return heapq.heappop(self._heap)[2]
        return None
