# SPDX-License-Identifier: Apache-2.0
"""Notices a model that does not answer, says where it hangs, and ends the process.

A guest whose register read is not answered in time gets all ones from QEMU, which then goes on as
if the device had said so. Nothing that such a guest finds is a verdict. QEMU waits for 5 s; the
process ends before, so that all ones are never taken for an answer.

Only an access that the client waits for counts as a hang so soon: a write is posted, and a model
may work at it until the client asks for something else. Time counts by the watchdog's own ticks: of
the time in which this process was stopped it sees one, and of a machine that is too busy to run it,
few.
"""

from __future__ import annotations

import select
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dma_rehearsal.device.vfio_user.framing import Message
from dma_rehearsal.device.vfio_user.messages import Command, Flags
from dma_rehearsal.device.vfio_user.turn import Action, RegionAccess, Turn

STATUS = 3  # of a device process whose model hangs
WORDS = "does not answer: "  # in the line that says so, behind the device's name
PATIENCE_S = 4.0  # QEMU's is 5 s
# A model may work longer while the client does not wait for it, but not for ever.
UNWATCHED_S = 60.0
_TICK_S = 0.25
_NUMBER_SIZE = 8  # a longer write is not one number
_SHOWN = 16  # bytes of it


@dataclass(frozen=True, slots=True)
class Watched:
    """The turns of a device's server. ``location`` gives a name to (region, offset)."""

    turn: Turn
    name: str
    location: Callable[[int, int], str]


@dataclass(slots=True)
class _Seen:
    """A turn that is under way, in seconds: since when, how long, and how long the client waits."""

    of: Watched
    work: Message | Action | None = None
    since: float = 0.0
    lasted_s: float = 0.0
    awaited_s: float = 0.0


class Watchdog:
    """Looks at turns now and then. ``patience_s``: how long one may last while a client waits."""

    def __init__(
        self,
        watched: Sequence[Watched],
        patience_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seen = [_Seen(each) for each in watched]
        self._patience_s = patience_s
        self._clock = clock
        self._last = clock()

    def run(self, hangs: Callable[[str], None]) -> None:
        """Look for ever; call ``hangs`` with what there is to say when a model hangs, and end."""
        tick_s = min(_TICK_S, self._patience_s / 4)
        while True:
            time.sleep(tick_s)
            if (said := self.look(2 * tick_s)) is not None:
                hangs(said)
                return

    def look(self, longest_s: float) -> str | None:
        """Look once. Return what there is to say of a model that hangs; None while none does.

        No more than ``longest_s`` seconds count since the last look.
        """
        now = self._clock()
        passed_s = min(now - self._last, longest_s)
        self._last = now
        for each in self._seen:
            work = each.of.turn.work
            if work is None or work is not each.work:
                each.work, each.since, each.lasted_s, each.awaited_s = work, now, 0.0, 0.0
                continue
            each.lasted_s += passed_s
            if _somebody_waits(each.of.turn, work):
                each.awaited_s += passed_s
        busy = [each for each in self._seen if each.work is not None]
        if not any(map(self._hangs, busy)):
            return None
        # The one that began first may be what the others wait for.
        return "\n".join(_said(each, now) for each in sorted(busy, key=lambda each: each.since))

    def _hangs(self, each: _Seen) -> bool:
        return each.awaited_s >= self._patience_s or each.lasted_s >= UNWATCHED_S


def _somebody_waits(turn: Turn, work: Message | Action) -> bool:
    """Return whether the work owes a reply, or the client has sent what is not looked at."""
    if isinstance(work, Message) and not work.header.flags & Flags.NO_REPLY:
        return True
    if turn.inbox:
        return True
    stream = turn.stream
    if stream is None:
        return False
    poll = select.poll()
    try:
        poll.register(stream, select.POLLIN)
    except ValueError:  # it was closed meanwhile
        return False
    return any(event & select.POLLIN for _, event in poll.poll(0))


def _said(seen: _Seen, now: float) -> str:
    said = f"{seen.of.name} {WORDS}{_name(seen)}, for {now - seen.since:.1f} s"
    frame = sys._current_frames().get(seen.of.turn.running)
    if frame is None:
        return said
    code = frame.f_code
    where = f"{Path(code.co_filename).name}:{frame.f_lineno}, in {code.co_name}"
    lines = [f"{said}; it is at {where}", *traceback.format_stack(frame)]
    return "\n".join(line.rstrip() for line in lines)


def _name(seen: _Seen) -> str:
    work, access = seen.work, seen.of.turn.access
    if isinstance(work, Action):
        return work.name
    if access is not None:
        return describe(RegionAccess._make(access), seen.of.location(*access[:2]))
    number = work.header.command if work else 0
    return next((f"{each.name}" for each in Command if each == number), f"command {number}")


def describe(access: RegionAccess, place: str) -> str:
    """Return words for a register access: which, of what, and the value of a write."""
    if access.data is None:
        return f"a read of {place} ({access.length} bytes)"
    if access.length > _NUMBER_SIZE:
        shown = access.data[:_SHOWN].hex(" ")
        return f"a write of {access.length} bytes, {shown} ..., to {place}"
    value = int.from_bytes(access.data, "little")
    return f"a write of {value:#x} to {place} ({access.length} bytes)"
