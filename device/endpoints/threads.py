# SPDX-License-Identifier: Apache-2.0
"""The threads of a device model: from their start while a client is connected until it goes.

Theory of operation. A thread that is to end may wait for a future that only the serving thread can
fulfil, and that thread waits for it. So its futures are cancelled first, and those that it posts
then are cancelled at once. One that does not end within END_S is an error of the model's.
"""

from __future__ import annotations

import concurrent.futures
import inspect
import logging
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dma_rehearsal.device.vfio_user.turn import name_of
from dma_rehearsal.device.vfio_user.work import Work

if TYPE_CHECKING:
    import asyncio

_log = logging.getLogger(__name__)

END_S = 2.0  # less than the watchdog's patience

Target = Callable[[threading.Event], object] | Callable[[], Coroutine[Any, Any, object]]


class ModelThread:
    """One thread. ``ending`` is set when it is to end."""

    def __init__(self, target: Target, work: Work, ended: Callable[[ModelThread], None]) -> None:
        self._target, self._work, self._ended = target, work, ended
        self.ending = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main_task: asyncio.Task[object] | None = None
        self._lock = threading.Lock()  # over the two above, which come while it may be told to end
        self._thread = threading.Thread(target=self._main, name=name_of(target), daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Return whether it has not ended."""
        return self._thread.is_alive()

    def end(self) -> None:
        """Tell it to end, and wait for that: for END_S, and then it is an error in the log."""
        self.ending.set()
        ident = self._thread.ident or 0
        if ident == threading.get_ident():
            return
        self._work.end_thread(ident)
        with self._lock:
            if self._loop is not None and self._main_task is not None:
                self._loop.call_soon_threadsafe(self._main_task.cancel)
        self._thread.join(END_S)
        if self._thread.is_alive():
            _log.error(
                "the thread %s did not end within %s s; it is at %s; return when its event is set",
                self._thread.name,
                END_S,
                _place(ident),
            )

    def _main(self) -> None:
        try:
            if inspect.iscoroutinefunction(self._target):
                self._run_loop(self._target)
            else:
                self._target(self.ending)  # type: ignore[call-arg]
        except concurrent.futures.CancelledError:
            if not self.ending.is_set():
                _log.exception("the thread %s ended by a reset: catch CancelledError", self._name)
        except Exception:
            _log.exception("the thread %s of the device model failed", self._name)
        finally:
            self._work.thread_ended(threading.get_ident())
            self._ended(self)

    @property
    def _name(self) -> str:
        return self._thread.name

    def _run_loop(self, main: Callable[[], Coroutine[Any, Any, object]]) -> None:
        import asyncio

        async def whole() -> None:
            with self._lock:
                self._loop = asyncio.get_running_loop()
                self._main_task = asyncio.current_task()
                if self.ending.is_set():
                    return
            try:
                await main()
            finally:
                with self._lock:
                    self._loop = self._main_task = None

        try:
            asyncio.run(whole())
        except asyncio.CancelledError as error:
            raise concurrent.futures.CancelledError from error


def _place(ident: int) -> str:
    frame = sys._current_frames().get(ident)
    if frame is None:
        return "its end"
    code = frame.f_code
    return f"{Path(code.co_filename).name}:{frame.f_lineno}, in {code.co_name}"


class Threads:
    """The threads of one function."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._threads: set[ModelThread] = set()
        self._lock = threading.Lock()

    def start(self, target: Target, *, connected: bool) -> ModelThread:
        """Start a thread; RuntimeError unless a client is connected."""
        if not callable(target):
            raise TypeError(
                f"thread({repr(target)[:60]}): not a function; give the function itself, without "
                "parentheses behind its name"
            )
        if not connected:
            raise RuntimeError(
                f"the thread {name_of(target)} was started without a client: start it in "
                "on_attach; it ends when the client goes"
            )
        with self._lock:
            started = ModelThread(target, self._work, self._forget)
            self._threads.add(started)
        return started

    def _forget(self, thread: ModelThread) -> None:
        with self._lock:
            self._threads.discard(thread)

    def end_all(self) -> None:
        """End every thread, one after the other."""
        with self._lock:
            threads = [*self._threads]
        for each in threads:
            each.ending.set()
        for each in threads:
            each.end()
