# SPDX-License-Identifier: Apache-2.0
"""The guest's side of the mailbox, on the device's model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.device.layout import Plat
from dma_rehearsal.device.layout.mailbox import MAIL_CAPACITY, MailRecord, MailStatus
from dma_rehearsal.guest.drivers.platform import command
from dma_rehearsal.guest.drivers.platform.command import CommandLock, PlatformDeviceError
from dma_rehearsal.guest.drivers.platform.mailbox_unit import MailboxUnit, MailError
from tests.unit.device.cache_model.cache_board import DATA, OUT
from tests.unit.device.platform.mail_board import BATCH, MailBoard, grant, withdraw
from tests.unit.guest.drivers.platform.model_bar import BoardBar

PLACE = BATCH


@pytest.fixture
def board() -> MailBoard:
    made = MailBoard()
    made.enable()
    return made


@pytest.fixture
def control(board: MailBoard) -> BoardBar:
    return BoardBar(board, 0)


@pytest.fixture
def unit(control: BoardBar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MailboxUnit:
    monkeypatch.setattr(command, "LOCKS", tmp_path)
    registers: Any = control
    return MailboxUnit(registers, CommandLock("0000:00:03.0"), "0000:00:03.0")


def lay(board: MailBoard, *records: MailRecord) -> list[MailRecord]:
    board.store(PLACE, b"".join(each.pack() for each in records))
    return [*records]


def test_a_batch_is_carried_out(unit: MailboxUnit, board: MailBoard) -> None:
    assert unit.capacity == MAIL_CAPACITY
    unit.send(PLACE, lay(board, grant(DATA, 64, OUT)))
    assert board.reads(DATA, 64) == bytes(64)


def test_a_failure_says_which_record_and_why(unit: MailboxUnit, board: MailBoard) -> None:
    with pytest.raises(MailError, match="record 1, WITHDRAW: NO_SUCH_TAG") as error:
        unit.send(PLACE, lay(board, grant(DATA, 64, OUT), withdraw(1 << 31)))
    assert (error.value.status, error.value.position) == (MailStatus.NO_SUCH_TAG, 1)
    with pytest.raises(MailError, match="record -1: UNREACHABLE") as error:
        unit.send(1 << 40, [withdraw()])
    assert error.value.position == -1


@pytest.mark.parametrize("answer", [0xFFFF_FFFF, 5 << 16 | 16, 77])
def test_a_device_that_answers_nonsense(
    unit: MailboxUnit, board: MailBoard, control: BoardBar, answer: int
) -> None:
    control.answers[Plat.MAIL_GO] = answer
    with pytest.raises(PlatformDeviceError, match=f"MAIL_GO reads {answer:#x} for 1 records"):
        unit.send(PLACE, lay(board, withdraw()))


def test_the_kernel_modules_registers_stay(unit: MailboxUnit, board: MailBoard) -> None:
    """Also after a failure: the module writes only those that it changes."""
    board.aim(0x1_2345_6780, 9)
    unit.send(PLACE, lay(board, grant(DATA, 64, OUT)))
    with pytest.raises(MailError):
        unit.send(PLACE, lay(board, withdraw(1 << 31)))
    assert board.get64(Plat.MAIL_ADDRESS_LO) == 0x1_2345_6780
    assert unit.control[Plat.MAIL_COUNT] == 9
