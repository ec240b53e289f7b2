# SPDX-License-Identifier: Apache-2.0
"""HOLD: the actions of a process's functions that wait before their first DMA.

An action is the side effect of a BAR write, with the DMAs that it starts. A device that is held
does it as late as PCI's rules and its driver's needs allow; one that is not does it within the
write. A driver that relies on either has a bug that the other shows. Which actions wait is decided
by `ActionHold`, one for each function; this is what they share with the platform's registers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from dma_rehearsal.device.layout import HOLD_POLLS
from dma_rehearsal.device.vfio_user.timers import Timer

LIMIT_S = 2.0


@dataclass(frozen=True, slots=True)
class HoldRules:
    """When an action waits, and for how long. A named fault gives a platform others.

    ``waits``: an action waits at all. ``ordered``: one that waits goes before the next begins.
    ``releases``: software can let it go. ``polls``: so many reads of its function let it go.
    ``limit_s``: then it goes by itself.
    """

    waits: bool = True
    ordered: bool = True
    releases: bool = True
    polls: int = HOLD_POLLS
    limit_s: float = LIMIT_S


@dataclass(slots=True, eq=False)
class Wait:
    """The wait of one action. ``why`` it was let go, once it was, by any thread.

    ``wake`` has the thread that serves its function look at it. ``reads``: of the function's BARs
    since it began.
    """

    wake: Callable[[], None]
    why: str | None = None
    reads: int = 0
    timer: Timer | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def end(self, why: str) -> bool:
        """Give the reason; return False when there is one already."""
        with self._lock:
            if self.why is not None:
                return False
            self.why = why
        return True

    def let_go(self, why: str) -> bool:
        """Have the action go on soon; return False when it was let go before."""
        first = self.end(why)
        if first:
            self.wake()
        return first


class HoldBoard:
    """The waits of all functions of a process. Any thread may call it.

    ``on``: actions that begin now wait. ``after`` runs an action in some seconds; without it no
    wait has a limit. ``expired`` counts those that reached it.
    """

    def __init__(self) -> None:
        self.on = False
        self.rules = HoldRules()
        self.expired = 0
        self.after: Callable[[float, Callable[[], None]], Timer] | None = None
        self._lock = threading.Lock()
        self._waits: list[Wait] = []

    @property
    def held(self) -> int:
        """Return how many actions wait, or were let go and have not run yet."""
        return len(self._waits)

    def set(self, on: bool) -> None:
        """Hold actions from now on, or hold none and let those go that wait."""
        with self._lock:
            self.on = on
        if not on:
            self._let_go()

    def release(self) -> None:
        """Let those go that wait now."""
        if self.rules.releases:
            self._let_go()

    def reset(self) -> None:
        """Hold none, let those go that wait, and count from 0."""
        self.set(False)
        self.expired = 0

    def _let_go(self) -> None:
        with self._lock:
            waits = [*self._waits]
        for wait in waits:
            wait.let_go("asked")

    def begin(self, wait: Wait) -> None:
        """Take note of an action that waits from now on."""
        with self._lock:
            self._waits.append(wait)
            on = self.on
        if not on:
            wait.let_go("asked")
        elif self.after is not None:
            wait.timer = self.after(self.rules.limit_s, lambda: self._expire(wait))

    def end(self, wait: Wait) -> None:
        """Take note that the action waits no more."""
        if wait.timer is not None:
            wait.timer.cancel()
        with self._lock:
            self._waits.remove(wait)

    def _expire(self, wait: Wait) -> None:
        with self._lock:
            waits = wait in self._waits
        if waits and wait.let_go("expired"):
            self.expired += 1
