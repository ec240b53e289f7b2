# SPDX-License-Identifier: Apache-2.0
"""File descriptors that a device model watches: the thread that serves calls back.

Theory of operation. The server polls them with its own descriptors, so it sleeps until one is
ready. Each that is ready gets one call in each turn, and then the client has its turn. Before each
poll the server looks whether a descriptor is still the file that is watched: poll reports one that
was closed at once, for ever, and its number may be another file by now. Such a watch ends with an
error in the log. While the timers are paused nothing is watched.
"""

from __future__ import annotations

import logging
import os
import select
import stat
import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from dma_rehearsal.device.vfio_user.timers import Timers
from dma_rehearsal.device.vfio_user.turn import Action, Turn, check_action, name_of

_log = logging.getLogger(__name__)
_IN, _OUT, _INVALID = int(select.POLLIN), int(select.POLLOUT), int(select.POLLNVAL)
_OVER = int(select.POLLHUP | select.POLLERR)


class HasFileno(Protocol):
    """A socket, or another object with a file descriptor."""

    def fileno(self) -> int:
        """Return the descriptor; -1 when it is closed."""


class Watch:
    """One descriptor that is watched, until ``close``, which any thread may call, also twice."""

    def __init__(
        self,
        file: int | HasFileno,
        readable: Callable[[], None] | None,
        writable: Callable[[], None] | None,
        closed: Callable[[Watch], None],
    ) -> None:
        self._file = file  # kept, or an object that nobody else keeps would close its descriptor
        self.descriptor = file if isinstance(file, int) else file.fileno()
        self._readable, self._writable, self._closed = readable, writable, closed
        self.events = (_IN if readable else 0) | (_OUT if writable else 0)
        self.active = True
        self._identity = _identity(self.descriptor)

    def close(self) -> None:
        """Call nothing more. The descriptor stays open."""
        if self.active:
            self.active = False
            self._closed(self)

    @property
    def same_file(self) -> bool:
        """Return whether the descriptor is still open, and the file that it was."""
        if not isinstance(self._file, int) and self._file.fileno() != self.descriptor:
            return False
        try:
            return _identity(self.descriptor) == self._identity
        except OSError:
            return False

    @property
    def name(self) -> str:
        """Return words for it: the descriptor, and the names of what is called."""
        called = [name_of(each) for each in (self._readable, self._writable) if each is not None]
        return f"descriptor {self.descriptor} ({', '.join(called)})"

    def calls(self, events: int) -> list[Callable[[], None]]:
        """Return what events call. An end or an error is for the reader, if there is one."""
        found = []
        if self._readable is not None and events & (_IN | _OVER):
            found.append(self._readable)
        if self._writable is not None and (
            events & _OUT or (events & _OVER and self._readable is None)
        ):
            found.append(self._writable)
        return found


class Watches:
    """The watches of one model. Any thread may ``add`` and close.

    ``run`` calls a callback; ``wake`` has the server look at a change. ``table`` has those that are
    watched, by descriptor; a change makes another one.
    """

    def __init__(
        self,
        timers: Timers,
        run: Callable[[Callable[[], None]], None],
        wake: Callable[[], None],
    ) -> None:
        self._timers, self._run, self._wake = timers, run, wake
        self._lock = threading.Lock()
        self.table: dict[int, Watch] = {}

    @property
    def shown(self) -> dict[int, Watch]:
        """Return what is to be polled now; nothing while the timers are paused."""
        return _NOTHING if self._timers.paused else self.table

    def add(
        self,
        file: int | HasFileno,
        readable: Callable[[], None] | None = None,
        writable: Callable[[], None] | None = None,
    ) -> Watch:
        """Watch a descriptor. ValueError without a callback, and for one that cannot be watched."""
        if readable is None and writable is None:
            raise ValueError("a watch needs readable, writable or both")
        for name, function in (("readable", readable), ("writable", writable)):
            if function is not None:
                check_action(f"watch({name}=...)", function)
        if not isinstance(file, int) and not hasattr(file, "fileno"):
            raise TypeError(f"watch({file!r}): give a descriptor, or an object with fileno()")
        try:
            watch = Watch(file, readable, writable, self._remove)
        except OSError as error:
            raise ValueError(f"{file!r} cannot be watched: {error.strerror}") from error
        descriptor = watch.descriptor
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(
                f"descriptor {descriptor} is a regular file, which is always ready: read it in a "
                "thread, and post the result"
            )
        with self._lock:
            if descriptor in self.table and self.table[descriptor].same_file:
                raise ValueError(
                    f"descriptor {descriptor} is watched already: give readable and writable to "
                    "one watch, or close the other first"
                )
            self.table = {**self.table, descriptor: watch}
        self._wake()
        return watch

    def _remove(self, watch: Watch) -> None:
        with self._lock:
            self.table = {at: each for at, each in self.table.items() if each is not watch}
        self._wake()

    def check(self, taken: Iterable[int] = ()) -> None:
        """End the watches of descriptors that were closed; ``taken`` are those of the server."""
        for watch in [*self.table.values()]:
            if not watch.same_file or watch.descriptor in taken:
                self._lost(watch)

    def _lost(self, watch: Watch) -> None:
        watch.close()
        _log.error(
            "the watch of %s has ended: the descriptor was closed; close the watch before it "
            "(Watch.close)",
            watch.name,
        )

    def dispatch(self, ready: Iterable[tuple[int, int]], turn: Turn) -> None:
        """Make the calls for (descriptor, events) that poll returned, in the serving thread."""
        table = self.table
        for descriptor, events in ready:
            watch = table.get(descriptor)
            if watch is None or not watch.active:
                continue
            if events & _INVALID:
                self._lost(watch)
                continue
            for call in watch.calls(events):
                if watch.active and not self._timers.paused:
                    self._call(watch, call, turn)

    def _call(self, watch: Watch, call: Callable[[], None], turn: Turn) -> None:
        turn.work = Action("a watch", call)
        try:
            self._run(call)
        except Exception:
            watch.close()  # it would fail in each turn
            _log.exception("the watch of %s failed, and has ended", watch.name)
        finally:
            turn.work = None

    def look(self, turn: Turn) -> bool:
        """Poll once, without a server and without waiting; return whether any was ready."""
        self.check()
        poll = select.poll()
        for watch in self.shown.values():
            poll.register(watch.descriptor, watch.events)
        ready = poll.poll(0)
        self.dispatch(ready, turn)
        return bool(ready)


_NOTHING: dict[int, Watch] = {}


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino
