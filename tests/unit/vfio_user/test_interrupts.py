# SPDX-License-Identifier: Apache-2.0
"""DEVICE_SET_IRQS: eventfds, masks, end of interrupt, and what is refused."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator

import pytest

from dma_rehearsal.device.layout import INTXCTL_ASSERT, MSICTL_TRIGGER, ExerciserBar, Reg
from dma_rehearsal.device.vfio_user.messages import Command, Irq, SetIrqsFlag
from tests.unit.vfio_user.client import RawClient, Refused

NONE, BOOL, EVENTFD = SetIrqsFlag.DATA_NONE, SetIrqsFlag.DATA_BOOL, SetIrqsFlag.DATA_EVENTFD
MASK, UNMASK = SetIrqsFlag.ACTION_MASK, SetIrqsFlag.ACTION_UNMASK
TRIGGER = SetIrqsFlag.ACTION_TRIGGER
COMMAND, STATUS, INTX_DISABLE = 4, 6, 1 << 10


@pytest.fixture
def eventfds() -> Iterator[list[int]]:
    made = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(4)]
    yield made
    for each in made:
        os.close(each)


@pytest.fixture
def master(client: RawClient) -> RawClient:
    """The client, after the guest's driver started the device."""
    client.start()
    return client


def count(eventfd: int) -> int:
    try:
        return os.eventfd_read(eventfd)
    except BlockingIOError:
        return 0


def send_msi(client: RawClient, vector: int) -> None:
    client.write32(0, Reg.MSICTL, vector | MSICTL_TRIGGER)


def set_intx(client: RawClient, level: bool) -> None:
    client.write32(0, Reg.INTXCTL, INTXCTL_ASSERT if level else 0)


def test_each_vector_has_its_eventfd(master: RawClient, eventfds: list[int]) -> None:
    master.set_irqs(EVENTFD | TRIGGER, Irq.MSIX, 3, 4, descriptors=eventfds)
    for vector in (3, 5, 6):
        send_msi(master, vector)
    assert [count(each) for each in eventfds] == [1, 0, 1, 1]


def test_vector_without_eventfd_is_silent(master: RawClient, eventfds: list[int]) -> None:
    master.set_irqs(EVENTFD | TRIGGER, Irq.MSIX, 0, 1, descriptors=eventfds[:1])
    send_msi(master, 1)
    send_msi(master, 0x7FF)
    assert count(eventfds[0]) == 0


def test_msix_needs_bus_mastering(master: RawClient, eventfds: list[int]) -> None:
    master.set_irqs(EVENTFD | TRIGGER, Irq.MSIX, 0, 1, descriptors=eventfds[:1])
    master.region_write(7, COMMAND, b"\2\0")
    send_msi(master, 0)
    master.region_write(7, COMMAND, b"\6\0")
    assert count(eventfds[0]) == 0


MSIX_CONTROL = 0x86
OFF, MASKED, ON = b"\0\0", b"\0\xc0", b"\0\x80"
PBA = ExerciserBar.MSIX_PBA


def pending(client: RawClient) -> int:
    """Return the Pending Bit Array, of 16 vectors."""
    return int.from_bytes(client.region_read(PBA, 0, 8), "little")


def test_msix_needs_its_enable(master: RawClient, eventfds: list[int]) -> None:
    master.set_irqs(EVENTFD | TRIGGER, Irq.MSIX, 0, 1, descriptors=eventfds[:1])
    master.region_write(7, MSIX_CONTROL, OFF)
    send_msi(master, 0)
    assert (count(eventfds[0]), pending(master)) == (0, 0)
    master.region_write(7, MSIX_CONTROL, ON)
    assert count(eventfds[0]) == 0, "nothing was kept"
    send_msi(master, 0)
    assert count(eventfds[0]) == 1


def test_function_mask_holds_back_every_vector(master: RawClient, eventfds: list[int]) -> None:
    """PCI Local Bus 3.0, 6.8.2.3: what is sent meanwhile is pending, and goes once."""
    master.set_irqs(EVENTFD | TRIGGER, Irq.MSIX, 0, 4, descriptors=eventfds)
    master.region_write(7, MSIX_CONTROL, MASKED)
    for vector in (3, 1, 1):
        send_msi(master, vector)
    assert [count(each) for each in eventfds] == [0] * 4
    assert pending(master) == 0b1010
    assert master.region_read(PBA, 0, 1) == b"\x0a", "in parts, too"
    master.region_write(PBA, 0, b"\xff")
    assert pending(master) == 0b1010, "software only reads it"
    master.region_write(7, MSIX_CONTROL, ON)
    assert [count(each) for each in eventfds] == [0, 1, 0, 1]
    assert pending(master) == 0
    master.region_write(7, MSIX_CONTROL, ON)
    assert [count(each) for each in eventfds] == [0] * 4


@pytest.mark.parametrize("forget", ["disable", "reset"])
def test_pending_message_ends_with_msix(
    master: RawClient, eventfds: list[int], forget: str
) -> None:
    master.set_irqs(EVENTFD | TRIGGER, Irq.MSIX, 0, 1, descriptors=eventfds[:1])
    master.region_write(7, MSIX_CONTROL, MASKED)
    send_msi(master, 0)
    if forget == "disable":
        master.region_write(7, MSIX_CONTROL, OFF)
    else:
        master.call(Command.DEVICE_RESET)
        master.decode()
    assert pending(master) == 0
    master.start()
    master.region_write(7, MSIX_CONTROL, ON)
    assert count(eventfds[0]) == 0


def test_pending_message_waits_for_bus_mastering(master: RawClient, eventfds: list[int]) -> None:
    master.set_irqs(EVENTFD | TRIGGER, Irq.MSIX, 0, 1, descriptors=eventfds[:1])
    master.region_write(7, MSIX_CONTROL, MASKED)
    send_msi(master, 0)
    master.region_write(7, COMMAND, b"\2\0")
    master.region_write(7, MSIX_CONTROL, ON)
    assert count(eventfds[0]) == 0
    master.region_write(7, COMMAND, b"\6\0")
    assert count(eventfds[0]) == 1


def test_vector_without_eventfd_is_pending_until_it_has_one(
    master: RawClient, eventfds: list[int]
) -> None:
    """QEMU gives a vector its eventfd when the guest unmasks it in the table for the first time."""
    send_msi(master, 2)
    assert pending(master) == 0b100
    master.set_irqs(NONE | TRIGGER, Irq.MSIX, 0, 0)
    assert pending(master) == 0b100, "QEMU makes all eventfds anew when it needs one more"
    master.set_irqs(EVENTFD | TRIGGER, Irq.MSIX, 1, 2, descriptors=eventfds[:2])
    assert [count(each) for each in eventfds[:2]] == [0, 1]
    assert pending(master) == 0


def test_masks_of_the_function_and_of_a_vector(master: RawClient, eventfds: list[int]) -> None:
    master.set_irqs(EVENTFD | TRIGGER, Irq.MSIX, 0, 1, descriptors=eventfds[:1])
    master.set_irqs(NONE | MASK, Irq.MSIX, 0, 1)
    master.region_write(7, MSIX_CONTROL, MASKED)
    send_msi(master, 0)
    master.set_irqs(NONE | UNMASK, Irq.MSIX, 0, 1)
    assert (count(eventfds[0]), pending(master)) == (0, 1)
    master.set_irqs(NONE | MASK, Irq.MSIX, 0, 1)
    master.region_write(7, MSIX_CONTROL, ON)
    assert (count(eventfds[0]), pending(master)) == (0, 1)
    master.set_irqs(NONE | UNMASK, Irq.MSIX, 0, 1)
    assert (count(eventfds[0]), pending(master)) == (1, 0)


def test_table_is_masked_at_reset_and_holds_what_is_written(master: RawClient) -> None:
    """Its masks have no effect: QEMU keeps a table of its own, and sends none of it."""
    table = ExerciserBar.MSIX_TABLE
    entry = master.region_read(table, 16, 16)
    assert entry == bytes(12) + b"\1\0\0\0"
    master.region_write(table, 16, bytes(range(16)))
    assert master.region_read(table, 8, 16) == bytes(4) + b"\1\0\0\0" + bytes(range(8))
    master.call(Command.DEVICE_RESET)
    master.start()
    assert master.region_read(table, 16, 16) == entry


def test_trigger_by_none_and_by_bool(master: RawClient, eventfds: list[int]) -> None:
    master.set_irqs(EVENTFD | TRIGGER, Irq.MSIX, 0, 4, descriptors=eventfds)
    master.set_irqs(NONE | TRIGGER, Irq.MSIX, 1, 2)
    assert [count(each) for each in eventfds] == [0, 1, 1, 0]
    master.set_irqs(BOOL | TRIGGER, Irq.MSIX, 0, 4, b"\1\0\0\1")
    assert [count(each) for each in eventfds] == [1, 0, 0, 1]


def test_mask_holds_back_until_unmask(master: RawClient, eventfds: list[int]) -> None:
    master.set_irqs(EVENTFD | TRIGGER, Irq.MSIX, 0, 2, descriptors=eventfds[:2])
    master.set_irqs(NONE | MASK, Irq.MSIX, 0, 1)
    send_msi(master, 0)
    send_msi(master, 1)
    assert [count(each) for each in eventfds[:2]] == [0, 1]
    master.set_irqs(NONE | UNMASK, Irq.MSIX, 0, 1)
    assert [count(each) for each in eventfds[:2]] == [1, 0]


@pytest.mark.parametrize("index", [Irq.INTX, Irq.MSIX, Irq.ERR, Irq.REQ])
def test_what_has_interrupts_can_be_turned_off(master: RawClient, index: Irq) -> None:
    master.set_irqs(NONE | TRIGGER, index, 0, 0)


def test_mask_and_unmask_by_bool(master: RawClient, eventfds: list[int]) -> None:
    master.set_irqs(EVENTFD | TRIGGER, Irq.MSIX, 0, 3, descriptors=eventfds[:3])
    master.set_irqs(BOOL | MASK, Irq.MSIX, 0, 3, b"\1\0\1")
    for vector in range(3):
        send_msi(master, vector)
    assert [count(each) for each in eventfds[:3]] == [0, 1, 0]
    master.set_irqs(BOOL | UNMASK, Irq.MSIX, 0, 3, b"\0\1\1")
    assert [count(each) for each in eventfds[:3]] == [0, 0, 1]


def test_disable_forgets_the_masks_of_its_index_alone(
    master: RawClient, eventfds: list[int]
) -> None:
    for index in (Irq.MSIX, Irq.ERR):
        master.set_irqs(EVENTFD | TRIGGER, index, 0, 1, descriptors=eventfds[:1])
    master.set_irqs(NONE | MASK, Irq.MSIX, 0, 1)
    master.set_irqs(NONE | TRIGGER, Irq.ERR, 0, 0)
    send_msi(master, 0)
    assert count(eventfds[0]) == 0
    master.set_irqs(NONE | TRIGGER, Irq.MSIX, 0, 0)
    master.set_irqs(EVENTFD | TRIGGER, Irq.MSIX, 0, 1, descriptors=eventfds[:1])
    send_msi(master, 0)
    assert count(eventfds[0]) == 2, "the one that was pending, too"


def test_disable(master: RawClient, eventfds: list[int]) -> None:
    master.set_irqs(EVENTFD | TRIGGER, Irq.MSIX, 0, 2, descriptors=eventfds[:2])
    master.set_irqs(NONE | TRIGGER, Irq.MSIX, 0, 0)
    send_msi(master, 0)
    assert count(eventfds[0]) == 0


def test_eventfd_taken_away_from_one(master: RawClient, eventfds: list[int]) -> None:
    master.set_irqs(EVENTFD | TRIGGER, Irq.MSIX, 0, 2, descriptors=eventfds[:2])
    master.set_irqs(EVENTFD | TRIGGER, Irq.MSIX, 0, 1)
    send_msi(master, 0)
    send_msi(master, 1)
    assert [count(each) for each in eventfds[:2]] == [0, 1]


def test_intx_line_and_status(client: RawClient, eventfds: list[int]) -> None:
    client.set_irqs(EVENTFD | TRIGGER, Irq.INTX, 0, 1, descriptors=eventfds[:1])
    set_intx(client, True)
    assert count(eventfds[0]) == 1
    assert client.region_read(7, STATUS, 1)[0] & 1 << 3
    set_intx(client, False)
    # QEMU's end of interrupt.
    client.set_irqs(NONE | UNMASK, Irq.INTX, 0, 1)
    assert not client.region_read(7, STATUS, 1)[0] & 1 << 3
    assert count(eventfds[0]) == 0


def test_intx_that_is_still_up_comes_again_at_its_end(
    client: RawClient, eventfds: list[int]
) -> None:
    """A level that nobody took down is a new interrupt once the last one has ended."""
    client.set_irqs(EVENTFD | TRIGGER, Irq.INTX, 0, 1, descriptors=eventfds[:1])
    set_intx(client, True)
    assert count(eventfds[0]) == 1
    client.set_irqs(NONE | UNMASK, Irq.INTX, 0, 1)
    assert count(eventfds[0]) == 1
    set_intx(client, False)
    client.set_irqs(NONE | UNMASK, Irq.INTX, 0, 1)
    assert count(eventfds[0]) == 0


def test_intx_disable_holds_it_back(client: RawClient, eventfds: list[int]) -> None:
    client.set_irqs(EVENTFD | TRIGGER, Irq.INTX, 0, 1, descriptors=eventfds[:1])
    client.region_write(7, COMMAND, struct.pack("<H", INTX_DISABLE | 2))
    set_intx(client, True)
    assert count(eventfds[0]) == 0
    assert client.region_read(7, STATUS, 1)[0] & 1 << 3, "the status shows it all the same"
    client.region_write(7, COMMAND, struct.pack("<H", 2))
    assert count(eventfds[0]) == 1


def test_intx_waits_for_its_eventfd(client: RawClient, eventfds: list[int]) -> None:
    """QEMU gives INTx an eventfd only while the guest has MSI-X disabled."""
    set_intx(client, True)
    client.set_irqs(EVENTFD | TRIGGER, Irq.INTX, 0, 1, descriptors=eventfds[:1])
    assert count(eventfds[0]) == 1
    client.set_irqs(NONE | TRIGGER, Irq.INTX, 0, 0)
    client.set_irqs(EVENTFD | TRIGGER, Irq.INTX, 0, 1, descriptors=eventfds[1:2])
    assert [count(each) for each in eventfds[:2]] == [0, 1]


def test_intx_that_was_masked_and_is_down_again_is_no_interrupt(
    client: RawClient, eventfds: list[int]
) -> None:
    client.set_irqs(EVENTFD | TRIGGER, Irq.INTX, 0, 1, descriptors=eventfds[:1])
    client.set_irqs(NONE | MASK, Irq.INTX, 0, 1)
    set_intx(client, True)
    set_intx(client, False)
    client.set_irqs(NONE | UNMASK, Irq.INTX, 0, 1)
    assert count(eventfds[0]) == 0
    client.set_irqs(NONE | MASK, Irq.INTX, 0, 1)
    set_intx(client, True)
    client.set_irqs(NONE | UNMASK, Irq.INTX, 0, 1)
    assert count(eventfds[0]) == 1


def test_intx_status_lasts_until_the_end_of_interrupt(
    client: RawClient, eventfds: list[int]
) -> None:
    """QEMU holds the guest's line up that long, and the guest asks the status whose it is."""
    client.set_irqs(EVENTFD | TRIGGER, Irq.INTX, 0, 1, descriptors=eventfds[:1])
    set_intx(client, True)
    set_intx(client, False)
    assert client.region_read(7, STATUS, 1)[0] & 1 << 3
    client.set_irqs(NONE | UNMASK, Irq.INTX, 0, 1)
    assert not client.region_read(7, STATUS, 1)[0] & 1 << 3
    assert count(eventfds[0]) == 1, "the one of the rise"


@pytest.mark.parametrize(
    ("flags", "index", "start", "number", "data", "descriptors"),
    [
        (0, 2, 0, 1, b"", 0),
        (NONE, 2, 0, 1, b"", 0),
        (TRIGGER, 2, 0, 1, b"", 0),
        (NONE | BOOL | TRIGGER, 2, 0, 1, b"\1", 0),
        (NONE | MASK | UNMASK, 2, 0, 1, b"", 0),
        (NONE | TRIGGER | 1 << 6, 2, 0, 1, b"", 0),
        (NONE | TRIGGER, 2, 16, 1, b"", 0),
        (NONE | TRIGGER, 2, 17, 0, b"", 0),
        (NONE | TRIGGER, 2, 0, 17, b"", 0),
        (NONE | TRIGGER, 2, 1, 0xFFFF_FFFF, b"", 0),
        (NONE | TRIGGER, 2, 0xFFFF_FFFF, 2, b"", 0),
        (NONE | TRIGGER, 1, 0, 1, b"", 0),
        (NONE | TRIGGER, 5, 0, 0, b"", 0),
        (NONE | TRIGGER, 0xFFFF_FFFF, 0, 0, b"", 0),
        (BOOL | TRIGGER, 2, 0, 2, b"\1", 0),
        (BOOL | TRIGGER, 2, 0, 1, b"\1\1", 0),
        (EVENTFD | TRIGGER, 2, 0, 2, b"", 1),
        (EVENTFD | TRIGGER, 2, 0, 1, b"", 2),
        (NONE | TRIGGER, 2, 0, 1, b"", 1),
        (BOOL | TRIGGER, 2, 0, 1, b"\1", 1),
        (EVENTFD | MASK, 2, 0, 1, b"", 1),
        (EVENTFD | UNMASK, 0, 0, 1, b"", 1),
        # Interrupts that take no MASK and UNMASK.
        (NONE | MASK, 3, 0, 1, b"", 0),
        (BOOL | MASK, 4, 0, 1, b"\1", 0),
        (NONE | UNMASK, 3, 0, 1, b"", 0),
        (BOOL | UNMASK, 4, 0, 1, b"\0", 0),
        # Empty ranges: only the whole index can be turned off.
        (NONE | MASK, 2, 0, 0, b"", 0),
        (NONE | UNMASK, 0, 0, 0, b"", 0),
        (BOOL | TRIGGER, 2, 0, 0, b"", 0),
        (EVENTFD | TRIGGER, 2, 0, 0, b"", 0),
        (NONE | TRIGGER, 2, 3, 0, b"", 0),
        (NONE | TRIGGER, 2, 16, 0, b"", 0),
        (NONE | TRIGGER, 1, 0, 0, b"", 0),
    ],
)
def test_refused(
    client: RawClient,
    eventfds: list[int],
    flags: int,
    index: int,
    start: int,
    number: int,
    data: bytes,
    descriptors: int,
) -> None:
    with pytest.raises(Refused) as refusal:
        client.set_irqs(flags, index, start, number, data, eventfds[:descriptors])
    assert refusal.value.errno == errno.EINVAL


@pytest.mark.parametrize("length", range(0, 20, 3))
def test_cut_short(client: RawClient, length: int) -> None:
    with pytest.raises(Refused) as refusal:
        client.call(Command.DEVICE_SET_IRQS, bytes(length))
    assert refusal.value.errno == errno.EINVAL
