# SPDX-License-Identifier: Apache-2.0
"""The places where a call must not block: signal handlers, and a running asyncio loop.

IOKit's rule for its allocator is "not at interrupt level, not with a simple lock held"; these are
the nearest places in a Python process.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal's own half in C
import functools
import signal
import sys
import threading
from types import CodeType, FrameType
from typing import Any

from dma_rehearsal.guest.iobuffer.base.errors import IONotPermittedError

# Plain numbers, and the question as C answers it: the members of signal's enums cost more than the
# answers, and each call of a buffer asks for all signals.
_SIGNALS = tuple(map(int, signal.valid_signals()))
_getsignal = _signal.getsignal


def check_may_block(what: str) -> None:
    """Raise `IONotPermittedError` in a signal handler's frame, and under a running event loop.

    A handler is known by its code: a function that is a handler and is called by hand counts, too.
    """
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        raise IONotPermittedError(
            f"{what} may block, and an asyncio loop runs in this thread: await the Async variant"
        )
    if threading.current_thread() is threading.main_thread():
        handlers = _handlers()
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and handlers:
            if frame.f_code in handlers:
                raise IONotPermittedError(
                    f"{what} may block, and is called by the signal handler {frame.f_code.co_name}"
                )
            frame = frame.f_back


def _handlers() -> set[CodeType]:
    """Return the code of the Python functions that handle signals now."""
    found: set[CodeType] = set()
    handler: Any
    for handler in map(_getsignal, _SIGNALS):
        if handler is None or isinstance(handler, int):  # SIG_DFL, SIG_IGN
            continue
        while isinstance(handler, functools.partial):
            handler = handler.func
        handler = getattr(handler, "__func__", handler)
        code = getattr(handler, "__code__", None)
        if code is None:  # an object with a method __call__
            code = getattr(vars(type(handler)).get("__call__"), "__code__", None)
        if code is not None:
            found.add(code)
    return found
