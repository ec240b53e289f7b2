# SPDX-License-Identifier: Apache-2.0
"""Work that has to wait now and then, written down in the order in which it is done.

    def steps() -> Steps:
        data = yield partial(start_reading, address)   # start_reading(address, on_done)
        yield partial(start_writing, other, data)

    Task(steps()).start()

Coroutines are such steps, too: `Awaited` is a step that they await (``coroutines``).
What is done at once goes on at once, however often: in a loop, so nothing recurses.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

_log = logging.getLogger(__name__)

R = TypeVar("R")
# Starts something, and has the callable called once, with what came of it.
Step = Callable[[Callable[[Any], None]], None]
Steps = Generator[Step, Any, R]
_NOT_AWAITABLE = (
    "{!r} cannot be awaited here: await self.bus.reading and its like, self.sleep (and not "
    "asyncio.sleep) or self.future; asyncio needs a thread of its own (self.thread)"
)
_NO_LOOP = "no running event loop"  # asyncio says so, as in asyncio.sleep
_NOT_ASYNCIO = (
    "a coroutine of self.start called asyncio, which does not run here: await self.sleep(seconds) "
    "in place of asyncio.sleep, and self.future for a future; asyncio needs a thread of its own "
    "(self.thread)"
)


class Awaited(Generic[R]):
    """A step, for coroutines: its outcome is returned, or raised where it is an exception.

    A step that nobody awaited is not done, and an error in the log. ``__await__`` takes note.
    """

    what: ClassVar[str] = "a step"
    awaited = False

    def __init__(self, step: Step) -> None:
        self._step = step

    def __await__(self) -> Steps[R]:
        """Yield the step to the `Task` that runs the coroutine."""
        self.awaited = True
        outcome = yield self._step
        if isinstance(outcome, BaseException):
            raise outcome
        result: R = outcome
        return result

    def __del__(self) -> None:
        if not self.awaited:
            frame = sys._getframe(1)  # which has dropped it, and mostly has made it
            _log.error(
                "%s was not awaited, so it was not done (%s:%s): write await before it, in an "
                "async method that self.start runs",
                *(self.what, Path(frame.f_code.co_filename).name, frame.f_lineno),
            )


class Task:
    """Runs ``steps``. Not for several threads."""

    def __init__(self, steps: Steps[None] | Coroutine[Step, Any, None]) -> None:
        self._steps = steps
        self._outcomes: deque[Any] = deque()
        self._running = self._sending = False
        self.done = False

    def start(self) -> None:
        """Go as far as nothing has to be waited for. Raises what the steps raise."""
        self._resume(None)

    def cancel(self) -> None:
        """Do no further step; a step under way goes on, and its outcome is dropped.

        Raises what the steps raise at their end. Called by the steps themselves, they end where
        they wait next.
        """
        self.done = True
        if not self._sending:
            self._steps.close()

    def _send(self, outcome: object) -> Step:
        self._sending = True
        try:
            return self._steps.send(outcome)
        finally:
            self._sending = False

    def _resume(self, outcome: object) -> None:
        self._outcomes.append(outcome)
        if self._running:
            return
        self._running = True
        try:
            while self._outcomes and not self.done:
                step = self._send(self._outcomes.popleft())
                if self.done:
                    self._steps.close()
                    break
                if not callable(step):
                    self._steps.throw(TypeError(_NOT_AWAITABLE.format(step)))
                step(self._resume)
        except StopIteration:
            self.done = True
        except BaseException as failure:
            self.done = True
            if isinstance(failure, RuntimeError) and str(failure) == _NO_LOOP:
                raise RuntimeError(_NOT_ASYNCIO) from failure
            raise
        finally:
            self._running = False
