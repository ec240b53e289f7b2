# SPDX-License-Identifier: Apache-2.0
"""Deadlines of a device model, without I/O: the server's thread runs what is due."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from dma_rehearsal.device.vfio_user.errors import TooManyTimers
from dma_rehearsal.device.vfio_user.turn import check_action

_log = logging.getLogger(__name__)
MAX_TIMERS = 65_536  # that are set
MAX_NAMED_S = 1 << 32  # 136 years
_KEPT = 64  # cancelled timers that may stay where they are


class Timer:
    """One deadline. ``cancel`` it to make it never happen; again is nothing."""

    __slots__ = ("_action", "_timers", "waits")

    def __init__(self, action: Callable[[], None], timers: Timers) -> None:
        self._action: Callable[[], None] | None = action
        self._timers = timers
        self.waits = True  # counted among those that are set; its `Timers` looks after this

    def cancel(self) -> None:
        """Forget the action."""
        self._action = None
        self._timers.cancelled(self)

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
    what it raises is a bug of the model's, and logged as one. ``actions`` has those of named
    timers, which a migration carries.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        run: Callable[[Callable[[], None]], None] = lambda action: action(),
        actions: Mapping[str, Callable[[], None]] = MappingProxyType({}),
    ) -> None:
        self.clock = clock
        self._run = run
        self._actions = actions
        self._named: dict[str, Timer] = {}  # also those that ran
        self._order = itertools.count()
        self._heap: list[tuple[float, int, Timer]] = []
        self._waiting = 0  # of those in the heap, the ones that were not cancelled
        self._held: float | None = None  # since when
        self.deferred = False  # what is due waits, and time goes on; the server's thread sets it
        self._lock = threading.Lock()  # over the heap, the count and ``Timer.waits``
        self.wake: Callable[[], None] = lambda: None

    @property
    def kept(self) -> int:
        """Return how many are kept, cancelled ones among them."""
        return len(self._heap)

    @property
    def waiting(self) -> int:
        """Return how many are set: neither run yet nor cancelled."""
        return self._waiting

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
        """Run ``action`` in ``seconds``, or at once when that is not above 0, from the server.

        TooManyTimers when MAX_TIMERS are set. TypeError for what cannot be called.
        """
        check_action("after(seconds, action)", action)
        return self._set(seconds, action)

    def resume_after(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Run ``action`` as ``after`` does, without a bound: who calls it has one."""
        return self._set(seconds, action, bounded=False)

    def named(self, name: str, seconds: float) -> Timer:
        """Run the action of a name in ``seconds``, in place of the timer that has the name now.

        In the serving thread. 0 to 2**32 seconds; a time below is 0. ValueError for another one,
        and for no number. LookupError for a name without an action.
        """
        action = self._actions.get(name)
        if action is None:
            has = ", ".join(f"timer_{each}" for each in self._actions) or "none"
            raise LookupError(
                f"a timer with the name {name!r}: define timer_{name}; the device has {has}"
            )
        if not seconds <= MAX_NAMED_S:
            raise ValueError(f"the timer {name} in {seconds} s: at most {MAX_NAMED_S} s")
        before = self._named.get(name)
        if before is not None:
            before.cancel()
        timer = self._named[name] = self._set(seconds, action, bounded=False)
        return timer

    def left(self) -> dict[str, float]:
        """Return the seconds that the named timers have left which are set."""
        with self._lock:
            now, names = self._now, {timer: name for name, timer in self._named.items()}
            return {
                names[timer]: max(0.0, due - now)
                for due, _, timer in self._heap
                if timer.waits and timer in names
            }

    def restore(self, left: Mapping[str, float]) -> None:
        """Set the named timers as ``left`` says, and cancel the others that have a name."""
        for timer in self._named.values():
            timer.cancel()
        for name, seconds in left.items():
            self.named(name, seconds)

    def _set(self, seconds: float, action: Callable[[], None], *, bounded: bool = True) -> Timer:
        timer = Timer(action, self)
        with self._lock:
            if bounded and self._waiting >= MAX_TIMERS:
                raise TooManyTimers(MAX_TIMERS)
            heapq.heappush(self._heap, (self._now + max(0.0, seconds), next(self._order), timer))
            self._waiting += 1
        self.wake()
        return timer

    @property
    def _now(self) -> float:
        return self.clock() if self._held is None else self._held

    def cancelled(self, timer: Timer) -> None:
        """Take note that a timer was cancelled; for ``Timer.cancel``.

        Cancelled ones are dropped when they are most: a guest may set and cancel on and on.
        """
        with self._lock:
            if not timer.waits:
                return
            timer.waits = False
            self._waiting -= 1
            if 2 * (len(self._heap) - self._waiting) > max(len(self._heap), _KEPT):
                self._heap = [each for each in self._heap if each[2].waits]
                heapq.heapify(self._heap)

    def clear(self, *, keep_named: bool = False) -> None:
        """Forget every action, but for those of named timers if ``keep_named``.

        No other timer that was set is active then.
        """
        kept = set(self._named.values()) if keep_named else set()
        with self._lock:
            heap = self._heap
            self._heap = [each for each in heap if each[2].waits and each[2] in kept]
            heapq.heapify(self._heap)
            self._waiting = len(self._heap)
            cleared = [each[2] for each in heap if each[2] not in kept]
            for timer in cleared:
                timer.waits = False
        for timer in cleared:
            timer.cancel()

    def next_deadline(self) -> float | None:
        """Return when the next is due, by the clock; None when none is set, or they are held."""
        if not self._heap or self.paused:
            return None
        with self._lock:
            while self._heap and not self._heap[0][2].waits:
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
            while self._heap and self._heap[0][0] <= now and self._heap[0][1] < last:
                timer = heapq.heappop(self._heap)[2]
                if timer.waits:
                    timer.waits = False
                    self._waiting -= 1
                    return timer
        return None
