# SPDX-License-Identifier: Apache-2.0
"""Calls that a finalizer, or a signal handler, has to leave for later.

It may run in the middle of another call, and while a view, itself garbage, still refers to the
memory. Nobody can catch an error of a finalizer: so a call that failed is reported as a mistake,
and tried again.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dma_rehearsal.guest.iobuffer.base import mistakes
from dma_rehearsal.guest.iobuffer.base.errors import IOBusyError, IONotPermittedError, IOReturnError


@dataclass(slots=True, eq=False)
class _Left:
    """A deferred call, and its owner, for messages; ``told``: its failure was reported."""

    call: Callable[[], object]
    what: str
    told: bool = False

    def done(self) -> bool:
        """Try it; return whether it is done."""
        try:
            self.call()
        except (BufferError, IOBusyError, IONotPermittedError):
            return False
        except IOReturnError as error:
            if not self.told:
                self.told = True
                mistakes.record(
                    f"{self.what} could not be given back: {error}; devices may still reach it. "
                    "It is kept, and tried again at the next allocation, prepare() or release()"
                )
            return False
        return True


_left: Final[deque[_Left]] = deque()


def close_or_defer(call: Callable[[], object], what: str = "memory") -> None:
    """Call ``call`` now, or when `run_pending` finds that nothing is in its way any more.

    Raises its errors, unless it only finds something in its way.
    """
    try:
        call()
    except (BufferError, IOBusyError, IONotPermittedError):
        _left.append(_Left(call, what))


def finalize(call: Callable[[], object], what: str) -> None:
    """Call ``call`` for a finalizer: an error is reported, and `run_pending` tries it again.

    A second call goes on where the first has failed. ``what``: the thing that ends, for messages.
    """
    _try(_Left(call, what))


def run_pending() -> None:
    """Make the deferred calls, as far as that is possible by now."""
    for _ in range(len(_left)):
        try:
            left = _left.popleft()
        except IndexError:
            return  # another thread does the rest
        _try(left)


def _try(left: _Left) -> None:
    """Do it, or keep it: also when telling raises, as a warning that is made an error does."""
    done = False
    try:
        done = left.done()
    finally:
        if not done:
            _left.append(left)


os.register_at_fork(after_in_child=_left.clear)  # it is the parent's to do
