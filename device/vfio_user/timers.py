"""Deadlines of a device model, without I/O: the server's thread runs what is due."""

from __future__ import annotations

import heapq
import itertools
import logging
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Timer:
    """One deadline. ``cancel`` it to make it never happen; again is nothing."""

    __slots__ = ("_action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self._action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Forget the action."""
        self._action = None

    @property
    def active(self) -> bool:
        """Return whether it will still happen."""
        return self._action is not None

    def fire(self) -> None:
        """Run the action, once."""
        action, self._action = self._action, None
        if action is not None:
            action()


class Timers:
    """Runs actions later, in the thread that serves the device, so that nothing needs a lock.

    They live on while no client is connected, as the device's state does. ``run`` calls an action;
    what it raises is a bug of the model's, and logged as one.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        run: Callable[[Callable[[], None]], None] = lambda action: action(),
    ) -> None:
        self._clock = clock
        self._run = run
        self._order = itertools.count()
        self._heap: list[tuple[float, int, Timer]] = []

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Run ``action`` in ``seconds``, or at once when that is not above 0, from the server."""
        timer = Timer(action)
        heapq.heappush(self._heap, (self._clock() + max(0.0, seconds), next(self._order), timer))
        return timer

    def clear(self) -> None:
        """Forget every action."""
        self._heap.clear()

    def next_deadline(self) -> float | None:
        """Return when the next is due, by the clock; None when none is set."""
        while self._heap and not self._heap[0][2].active:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def run_due(self) -> None:
        """Run what is due. What those set themselves waits for the next call."""
        if not self._heap:
            return
        now, last = self._clock(), next(self._order)
        while self._heap and self._heap[0][0] <= now and self._heap[0][1] < last:
            timer = heapq.heappop(self._heap)[2]
            try:
                self._run(timer.fire)
            except Exception:
                _log.exception("a timer of the device model failed")
