# SPDX-License-Identifier: Apache-2.0
"""The coroutines of a device model. They run in the thread that serves it, so they need no lock.

Theory of operation. A coroutine runs until it awaits a DMA, a time or a future; the server goes on,
and whatever ends the wait runs the coroutine further: the queue of DMAs, a timer, posted work. All
of these resume it from the server's loop and never from within the call that it waits for, so a
coroutine may loop for ever. A reset ends every coroutine where it waits. Its ``finally`` blocks
run, while the function sends nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from dma_rehearsal.device.endpoints.baton import Cancelled
from dma_rehearsal.device.endpoints.bus import Bus
from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.endpoints.task import Awaited, Steps, Task
from dma_rehearsal.device.pci.config import ConfigSpace
from dma_rehearsal.device.vfio_user.timers import Timer, Timers
from dma_rehearsal.device.vfio_user.work import Work

_log = logging.getLogger(__name__)

R = TypeVar("R")

MAX_RUNNING = 4096  # a guest that rings a doorbell on and on may start as many


class TooManyRunning(Exception):
    """So many coroutines of a device run that no more is started."""

    def __init__(self) -> None:
        super().__init__(
            f"{MAX_RUNNING} coroutines of the device run; count them, and have the register refuse "
            "what is too much, or have one coroutine serve a queue"
        )


class Running:
    """One coroutine that was started."""

    def __init__(self, task: Task) -> None:
        self._task = task

    @property
    def done(self) -> bool:
        """Return whether it has returned, failed or been cancelled."""
        return self._task.done

    def cancel(self) -> None:
        """End it where it waits: its ``finally`` blocks run. Nothing when it is done.

        The DMA that it awaits is dropped: see ``Bus.drop``. Raises what a ``finally`` block raises.
        In the serving thread.
        """
        if not self._task.done:
            self._task.cancel()


class Coroutines:
    """The coroutines of one function. ``uncaught`` gets a refusal that one did not catch."""

    def __init__(
        self,
        bus: Bus,
        config: ConfigSpace,
        work: Work,
        uncaught: Callable[[DmaRefused], None],
    ) -> None:
        self._bus, self._config, self._work, self._uncaught = bus, config, work, uncaught
        self.waits = FutureWaits(work)
        self._running: dict[object, Running] = {}  # in the order of their starts
        self._cancelling = False

    def start(self, coroutine: Coroutine[Any, Any, object]) -> Running:
        """Run a coroutine until it waits, and further when its wait ends.

        TooManyRunning for one too many, TypeError for what is not a coroutine. RuntimeError in
        another thread than the server's, and while a reset ends the others.
        """
        if not hasattr(coroutine, "send"):
            raise TypeError(
                f"start({repr(coroutine)[:60]}): not a coroutine; call the async method: "
                "self.start(self.copy(...))"
            )
        if not self._work.in_serving_thread:
            coroutine.close()
            raise RuntimeError(
                f"a coroutine was started in the thread {threading.current_thread().name}; post "
                "the start: self.post(lambda: self.start(...))"
            )
        if self._cancelling:
            coroutine.close()
            raise RuntimeError("a coroutine was started by one that a reset ends")
        if len(self._running) >= MAX_RUNNING:
            coroutine.close()
            raise TooManyRunning
        key = object()
        task = Task(self._whole(key, coroutine))
        running = self._running[key] = Running(task)
        task.start()
        return running

    async def _whole(self, key: object, coroutine: Coroutine[Any, Any, object]) -> None:
        try:
            await coroutine
        except DmaRefused as refusal:
            self._uncaught(refusal)
        finally:
            self._running.pop(key, None)

    @property
    def running(self) -> int:
        """Return how many run."""
        return len(self._running)

    def cancel_all(self) -> None:
        """End every coroutine. Meanwhile the function sends no DMA and no interrupt."""
        if not self._running:
            return
        gate, stopped = self._bus.gate, self._config.stopped
        self._bus.gate, self._config.stopped, self._cancelling = _refuse, True, True
        try:
            for running in [*self._running.values()]:
                try:
                    running.cancel()
                except Cancelled:
                    pass
                except Exception:
                    _log.exception("a coroutine of the device model failed when a reset ended it")
        finally:
            self._bus.gate, self._config.stopped, self._cancelling = gate, stopped, False
            self._running.clear()


def _refuse() -> None:
    raise Cancelled


class Sleep(Awaited[None]):
    """A time to await, in seconds. Its timer ends with the wait."""

    what = "a sleep"

    def __init__(self, timers: Timers, seconds: float) -> None:
        self._timers, self._seconds = timers, seconds

    def __await__(self) -> Steps[None]:
        """Wait."""
        self.awaited = True
        timer: Timer | None = None

        def begin(resume: Callable[[Any], None]) -> None:
            nonlocal timer
            timer = self._timers.resume_after(self._seconds, lambda: resume(None))

        try:
            yield begin
        finally:
            if timer is not None:
                timer.cancel()


class FutureWaits:
    """The waits for futures. A future keeps one callback for all of them.

    A callback cannot be taken back, and a model may await the same future after each reset.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._waiting: WeakKeyDictionary[Future[Any], _Waiting] = WeakKeyDictionary()

    def of(self, future: Future[Any]) -> _Waiting:
        """Return the waits for one future."""
        found = self._waiting.get(future)
        if found is None:
            found = self._waiting[future] = _Waiting(self._work)
            future.add_done_callback(found.end)
        return found


class _Waiting:
    """The waits for one future. It must not hold the future, which is its key."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._lock = threading.Lock()  # the future may be done in any thread
        self._resumes: set[Callable[[Any], None]] = set()

    def add(self, resume: Callable[[Any], None]) -> None:
        """Have the serving thread call ``resume`` when the future is done."""
        with self._lock:
            self._resumes.add(resume)

    def discard(self, resume: Callable[[Any], None]) -> None:
        """Forget a wait."""
        with self._lock:
            self._resumes.discard(resume)

    def end(self, _future: object) -> None:
        """End every wait: the future is done."""
        with self._lock:
            resumes, self._resumes = self._resumes, set()
        for resume in resumes:
            self._work.resume(partial(resume, None))


class FutureResult(Awaited[R]):
    """A future of another thread to await: its result or its exception."""

    what = "a future"

    def __init__(self, waits: FutureWaits, future: Future[R]) -> None:
        self._waits, self._future = waits, future

    def __await__(self) -> Steps[R]:
        """Wait."""
        self.awaited = True
        waiting = self._waits.of(self._future)
        begun: Callable[[Any], None] | None = None

        def begin(resume: Callable[[Any], None]) -> None:
            nonlocal begun
            begun = resume
            waiting.add(resume)
            if self._future.done():  # perhaps before the wait was added
                waiting.end(self._future)

        try:
            yield begin
        finally:
            if begun is not None:
                waiting.discard(begun)
        return self._future.result(0)
