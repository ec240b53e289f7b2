# SPDX-License-Identifier: Apache-2.0
"""A server's turn: the work of its thread, for a watcher in another thread.

The thread only stores here, for every message passes. The watcher's view may be
old by an instant, so it only sees a turn that lasts. A model may work in another thread while the
one that serves waits for it; `stand_ins` has which.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from inspect import CO_COROUTINE
from typing import NamedTuple

from dma_rehearsal.device.vfio_user.framing import Message

# The thread that runs in place of one that waits for it, by their identities.
stand_ins: dict[int, int] = {}


class Action:
    """Work that no message asked for. Each has an object of its own, by which it is recognised.

    ``calls`` is the function that it calls, where one function of the model's is all of it.
    """

    __slots__ = ("_calls", "_kind")

    def __init__(self, kind: str, calls: Callable[..., object] | None = None) -> None:
        self._kind, self._calls = kind, calls

    @property
    def name(self) -> str:
        """Return words for it, with the name of the function."""
        return self._kind if self._calls is None else f"{self._kind}, {name_of(self._calls)}"


class RegionAccess(NamedTuple):
    """A register access that the model has begun; ``data`` is None for a read."""

    region: int
    offset: int
    length: int
    data: bytes | None


def name_of(function: Callable[..., object]) -> str:
    """Return the name of a function as its source has it, also of a part of a call."""
    while isinstance(function, partial):
        function = function.func
    found: str = getattr(function, "__qualname__", type(function).__qualname__)
    return found


def check_action(call: str, action: object) -> None:
    """Raise TypeError, which begins with ``call``, unless a server can call ``action``."""
    if not callable(action):
        raise TypeError(
            f"{call} got {repr(action)[:60]}, which is not a function; give the function itself, "
            "without parentheses behind its name"
        )
    code = getattr(action, "__code__", None)
    if code is not None and code.co_flags & CO_COROUTINE:
        raise TypeError(
            f"{call} got the coroutine function {name_of(action)}, which nothing would await; give "
            "a function that starts it: lambda: self.start(...)"
        )


@dataclass(slots=True)
class Turn:
    """``thread`` serves, and is at ``work`` if it is not None, for ``stream``'s client if any.

    ``inbox`` are that client's messages that were received, and not looked at yet. ``access`` is
    the latest `RegionAccess` of the message that is its work: plain, for a tuple is made faster.
    """

    thread: int | None = None
    work: Message | Action | None = None
    access: tuple[int, int, int, bytes | None] | None = None
    stream: socket.socket | None = None
    inbox: Collection[Message] = ()

    @property
    def running(self) -> int:
        """Return the identity of the thread that runs in this turn; 0 before the server does."""
        return stand_ins.get(self.thread or 0, self.thread or 0)
