# SPDX-License-Identifier: Apache-2.0
"""Faults of the mailbox, and of the board's BOARD_SNOOP: commands that say OK and do nothing."""

from __future__ import annotations

from collections.abc import Callable

from dma_rehearsal.device.faults.fault import DeviceFault
from dma_rehearsal.device.layout.mailbox import MailCommand, MailRecord
from dma_rehearsal.device.platform.platform import PlatformModels


def _all_but(*commands: MailCommand) -> DeviceFault:
    """Return a mailbox that takes these commands for done."""
    carries_out: Callable[[MailRecord], bool] = lambda record: record.command not in commands  # noqa: E731
    return DeviceFault(platform=lambda: PlatformModels(carries_out=carries_out))


IMPLEMENTATIONS: dict[str, DeviceFault] = {
    "mail-withdraw-ignored": _all_but(MailCommand.WITHDRAW),
    "mail-track-dropped": _all_but(MailCommand.TRACK, MailCommand.TRACK_UNCACHED),
    "mail-report-dropped": _all_but(MailCommand.REPORT),
    "board-snoop-ignored": DeviceFault(platform=lambda: PlatformModels(snoops=lambda _asked: True)),
}
