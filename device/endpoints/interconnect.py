# SPDX-License-Identifier: Apache-2.0
"""What lies between the functions of one process and memory, where a platform puts its models.

Without a platform nothing stands there, and every request passes. Functions and the platform are
served by different threads, so all of it has one lock: a function holds it from the check of a
request until the last byte has moved, the platform while it changes what is checked. A request
therefore meets the state before a change or after it, whole; and once a change was acknowledged, no
byte moves by the state before. Nothing else is waited for under this lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dma_rehearsal.device.endpoints.dma import Ranges
from dma_rehearsal.device.endpoints.refusals import Refusals
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.vfio_user.model import Place

if TYPE_CHECKING:
    from dma_rehearsal.device.endpoints.dma import Attributes


class Request(NamedTuple):
    """A request to memory on its way from ``function``. Bus address; length in bytes."""

    function: str
    write: bool
    address: int
    length: int
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused, and its first byte at fault.

    ``nearest``: the facts of the grant nearest to it, where there are grants.
    """

    reason: DmaReason
    address: int
    nearest: Mapping[str, object] | None = None


Check = Callable[[Request], Refusal | None]
# Told of what moved: whether to memory, the ranges, and the number of the request.
Moved = Callable[[bool, Ranges, int], None]


class Caches(Protocol):
    """What stands behind the checks, between all requests and memory. Called under the lock.

    ``no_snoop``: no cache follows it, by its attribute as it left the function or because the
    function is never snooped. Places are those of one request, in order.
    """

    def check(self, places: Sequence[Place] | None, *, no_snoop: bool) -> Refusal | None:
        """Return why a request is refused, before any of its list has moved.

        None for places: memory that is reached by messages alone. A refusal's address counts for
        places only.
        """

    def read(self, places: Sequence[Place], *, no_snoop: bool) -> bytes:
        """Return what the device reads. Unmapped where the client has cut its memory."""

    def write(self, places: Sequence[Place], data: bytes, *, no_snoop: bool) -> None:
        """Enter what the device writes, as many bytes as the places have. Unmapped: as above."""


class Interconnect:
    """What is done while its ``lock`` is held is one step for everybody else on it.

    ``caches``: None while every access sees what the CPU sees. ``checked``: whether anything may
    refuse a request. ``sequence``: the number of the newest request of all functions; the first is
    1. ``refusals``: the newest of those that were refused.
    """

    caches: Caches | None = None
    checked = False

    def __init__(self) -> None:
        # One thread may take it again: who is told of a refusal can look at memory.
        self.lock = threading.RLock()
        self._checks: dict[Check, Moved] = {}
        self.sequence = 0
        self.refusals = Refusals()

    def add_check(self, check: Check, moved: Moved = lambda *_: None) -> None:
        """Have ``check`` asked of every request, under the lock; None lets it pass.

        ``moved`` is told of what moves: of a list, when all of it has passed.
        """
        with self.lock:
            if check not in self._checks:
                self._checks[check] = moved
            self.checked = True

    def remove_check(self, check: Check) -> None:
        """Ask ``check`` no more: it would let every request pass. Nothing, if it is not asked."""
        with self.lock:
            self._checks.pop(check, None)
            self.checked = bool(self._checks)

    def refusal(self, request: Request) -> Refusal | None:
        """Return the first refusal of a whole request, or None. Nothing has moved yet."""
        with self.lock:
            for check in self._checks:
                if (found := check(request)) is not None:
                    return found
        return None

    def moved(self, ranges: Ranges, *, write: bool) -> None:
        """Tell of bytes that a request moves, whose number is the next one. Under the lock."""
        for told in self._checks.values():
            told(write, ranges, self.sequence + 1)
