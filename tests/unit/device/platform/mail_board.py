# SPDX-License-Identifier: Apache-2.0
"""A board whose platform gets its commands by the mailbox."""

from __future__ import annotations

from typing import Any

from dma_rehearsal.device.layout import Plat, ProtectionCommand
from dma_rehearsal.device.layout.mailbox import (
    MAIL_POSITION_SHIFT,
    MAIL_TAG_BASE,
    MailCommand,
    MailRecord,
    MailStatus,
)
from dma_rehearsal.device.trace import Trace
from tests.unit.device.cache_model.cache_board import VA, CacheBoard
from tests.unit.device.fakes import BASE, read32, write32
from tests.unit.device.platform.tables import PAGE

BATCH = BASE + 8 * PAGE  # where batches lie: two pages that nothing else uses
TAG = MAIL_TAG_BASE + 7
OTHER = MAIL_TAG_BASE + 8


class Events(Trace):
    """A trace that keeps its events."""

    def __init__(self) -> None:
        super().__init__()
        self.on = True
        self.events: list[dict[str, Any]] = []

    def event(self, device: str, event: str, **fields: object) -> None:
        self.events.append({"device": device, "event": event, **fields})

    def of(self, *names: str) -> list[dict[str, Any]]:
        """Return the events with these names, and forget all."""
        found = [each for each in self.events if each["event"] in names]
        self.events.clear()
        return found


class MailBoard(CacheBoard):
    """A board, and what a kernel module does with its mailbox."""

    def __init__(self) -> None:
        self.trace = Events()
        super().__init__(self.trace)

    def enable(self) -> None:
        """Turn the protection unit on."""
        write32(self.platform, 0, Plat.PROTECTION_CTL, ProtectionCommand.ENABLE)

    def put(self, *records: MailRecord | bytes, at: int = BATCH) -> None:
        """Lay a batch."""
        data = b"".join(each if isinstance(each, bytes) else each.pack() for each in records)
        self.store(at, data)
        self.aim(at, len(records))

    def aim(self, address: int, count: int) -> None:
        """Say where a batch lies."""
        self.set64(Plat.MAIL_ADDRESS_LO, address)
        write32(self.platform, 0, Plat.MAIL_COUNT, count)

    def go(self) -> tuple[int, MailStatus]:
        """Carry the batch out; return the position that failed, from 1, and the status."""
        found = read32(self.platform, 0, Plat.MAIL_GO)
        return found >> MAIL_POSITION_SHIFT, MailStatus(found & 0xFFFF)

    def send(self, *records: MailRecord | bytes) -> tuple[int, MailStatus]:
        """Lay a batch, and carry it out."""
        self.put(*records)
        return self.go()

    def sent(self, *records: MailRecord) -> None:
        """Send what must be done."""
        assert self.send(*records) == (0, MailStatus.OK)


def grant(address: int, length: int, direction: int, tag: int = TAG, **more: Any) -> MailRecord:
    return MailRecord(MailCommand.GRANT, direction, tag, address=address, length=length, **more)


def withdraw(tag: int = TAG, **more: Any) -> MailRecord:
    return MailRecord(MailCommand.WITHDRAW, tag=tag, **more)


def track(
    page: int, length: int, direction: int, tag: int = TAG, *, skip: int = 0, **more: Any
) -> MailRecord:
    """Track bytes of a page of the board, by a walk."""
    return MailRecord(
        *(MailCommand.TRACK, direction, tag),
        address=BASE + (16 + page) * PAGE + skip,
        length=length,
        virtual=VA + page * PAGE + skip,
        root=BASE,
        levels=4,
        **more,
    )


def untrack(tag: int = TAG, **more: Any) -> MailRecord:
    return MailRecord(MailCommand.UNTRACK, tag=tag, **more)


def ranged(
    command: MailCommand, offset: int, length: int, direction: int = 0, tag: int = TAG, **more: Any
) -> MailRecord:
    """Return a sync or an announcement."""
    return MailRecord(command, direction, tag, offset=offset, length=length, **more)
