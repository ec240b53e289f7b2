# SPDX-License-Identifier: Apache-2.0
"""Work that has to wait now and then, written down in the order in which it is done.

    def steps() -> Steps:
        data = yield partial(start_reading, address)   # start_reading(address, on_done)
        yield partial(start_writing, other, data)

    Task(steps()).start()

What is done at once goes on at once, however often: in a loop, so nothing recurses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import Any, TypeVar

R = TypeVar("R")
# Starts something, and has the callable called once, with what came of it.
Step = Callable[[Callable[[Any], None]], None]
Steps = Generator[Step, Any, R]


class Task:
    """Runs ``steps``. Not for several threads."""

    def __init__(self, steps: Steps[None]) -> None:
        self._steps = steps
        self._outcomes: deque[Any] = deque()
        self._running = False
        self.done = False

    def start(self) -> None:
        """Go as far as nothing has to be waited for. Raises what the steps raise."""
        self._resume(None)

    def cancel(self) -> None:
        """Do no further step; a step under way goes on, and its outcome is dropped."""
        self.done = True
        self._steps.close()

    def _resume(self, outcome: object) -> None:
        self._outcomes.append(outcome)
        if self._running:
            return
        self._running = True
        try:
            while self._outcomes and not self.done:
                step = self._steps.send(self._outcomes.popleft())
                step(self._resume)
        except StopIteration:
            self.done = True
        except BaseException:
            self.done = True
            raise
        finally:
            self._running = False
