# SPDX-License-Identifier: Apache-2.0
"""A call in a thread of its own that can wait in its middle, while its caller goes on.

The call and its caller take turns: exactly one of them runs at a time, so neither needs a lock for
what they share. The thread ends with the call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from dma_rehearsal.device.vfio_user.turn import stand_ins


class Cancelled(BaseException):
    """Ends a call that waits. A model's ``except Exception`` does not catch it."""


class Baton:
    """One call of ``body``. ``go`` and ``cancel`` are the caller's, ``wait`` is the body's."""

    def __init__(self, body: Callable[[], None]) -> None:
        self._body = body
        self._mine, self._callers = threading.Semaphore(0), threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._cancelled = False
        self._failure: BaseException | None = None
        self.done = False

    def go(self) -> None:
        """Let the body run until it waits or ends; raise what it raised. Nothing when it ended."""
        if self.done:
            return
        caller = threading.get_ident()
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._main, args=(caller,), name="held action", daemon=True
            )
            self._thread.start()
        else:
            stand_ins[caller] = self._thread.ident or 0
            self._mine.release()
        try:
            self._callers.acquire()
        finally:
            stand_ins.pop(caller, None)
        if self.done:
            self._thread.join()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def cancel(self) -> None:
        """Have `Cancelled` raised where the body waits, and let it end. Raises as ``go``."""
        self._cancelled = True
        while not self.done:
            self.go()

    def wait(self) -> None:
        """Give the turn to the caller until the next ``go``. Cancelled when that is ``cancel``."""
        self._callers.release()
        self._mine.acquire()
        if self._cancelled:
            raise Cancelled

    def _main(self, caller: int) -> None:
        stand_ins[caller] = threading.get_ident()
        try:
            self._body()
        except Cancelled:
            pass
        except BaseException as failure:  # the caller raises it
            self._failure = failure
        finally:
            self.done = True
            self._callers.release()
