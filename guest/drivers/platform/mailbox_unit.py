# SPDX-License-Identifier: Apache-2.0
"""The platform's mailbox from user space: batches of commands in memory of the caller's.

A kernel module's way to the platform is here for its tests. While the module is loaded, the two may
be used by turns, but not at once: the module does not know the lock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from dma_rehearsal.device.layout import Plat
from dma_rehearsal.device.layout.mailbox import (
    MAIL_POSITION_SHIFT,
    MailCommand,
    MailRecord,
    MailStatus,
)
from dma_rehearsal.guest.drivers.pci_bars import Bar
from dma_rehearsal.guest.drivers.platform.command import CommandLock, PlatformDeviceError

_STATUS: Final = (1 << MAIL_POSITION_SHIFT) - 1


class MailError(PlatformDeviceError):
    """A batch that failed. ``position`` counts from 0; -1: the batch itself, all undone."""

    def __init__(self, status: MailStatus, position: int, what: str) -> None:
        super().__init__(f"{what}: {status.name}")
        self.status, self.position = status, position


@dataclass(slots=True)
class MailboxUnit:
    """Sends batches. ``address`` of the platform function, such as 0000:00:03.0."""

    control: Bar
    lock: CommandLock
    address: str

    @property
    def capacity(self) -> int:
        """The records that a batch may have."""
        return self.control[Plat.MAIL_CAPACITY]

    def send(self, place: int, records: Sequence[MailRecord]) -> None:
        """Carry out the batch that lies at a bus address, and has these records.

        `MailError` for the first record that failed; those before it are done.
        """
        control = self.control
        with self.lock.held(), self._registers_as_they_are():
            control.set64(Plat.MAIL_ADDRESS_LO, place)
            control[Plat.MAIL_COUNT] = len(records)
            answer = control[Plat.MAIL_GO]
        if not answer:
            return
        position = (answer >> MAIL_POSITION_SHIFT) - 1
        try:
            status = MailStatus(answer & _STATUS)
            which = "" if position < 0 else f", {MailCommand(records[position].command).name}"
        except (ValueError, IndexError):
            raise PlatformDeviceError(
                f"{self.address}: MAIL_GO reads {answer:#x} for {len(records)} records"
            ) from None
        what = f"{self.address}: a batch of {len(records)} at {place:#x}, record {position}{which}"
        raise MailError(status, position, what)

    @contextmanager
    def _registers_as_they_are(self) -> Iterator[None]:
        """Leave the inputs as they were: the kernel module writes those alone that it changes."""
        place, count = self.control.get64(Plat.MAIL_ADDRESS_LO), self.control[Plat.MAIL_COUNT]
        try:
            yield
        finally:
            self.control.set64(Plat.MAIL_ADDRESS_LO, place)
            self.control[Plat.MAIL_COUNT] = count
