"""What a finalizer, or a signal handler, has to leave for later.

It may run in the middle of another call, and while a view, itself garbage, still looks at the
memory.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Final

from .errors import IOBusyError, IONotPermittedError, IOReturnError

_left: Final[deque[Callable[[], object]]] = deque()


def close(call: Callable[[], object]) -> None:
    """Call ``call`` now, or when `catch_up` finds that nothing is in its way any more."""
    try:
        call()
    except (BufferError, IOBusyError, IONotPermittedError):
        put_off(call)


def put_off(call: Callable[[], object]) -> None:
    """Leave ``call`` for `catch_up`."""
    _left.append(call)


def catch_up() -> None:
    """Do what was left, as far as that is possible by now."""
    for _ in range(len(_left)):
        try:
            call = _left.popleft()
        except IndexError:
            return  # another thread does the rest
        try:
            call()
        except (BufferError, IOReturnError):  # it is nothing of the caller's, who may go on
            put_off(call)


os.register_at_fork(after_in_child=_left.clear)  # it is the parent's to do
