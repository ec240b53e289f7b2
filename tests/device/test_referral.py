"""An exerciser that tells its client of refused DMA: when, with what, and what the answer does."""

from __future__ import annotations

import pytest

from device.endpoints.exerciser import Exerciser
from device.endpoints.referral import behind_iommu
from device.layout import DmaCtl, DmaReason, DmaStatus, Ext, Reg
from device.trace import Trace
from device.vfio_user.errors import ClientFault
from device.vfio_user.model import Dma
from tests.device.fakes import BASE, READ_ONLY_BASE, SIZE, FakeClient, dma, read32, write32

BUSY = DmaCtl.TRIGGER
COMMAND_MASTER = b"\x06\x00"
COMMAND_MEMORY = b"\x02\x00"
END = BASE + SIZE


class Asked(FakeClient):
    """Keeps what it is asked by messages; the test answers."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Dma] = []

    def start_dma(self, dma: Dma) -> None:
        if not dma.by_message:
            raise AssertionError("only refused DMA goes to the client here")
        self.messages.append(dma)

    def cancel_dma(self) -> None:
        self.messages.clear()


@pytest.fixture
def client() -> Asked:
    return Asked()


@pytest.fixture
def exerciser(client: Asked) -> Exerciser:
    made = behind_iommu(Exerciser)(Trace())
    made.attach(client)
    made.region_write(7, 4, COMMAND_MASTER)
    return made


def refuse(client: Asked) -> None:
    asked = client.messages.pop()
    asked.on_done(ClientFault(asked.address, "refused"))


def busy(exerciser: Exerciser) -> bool:
    return bool(read32(exerciser, 0, Reg.DMACTL) & DmaCtl.TRIGGER_MASK)


def newest(exerciser: Exerciser) -> dict[str, int]:
    count = read32(exerciser, 3, Ext.DMA_COUNT)
    write32(exerciser, 3, Ext.RECORD_SELECT, count)
    fields = (Ext.RECORD_REASON, Ext.RECORD_MOVED, Ext.RECORD_CRC32, Ext.RECORD_STATUS)
    return {"count": count} | {each.name: read32(exerciser, 3, each) for each in fields}


@pytest.mark.parametrize(
    ("address", "size", "write", "reason", "at", "length"),
    [
        (END + 16, 8192, True, DmaReason.UNMAPPED, END + 16, 4080),
        (END + 16, 8192, False, DmaReason.UNMAPPED, END + 16, 4080),
        (END - 4096, 8192, True, DmaReason.UNMAPPED, END, 4096),
        (READ_ONLY_BASE + 8, 64, True, DmaReason.READ_ONLY, READ_ONLY_BASE + 8, 64),
    ],
)
def test_the_page_at_fault_is_asked_for_and_the_refusal_recorded(
    exerciser: Exerciser,
    client: Asked,
    address: int,
    size: int,
    write: bool,
    reason: DmaReason,
    at: int,
    length: int,
) -> None:
    exerciser.buffer[:] = bytes(index % 251 for index in range(len(exerciser.buffer)))
    before = bytes(client.ram)
    dma(exerciser, address, size, write=write, offset=64)
    (asked,) = client.messages
    assert (asked.address, asked.length) == (at, length)
    offset = 64 + at - address
    assert asked.data == (bytes(exerciser.buffer[offset : offset + length]) if write else None)
    assert busy(exerciser)
    assert read32(exerciser, 3, Ext.DMA_COUNT) == 0, "not ended yet"
    refuse(client)
    assert not busy(exerciser)
    assert newest(exerciser) == {
        "count": 1,
        "RECORD_REASON": reason,
        "RECORD_MOVED": 0,
        "RECORD_CRC32": 0,
        "RECORD_STATUS": DmaStatus.INTERNAL,
    }
    assert bytes(client.ram) == before


@pytest.mark.parametrize("write", [False, True])
def test_what_the_client_can_after_all_is_recorded_as_moved(
    exerciser: Exerciser, client: Asked, write: bool
) -> None:
    dma(exerciser, END, 16, write=write)
    client.messages.pop().on_done(b"" if write else b"mapped just now!")
    found = newest(exerciser)
    assert (found["RECORD_REASON"], found["RECORD_MOVED"]) == (DmaReason.UNMAPPED, 16)
    assert bytes(exerciser.buffer[:16]) == (bytes(16) if write else b"mapped just now!")


def test_mapped_memory_and_other_refusals_are_not_the_clients_business(
    exerciser: Exerciser, client: Asked
) -> None:
    assert dma(exerciser, BASE, 64, write=True)["reason"] == DmaReason.NONE
    past = len(exerciser.buffer)
    assert dma(exerciser, BASE, 64, write=True, offset=past)["reason"] == DmaReason.BUFFER_RANGE
    exerciser.region_write(7, 4, COMMAND_MEMORY)
    assert dma(exerciser, END, 64, write=True)["reason"] == DmaReason.BUS_MASTER_OFF
    assert client.messages == []


def test_a_trigger_while_the_client_is_asked_does_nothing(
    exerciser: Exerciser, client: Asked
) -> None:
    dma(exerciser, END, 64, write=True)
    dma(exerciser, BASE, 64, write=True)
    assert len(client.messages) == 1
    refuse(client)
    assert newest(exerciser)["count"] == 1


@pytest.mark.parametrize("how", ["reset", "bus master", "detach"])
def test_what_ends_a_dma_ends_this_one(exerciser: Exerciser, client: Asked, how: str) -> None:
    dma(exerciser, END, 64, write=True)
    (late,) = client.messages
    if how == "reset":
        exerciser.device_reset()
    elif how == "bus master":
        exerciser.region_write(7, 4, COMMAND_MEMORY)
    else:
        exerciser.detach()
    assert not busy(exerciser)
    count = read32(exerciser, 3, Ext.DMA_COUNT)
    assert count == (how != "reset")
    late.on_done(ClientFault(END, "late"))
    assert read32(exerciser, 3, Ext.DMA_COUNT) == count
