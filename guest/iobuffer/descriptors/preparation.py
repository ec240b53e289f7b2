# SPDX-License-Identifier: Apache-2.0
"""The open preparations of a descriptor (its wire count), and the grants that each made."""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from dma_rehearsal.guest.iobuffer.base import deferred, holders, provenance
from dma_rehearsal.guest.iobuffer.base.errors import IONotReadyError, IOReturn, IOReturnError, undo
from dma_rehearsal.guest.iobuffer.base.options import IODirection
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform

UNPREPARED: Final = 0  # kIOPreparationIDUnprepared

_ids = itertools.count(1)


def device_may(direction: IODirection) -> IODirection:
    """Return what a prepare for ``direction`` lets a device do: None means both."""
    if direction is IODirection.kIODirectionNone:
        return IODirection.kIODirectionInOut
    return direction


class Grants:
    """The grants of one prepare(); empty without an access control.

    It belongs to the process that made it: in a forked child, `withdraw` does nothing.
    """

    __slots__ = ("_control", "_granted", "_pid")

    def __init__(self, segments: Sequence[tuple[int, int]], direction: IODirection) -> None:
        """Grant every segment, or none: an error takes the grants before it back."""
        deferred.run_pending()  # grants that a finalizer could not withdraw
        self._control = dma_platform.access_control
        self._pid = os.getpid()
        self._granted: list[object] = []
        if self._control is None:
            return
        try:
            for address, length in segments:
                self._granted.append(self._control.grant(address, length, direction))
        except BaseException as error:
            undo(error, self.withdraw)
            if self._granted:
                deferred.finalize(self.withdraw, f"grants of {len(self._granted)} segments")
            if isinstance(error, IOReturnError) and error.code is IOReturn.kIOReturnNoResources:
                error.add(holders.of_the_bus())
            raise

    def withdraw(self) -> None:
        """Take all back. A second call does nothing, or takes back what an error has left."""
        if os.getpid() != self._pid:
            return
        while self._granted and self._control is not None:
            self._control.withdraw(self._granted[-1])
            self._granted.pop()


class Holder(Protocol):
    """A descriptor that is made of another one."""

    _preparations: Preparations


@dataclass(slots=True)
class Preparation:
    """One prepare(): its direction, and its grants (None: it was to grant nothing).

    ``by``: the descriptor that made it, and the only one to undo it; None: a caller of prepare().
    It is not kept alive; ``of_by`` has its open preparations. ``place``: the line of that call.
    """

    direction: IODirection
    grants: Grants | None
    by: weakref.ref[Holder] | None
    of_by: Preparations | None
    place: provenance.CallSite


class Preparations:
    """The open preparations, in order. Not locked."""

    def __init__(self) -> None:
        self._open: list[Preparation] = []
        self._id = UNPREPARED

    def __len__(self) -> int:
        return len(self._open)

    @property
    def id(self) -> int:
        """The number of this wiring, from the first prepare to the last complete; 0 without one."""
        return self._id if self._open else UNPREPARED

    @property
    def directions(self) -> list[IODirection]:
        """The directions of the open preparations."""
        return [each.direction for each in self._open]

    def rights(self, *also: IODirection, without: Preparation | None = None) -> IODirection:
        """Return what devices may do by the open preparations, ``also`` those directions."""
        kept = [each.direction for each in self._open if each is not without]
        total = 0
        for direction in (*kept, *also):
            total |= device_may(direction)
        return IODirection(total)

    @property
    def read_only(self) -> bool:
        """Whether the pages were wired for reading alone."""
        return bool(self._open) and self._open[0].direction is IODirection.kIODirectionOut

    def check(self, direction: IODirection) -> None:
        """Refuse to let devices write pages that were wired for reading alone (NotWritable)."""
        if self.read_only and direction & IODirection.kIODirectionIn:
            raise IOReturnError(
                "prepared for kIODirectionOut, so the device may not write: no prepare for "
                f"{direction.name} before the last complete()",
                code=IOReturn.kIOReturnNotWritable,
                direction=direction,
            )

    def push(
        self, direction: IODirection, grants: Grants | None, by: Holder | None = None
    ) -> Preparation:
        """Open one more."""
        made_by, of_by = (None, None) if by is None else (weakref.ref(by), by._preparations)
        opened = Preparation(direction, grants, made_by, of_by, provenance.here())
        if not self._open:
            self._id = next(_ids)
        self._open.append(opened)
        return opened

    def newest(self, direction: IODirection | None, keep: int) -> Preparation:
        """Return the newest one with ``direction`` (None: of any), not among the first ``keep``.

        Those of other descriptors are theirs.
        """
        ours = [each for each in self._open[keep:] if each.by is None]
        for each in reversed(ours):
            if direction is None or each.direction is direction:
                return each
        asked = "" if direction is None else f" for {direction.name}"
        raise IONotReadyError(
            f"complete(){asked} without its prepare(): {len(ours)} preparation(s) are open",
            direction=direction,
        )

    def held_by(self, descriptor: object) -> bool:
        """Whether ``descriptor`` made one that is open."""
        return any(each.by is not None and each.by() is descriptor for each in self._open)

    def lines(self, keep: int) -> list[str]:
        """Return the lines that made those which are open, but for the first ``keep``."""
        return [
            provenance.text(each.place) + ("" if each.by is None else f" by {each.by()!r}")
            for each in self._open[keep:]
        ]

    def last(self) -> Preparation | None:
        """Return the newest one of all, None without one."""
        return self._open[-1] if self._open else None

    def remove(self, preparation: Preparation) -> int:
        """Take its grants back, and close it: it stays open when that fails.

        Return its place, for `restore`.
        """
        if preparation.grants is not None:
            preparation.grants.withdraw()
        place = next(at for at, each in enumerate(self._open) if each is preparation)
        del self._open[place]
        return place

    def withdraw(self) -> None:
        """Take all grants back, after those of descriptors that are made of this memory.

        For memory that goes away, and the descriptors of it with it. A call after an error goes on
        where it failed.
        """
        while (last := self.last()) is not None:
            if last.of_by is not None:
                last.of_by.withdraw()
            self.remove(last)

    def restore(self, preparation: Preparation, place: int) -> None:
        """Open it again, without grants, where it was, after an error that followed `remove`."""
        self._open.insert(place, preparation)
