# SPDX-License-Identifier: Apache-2.0
"""The NVMe example without MSI-X: its line and the interrupt mask, whatever a driver does."""

from __future__ import annotations

import pytest

from dma_rehearsal.device.vfio_user.messages import Irq
from examples.nvme.layout import PAGE, QUEUES, Reg, Status
from tests.unit.device.fakes import BASE, read32
from tests.unit.examples.nvme_host import ENABLE, Admin, Host, Pair, head_doorbell

OK = Status.SUCCESS
WITHOUT_INTERRUPTS, WITH_INTERRUPTS = 1, 3  # CDW11 of Create I/O Completion Queue: contiguous


@pytest.fixture
def host() -> Host:
    made = Host()
    made.take_away_msix()
    return made


@pytest.fixture
def admin(host: Host) -> Pair:
    return host.enable()


def complete(host: Host, admin: Pair) -> None:
    """Leave a completion in the admin queue."""
    host.submit(admin, Admin.GET_FEATURES, 6)
    assert up(host)


def up(host: Host) -> bool:
    return host.nvme.interrupts.intx.level


def masks(host: Host) -> tuple[int, int]:
    return read32(host.nvme, 0, Reg.INTMS), read32(host.nvme, 0, Reg.INTMC)


def test_a_masked_vector_leaves_the_line_down_until_its_unmask(host: Host, admin: Pair) -> None:
    complete(host, admin)
    host.write(Reg.INTMS, 1)
    assert not up(host)
    assert masks(host) == (1, 1)
    host.submit(admin, Admin.GET_FEATURES, 6)
    assert not up(host)
    host.write(Reg.INTMC, 0)
    host.write(Reg.INTMS, 0)
    assert masks(host) == (1, 1), "a 0 changes nothing"
    host.write(Reg.INTMC, 1)
    assert up(host)
    assert masks(host) == (0, 0)
    assert len(host.answers(admin)) == 2
    assert not up(host)


def test_a_mask_is_of_its_vector(host: Host, admin: Pair) -> None:
    host.write(Reg.INTMS, ~1 & 0xFFFF_FFFF)
    complete(host, admin)
    host.answers(admin)
    pair = host.io_pair(admin)
    assert pair.number == 1
    host.submit(pair, 0, namespace=1)
    assert not up(host)
    host.write(Reg.INTMC, 1 << 1)
    assert up(host)


def test_an_unmask_with_nothing_to_take_raises_no_line(host: Host, admin: Pair) -> None:
    complete(host, admin)
    host.write(Reg.INTMS, 1)
    host.answers(admin)
    host.write(Reg.INTMC, 1)
    assert not up(host)


def test_disabling_the_controller_takes_line_and_masks_back(host: Host, admin: Pair) -> None:
    host.write(Reg.INTMS, 2)
    complete(host, admin)
    host.write(Reg.CC, 0)
    assert not up(host)
    assert masks(host) == (0, 0)
    host.write(Reg.INTMS, 4)
    host.write(Reg.CC, 0)
    host.write(Reg.CC, ENABLE)
    assert masks(host) == (4, 4), "it was set while the controller was disabled"


def test_a_deleted_queue_holds_the_line_up_no_more(host: Host, admin: Pair) -> None:
    pair = host.io_pair(admin)
    host.submit(pair, 0, namespace=1)
    assert up(host)
    assert host.do(admin, Admin.DELETE_SQ, 1)[0] is OK
    assert up(host)
    assert host.do(admin, Admin.DELETE_CQ, 1)[0] is OK
    assert not up(host)


def test_the_doorbell_of_a_queue_without_interrupts_leaves_the_line(
    host: Host, admin: Pair
) -> None:
    shape, place = 7 << 16 | 1, (BASE + 8 * PAGE, 0)
    assert host.do(admin, Admin.CREATE_CQ, shape, WITHOUT_INTERRUPTS, prp=place)[0] is OK
    complete(host, admin)
    host.write(head_doorbell(1), 0)
    assert up(host)


def test_messages_are_told_of_completions_only() -> None:
    host = Host()
    admin = host.enable()
    pair = host.io_pair(admin)
    host.client.interrupts.clear()
    host.submit(pair, 0, namespace=1)
    host.submit(pair, 0, namespace=1)
    assert host.client.interrupts == [(Irq.MSIX, 1)] * 2
    host.write(head_doorbell(1), 1)
    host.write(Reg.INTMC, (1 << QUEUES) - 1)
    assert host.client.interrupts == [(Irq.MSIX, 1)] * 2
    host.write(Reg.CC, 0)
    assert host.client.interrupts == [(Irq.MSIX, 1)] * 2
