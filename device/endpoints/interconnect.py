# SPDX-License-Identifier: Apache-2.0
"""The interconnect between the functions of one process and memory. A platform adds its models.

Without a platform it has none, and every request passes. Functions and the platform are
served by different threads, so all of it has one lock: a function holds it from the check of a
request until the last byte has moved, the platform while it changes what is checked. A request
therefore meets the state before a change or after it, whole; and once a change was acknowledged, no
byte moves by the state before. Under this lock nothing else is waited for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from dma_rehearsal.device.endpoints.dma import Attributes, Ranges
from dma_rehearsal.device.endpoints.hold_board import HoldBoard
from dma_rehearsal.device.endpoints.request_history import RefusedRequests
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.vfio_user.model import Client, FileRange


class Request(NamedTuple):
    """A request to memory on its way from ``function``. Bus address; length in bytes.

    ``requester_id``: that of the request, or the function's; None where it has not been told its
    slot.
    """

    function: str
    write: bool
    address: int
    length: int
    attributes: Attributes
    requester_id: int | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused, and its first byte at fault.

    ``nearest``: the facts of the grant nearest to it, where there are grants.
    """

    reason: DmaReason
    address: int
    nearest: Mapping[str, object] | None = None


Check = Callable[[Request], Refusal | None]
# Called when bytes move: whether to memory, the ranges, and the number of the request.
MoveObserver = Callable[[bool, Ranges, int], None]


class Caches(Protocol):
    """The caches between all requests that passed the checks and memory. Called under the lock.

    ``no_snoop``: no cache follows it, by its attribute as it left the function or because the
    function is never snooped. Places are those of one request, in order.
    """

    def check(self, file_ranges: Sequence[FileRange] | None, *, no_snoop: bool) -> Refusal | None:
        """Return why a request is refused, before any of its list has moved.

        None for the ranges: only messages reach the memory, and a refusal's address means nothing.
        """

    def read(self, file_ranges: Sequence[FileRange], *, no_snoop: bool) -> bytes:
        """Return what the device reads. Unmapped where the client has cut its memory."""

    def write(self, file_ranges: Sequence[FileRange], data: bytes, *, no_snoop: bool) -> None:
        """Enter what the device writes, as many bytes as the ranges have. Unmapped: as above."""


class Interconnect:
    """The one interconnect of a process. A change under its ``lock`` is one step for all others.

    ``caches``: None while every access sees what the CPU sees. ``snoops``: False while the board
    snoops no request, whatever a function is or asks for. ``checked``: whether anything may
    refuse a request. ``sequence``: the number of the newest request of all functions; the first is
    1. ``refusals``: the newest of those that were refused. ``holds`` has the actions that wait.
    """

    caches: Caches | None = None
    snoops = True
    checked = False

    def __init__(self) -> None:
        # One thread may take it again: a hook that hears of a refusal can look at memory.
        self.lock = threading.RLock()
        self._checks: dict[Check, MoveObserver] = {}
        self.sequence = 0
        self.refusals = RefusedRequests()
        self.holds = HoldBoard()

    def add_check(self, check: Check, moved: MoveObserver = lambda *_: None) -> None:
        """Have ``check`` asked of every request, under the lock; None lets it pass.

        ``moved`` is called for bytes that move: for a list, when all of it has passed.
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


@dataclass(slots=True, eq=False)
class Link:
    """Where the requests of one function go. The parts of its bus share it.

    ``interconnect`` is the platform's where the process has one, else this function's own.
    ``behind_iommu``: the client's map is what its IOMMU lets through. ``leaving``: the client is
    going, and reaches nothing any more.
    """

    client: Client | None = None
    interconnect: Interconnect = field(default_factory=Interconnect)
    behind_iommu: bool = False
    leaving: bool = False
