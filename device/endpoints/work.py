# SPDX-License-Identifier: Apache-2.0
"""The calls by which an endpoint gets work from elsewhere, and waits without a busy server."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from dma_rehearsal.device.endpoints.bus import Bus
from dma_rehearsal.device.endpoints.coroutines import Coroutines, FutureResult, Running, Sleep
from dma_rehearsal.device.endpoints.task import Awaited
from dma_rehearsal.device.endpoints.threads import ModelThread, Target, Threads
from dma_rehearsal.device.vfio_user.timers import Timers
from dma_rehearsal.device.vfio_user.watches import HasFileno, Watch
from dma_rehearsal.device.vfio_user.work import Work

R = TypeVar("R")


class WorkFromElsewhere:
    """A part of `Endpoint`. `post`, `post_future` and `watch` may be called by any thread."""

    bus: Bus
    timers: Timers
    posted: Work
    _coroutines: Coroutines
    _threads: Threads

    def post(self, action: Callable[[], None]) -> None:
        """Have the thread that serves the device run ``action`` soon; from any thread.

        Actions run one by one, in the order of posting, between register accesses, also while no
        client is connected. An action is like a timer's: a refused DMA that it does not catch ends
        it, and DMAs that it starts are done when it has returned. While HOLD has an action wait, or
        a migration holds the device, posted actions wait as well. A reset forgets those that were
        posted before it.

        TooMuchPosted when 65,536 wait: the poster is faster than the device for too long.
        """
        self.posted.post(action)

    def post_future(self, function: Callable[[], R]) -> Future[R]:
        """Post ``function``; return the future of its result or exception. See `post`.

        A reset that comes first cancels the future: ``result`` then raises CancelledError. The
        thread that serves the device cannot wait for it: there, ``result`` raises RuntimeError.
        """
        return self.posted.post_future(function)

    def watch(
        self,
        file: int | HasFileno,
        readable: Callable[[], None] | None = None,
        writable: Callable[[], None] | None = None,
    ) -> Watch:
        """Watch a descriptor, or a socket or another object that has one; from any thread.

        While it is readable, or writable, the thread that serves the device calls the function,
        once for each turn, as it runs a posted action: one that leaves bytes unread is called
        again. The end of a stream is readable. The watch outlives resets and clients: end it by
        ``Watch.close``, before the descriptor is closed. ValueError without a function, for a
        regular file, and for a descriptor that is closed or watched already.
        """
        return self.posted.watches.add(file, readable, writable)

    def start(self, coroutine: Coroutine[Any, Any, object]) -> Running:
        """Run a coroutine in the thread that serves the device, and call this there.

        It runs at once until it first awaits: ``self.bus.reading`` and its like, `sleep` or
        `future`. A reset ends it where it waits: its ``finally`` blocks run, and can do no DMA and
        send no interrupt. A refused DMA that it does not catch ends it. TooManyRunning while 4,096
        run.
        """
        return self._coroutines.start(coroutine)

    def sleep(self, seconds: float) -> Awaited[None]:
        """Return a time for a coroutine of `start` to await."""
        return Sleep(self.timers, seconds)

    def future(self, future: Future[R]) -> Awaited[R]:
        """Return a future of another thread for a coroutine of `start` to await."""
        return FutureResult(self._coroutines.waits, future)

    def thread(self, target: Target) -> ModelThread:
        """Start a thread that ends when the client goes: call this in ``on_attach``, or later.

        ``target`` is a function that gets an event and returns soon after it is set; or a coroutine
        function, which asyncio runs in the thread and which is cancelled. The event is set after
        ``on_detach``; futures that the thread waits for are cancelled then. A thread that does not
        end within 2 s is an error, which ends the run without a verdict. RuntimeError without a
        client.
        """
        self.bus.check_thread = self.posted.check_thread
        return self._threads.start(target, connected=self.bus.client is not None)
