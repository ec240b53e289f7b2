# SPDX-License-Identifier: Apache-2.0
"""Work that other threads post for a device model: the thread that serves the model runs it.

Theory of operation. `post` appends an action and wakes the server, which runs the actions in the
order of posting. They run between messages, so they need no lock against the model. In one turn the
server runs at most TURN_ACTIONS of them, for at most TURN_S; then the client has its turn, however
many wait. While the timers are paused, by a migration or by an action that is held, posted work
waits as they do.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple, TypeVar

from dma_rehearsal.device.vfio_user.errors import TooMuchPosted
from dma_rehearsal.device.vfio_user.timers import Timers
from dma_rehearsal.device.vfio_user.turn import Action, Turn, check_action, stand_ins
from dma_rehearsal.device.vfio_user.watches import Watches

_log = logging.getLogger(__name__)

R = TypeVar("R")

MAX_POSTED = 65_536  # actions that wait
TURN_ACTIONS = 64
TURN_S = 0.001


class _Posted(NamedTuple):
    """``action`` is run, and is about ``calls`` of the model.

    ``future`` waits for it, if there is one, which the thread ``by`` has posted.
    """

    action: Callable[[], None]
    calls: Callable[..., object]
    future: Future[Any] | None = None
    by: int = 0


class _PostedFuture(Future[R]):
    """The future of posted work, which only the serving thread does: it cannot wait for itself."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self._work = work

    def result(self, timeout: float | None = None) -> R:
        """See ``Future.result``. RuntimeError in the serving thread, unless it is done."""
        self._check(timeout)
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """See ``Future.exception``. RuntimeError in the serving thread, unless it is done."""
        self._check(timeout)
        return super().exception(timeout)

    def _check(self, timeout: float | None) -> None:
        if timeout != 0 and not self.done() and self._work.serving:
            raise RuntimeError(
                "the thread that serves the device waits for posted work that only it can do; call "
                "the function itself, await self.future(...) in a coroutine, or wait in a thread "
                "of self.thread; a unit test calls FakeHost.run() first"
            )


class Work:
    """The posted work of one model. ``post`` and ``post_future`` may be called by any thread.

    A server sets ``wake``, which is called when there is something to do, and ``thread``, while it
    serves. ``run`` calls an action;
    the default calls it and nothing else. What an action raises is a bug of the model's, and is
    logged as one.
    """

    def __init__(
        self,
        timers: Timers,
        run: Callable[[Callable[[], None]], None] = lambda action: action(),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._timers, self._run, self._clock = timers, run, clock
        self._lock = threading.Lock()  # over the queue's length
        self._queue: deque[_Posted] = deque()
        self._ending: set[int] = set()  # threads, by their identities
        self.thread: int | None = None
        self.wake: Callable[[], None] = lambda: None
        self.watches = Watches(timers, run, lambda: self.wake())

    @property
    def waiting(self) -> int:
        """Return how many actions wait."""
        return len(self._queue)

    @property
    def in_serving_thread(self) -> bool:
        """Return whether the caller is the thread that serves, or nobody serves."""
        serving = self.thread
        return serving is None or threading.get_ident() == stand_ins.get(serving, serving)

    @property
    def serving(self) -> bool:
        """Return whether the caller is the thread that serves."""
        return self.thread is not None and self.in_serving_thread

    def check_thread(self, what: str) -> None:
        """Raise RuntimeError in another thread than the one that serves."""
        if not self.in_serving_thread:
            raise RuntimeError(
                f"{what} in the thread {threading.current_thread().name}: only the thread that "
                "serves the device does that; hand it over: self.post(lambda: ...), or "
                "self.post_future(lambda: ...).result()"
            )

    @property
    def ready(self) -> bool:
        """Return whether an action may run now."""
        return bool(self._queue) and not self._timers.paused

    def post(self, action: Callable[[], None]) -> None:
        """Have the serving thread run ``action`` soon.

        TooMuchPosted when MAX_POSTED wait. TypeError for what cannot be called.
        """
        check_action("post(action)", action)
        self._append(_Posted(action, action))

    def post_once(self, action: Callable[[], None]) -> None:
        """`post`, unless what was posted last is the same action and still waits."""
        with self._lock:
            if self._queue and self._queue[-1].action == action:
                return
        self.post(action)

    def post_future(self, function: Callable[[], R]) -> Future[R]:
        """Have the serving thread call ``function``; return the future of its result.

        ``forget`` and the end of the posting thread cancel it. In the serving thread, its
        ``result`` raises RuntimeError until it is done. TooMuchPosted when MAX_POSTED wait.
        TypeError for what cannot be called.
        """
        check_action("post_future(function)", function)
        future = _PostedFuture[R](self)
        by = threading.get_ident()
        self._append(_Posted(partial(_fulfil, future, function), function, future, by))
        return future

    def resume(self, action: Callable[[], None]) -> None:
        """Have the serving thread run ``action``, without a bound: who calls it has one."""
        self._append(_Posted(action, action), bounded=False)

    def _append(self, posted: _Posted, *, bounded: bool = True) -> None:
        with self._lock:
            if posted.future is not None and posted.by in self._ending:
                posted.future.cancel()
                return
            if bounded and len(self._queue) >= MAX_POSTED:
                raise TooMuchPosted(MAX_POSTED)
            self._queue.append(posted)
            first = len(self._queue) == 1
        if first:  # it has been woken for those before, and looks at the queue before it sleeps
            self.wake()

    def forget(self) -> None:
        """Drop what was posted before this call, and cancel its futures."""
        with self._lock:
            dropped = [*self._queue]
            self._queue.clear()
        for each in dropped:
            if each.future is not None:
                each.future.cancel()

    def end_thread(self, thread: int) -> None:
        """Cancel the futures of a thread, now and until ``thread_ended``: it is told to end."""
        with self._lock:
            self._ending.add(thread)
            waiting = [each.future for each in self._queue if each.by == thread and each.future]
        for future in waiting:
            future.cancel()

    def thread_ended(self, thread: int) -> None:
        """Take note that a thread has ended: another may get its identity."""
        with self._lock:
            self._ending.discard(thread)

    def run(self, turn: Turn) -> None:
        """Run what one turn may, in the serving thread. ``turn`` shows each action to a watcher."""
        if not self._queue:
            return
        end, left = self._clock() + TURN_S, TURN_ACTIONS
        while left and self.ready:
            with self._lock:
                posted = self._queue.popleft()
            left -= 1
            turn.work = Action("posted work", posted.calls)
            try:
                self._run(posted.action)
            except Exception:
                _log.exception("posted work of the device model failed")
            finally:
                turn.work = None
            if self._clock() >= end:
                break


def _fulfil(future: Future[R], function: Callable[[], R]) -> None:
    """Call the function unless its future was cancelled, and tell the outcome."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except BaseException as failure:
        future.set_exception(failure)
        if not isinstance(failure, Exception):
            raise
