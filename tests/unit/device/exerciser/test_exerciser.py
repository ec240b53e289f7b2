# SPDX-License-Identifier: Apache-2.0
"""DMA: what moves, what is refused and then moves nothing, and what is recorded of it."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dma_rehearsal.device import layout
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import (
    AddressType,
    DmaAttribute,
    DmaCtl,
    DmaReason,
    DmaStatus,
    Ext,
    Reg,
)
from dma_rehearsal.device.trace import Trace
from tests.unit.device.fakes import (
    BASE,
    READ_ONLY_BASE,
    SIZE,
    FakeClient,
    answer,
    dma,
    read32,
    record,
    write32,
)

BUFFER = layout.BUFFER_SIZE_DEFAULT
DATA = bytes((7 * index + index // 251) % 256 for index in range(BUFFER))


def test_read_memory(exerciser: Exerciser, client: FakeClient) -> None:
    client.ram[100:1100] = DATA[:1000]
    found = dma(exerciser, BASE + 100, 1000, write=False, offset=50)
    assert exerciser.region_read(1, 50, 1000) == DATA[:1000]
    assert exerciser.region_read(1, 0, 50) == bytes(50)
    assert exerciser.region_read(1, 1050, 50) == bytes(50)
    crc = zlib.crc32(DATA[:1000])
    assert found == {
        "sequence": 1, "status": 0, "reason": 0, "address_lo": BASE + 100, "address_hi": 0,
        "length": 1000, "moved": 1000, "direction": 0, "attributes": 0, "offset": 50,
        "crc32": crc, "valid": 1, "dmastatus": 0, "segments": 1, "pasid": 0, "requester_id": 0,
        "used_lo": BASE + 100, "used_hi": 0,
    }  # fmt: skip
    assert read32(exerciser, 3, Ext.DMA_CRC32) == crc


def test_write_memory(exerciser: Exerciser, client: FakeClient) -> None:
    exerciser.region_write(1, 0, DATA[:1000])
    found = dma(exerciser, BASE + 100, 900, write=True, offset=100)
    assert client.ram[100:1000] == DATA[100:1000]
    assert not any(client.ram[:100])
    assert not any(client.ram[1000:])
    assert (found["direction"], found["crc32"]) == (1, zlib.crc32(DATA[100:1000]))


@pytest.mark.parametrize("length", [0, 1, BUFFER])
def test_lengths_at_the_edges(exerciser: Exerciser, client: FakeClient, length: int) -> None:
    client.ram[:BUFFER] = DATA
    found = dma(exerciser, BASE, length, write=False, offset=BUFFER - length)
    assert (found["status"], found["moved"]) == (0, length)


def test_trigger_clears_itself_and_keeps_the_rest(exerciser: Exerciser) -> None:
    dma(exerciser, BASE, 4, write=True, control=DmaCtl.NO_SNOOP)
    assert read32(exerciser, 0, Reg.DMACTL) == DmaCtl.WRITE_MEMORY | DmaCtl.NO_SNOOP


@pytest.mark.parametrize("trigger", [0, 2, 3, 15])
def test_other_values_trigger_nothing(exerciser: Exerciser, trigger: int) -> None:
    write32(exerciser, 0, Reg.DMACTL, trigger)
    assert read32(exerciser, 3, Ext.DMA_COUNT) == 0


REFUSED = {
    "one past the buffer": (BASE, 2, BUFFER - 1, 0, DmaStatus.RANGE, DmaReason.BUFFER_RANGE),
    "offset past the buffer": (BASE, 1, BUFFER, 0, DmaStatus.RANGE, DmaReason.BUFFER_RANGE),
    "whole buffer and one": (BASE, BUFFER + 1, 0, 0, DmaStatus.RANGE, DmaReason.BUFFER_RANGE),
    "sum wraps 32 bits": (
        *(BASE, 0xFFFF_FFFF, 0xFFFF_FFFF, 0),
        *(DmaStatus.RANGE, DmaReason.BUFFER_RANGE),
    ),
    "unmapped": (0x4000_0000, 16, 0, 0, DmaStatus.INTERNAL, DmaReason.UNMAPPED),
    "end unmapped": (BASE + SIZE - 8, 16, 0, 0, DmaStatus.INTERNAL, DmaReason.UNMAPPED),
    "wraps": ((1 << 64) - 8, 16, 0, 0, DmaStatus.INTERNAL, DmaReason.ADDRESS_WRAP),
    "reserved address type": (
        *(BASE, 16, 0, AddressType.RESERVED << 10),
        *(DmaStatus.INTERNAL, DmaReason.RESERVED_ADDRESS_TYPE),
    ),
    "translated with ATC": (
        *(BASE, 16, 0, AddressType.TRANSLATED << 10 | DmaCtl.USE_ATC),
        *(DmaStatus.INTERNAL, DmaReason.RESERVED_ADDRESS_TYPE),
    ),
    "no ATC entry": (BASE, 16, 0, DmaCtl.USE_ATC, DmaStatus.INTERNAL, DmaReason.NO_ATC_ENTRY),
}


@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
@pytest.mark.parametrize("case", REFUSED)
def test_refused_moves_nothing(
    exerciser: Exerciser, client: FakeClient, case: str, write: bool
) -> None:
    address, length, offset, control, status, reason = REFUSED[case]
    client.ram[:] = b"\xaa" * SIZE
    exerciser.region_write(1, 0, DATA)
    found = dma(exerciser, address, length, write=write, offset=offset, control=control)
    assert (found["status"], found["dmastatus"]) == (status, status)
    assert (found["reason"], found["moved"], found["crc32"]) == (reason, 0, 0)
    assert client.ram == b"\xaa" * SIZE
    assert exerciser.region_read(1, 0, BUFFER) == DATA


def test_read_only_memory_can_be_read_alone(exerciser: Exerciser, client: FakeClient) -> None:
    assert dma(exerciser, READ_ONLY_BASE, 4, write=False)["status"] == 0
    assert exerciser.region_read(1, 0, 4) == b"rom!"
    found = dma(exerciser, READ_ONLY_BASE, 4, write=True)
    assert (found["status"], found["reason"]) == (DmaStatus.INTERNAL, DmaReason.READ_ONLY)
    assert client.rom.startswith(b"rom!")


@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
def test_bus_mastering_off(exerciser: Exerciser, client: FakeClient, write: bool) -> None:
    exerciser.region_write(7, 4, b"\2\0")
    exerciser.region_write(1, 0, DATA)
    found = dma(exerciser, BASE, 16, write=write)
    assert (found["status"], found["reason"]) == (DmaStatus.INTERNAL, DmaReason.BUS_MASTER_OFF)
    assert client.ram == bytes(SIZE)
    assert exerciser.region_read(1, 0, BUFFER) == DATA


def test_after_the_client_is_gone(exerciser: Exerciser) -> None:
    exerciser.detach()
    assert dma(exerciser, BASE, 16, write=True)["reason"] == DmaReason.UNMAPPED


def test_status_is_cleared_by_writing_bit_2(exerciser: Exerciser) -> None:
    dma(exerciser, 0, 16, write=True)
    write32(exerciser, 0, Reg.DMASTATUS, 3)
    assert read32(exerciser, 0, Reg.DMASTATUS) == DmaStatus.INTERNAL
    write32(exerciser, 0, Reg.DMASTATUS, layout.DMASTATUS_CLEAR)
    assert read32(exerciser, 0, Reg.DMASTATUS) == DmaStatus.OK


def test_no_snoop_leaves_the_device_only_when_it_is_enabled(exerciser: Exerciser) -> None:
    asked = DmaAttribute.NO_SNOOP_ASKED
    found = dma(exerciser, BASE, 4, write=False, control=DmaCtl.NO_SNOOP)
    assert found["attributes"] == asked | DmaAttribute.NO_SNOOP
    control = struct.unpack("<H", exerciser.region_read(7, 0x48, 2))[0]
    exerciser.region_write(7, 0x48, struct.pack("<H", control & ~(1 << 11)))
    found = dma(exerciser, BASE, 4, write=False, control=DmaCtl.NO_SNOOP)
    assert found["attributes"] == asked


def test_records_are_bounded_and_count_what_was_lost(exerciser: Exerciser) -> None:
    total = layout.RECORD_CAPACITY + 10
    for length in range(total):
        dma(exerciser, BASE, length, write=False)
    assert read32(exerciser, 3, Ext.DMA_COUNT) == total
    assert read32(exerciser, 3, Ext.RECORD_LOST) == 10
    assert record(exerciser, 11)["length"] == 10
    assert record(exerciser, total)["length"] == total - 1
    for sequence in (0, 10, total + 1, 0xFFFF_FFFF):
        assert not any(record(exerciser, sequence)[key] for key in ("valid", "length", "sequence"))


def test_reset_forgets(exerciser: Exerciser) -> None:
    exerciser.region_write(1, 0, DATA)
    dma(exerciser, BASE, 16, write=True)
    exerciser.device_reset()
    answer(exerciser)
    assert exerciser.region_read(1, 0, BUFFER) == bytes(BUFFER)
    assert read32(exerciser, 3, Ext.DMA_COUNT) == 0
    assert record(exerciser, 1)["valid"] == 0
    assert read32(exerciser, 3, Ext.MAGIC) == layout.EXT_MAGIC


def test_msi_goes_out_by_msictl(exerciser: Exerciser, client: FakeClient) -> None:
    write32(exerciser, 0, Reg.MSICTL, 5)
    assert client.interrupts == []
    write32(exerciser, 0, Reg.MSICTL, layout.MSICTL_TRIGGER | 5)
    write32(exerciser, 0, Reg.MSICTL, layout.MSICTL_TRIGGER | 16)
    assert client.interrupts == [(2, 5)]
    assert read32(exerciser, 0, Reg.MSICTL) == 16, "the index stays, the trigger clears itself"
    write32(exerciser, 0, Reg.MSICTL, 0x7FFF_FFFF)
    assert read32(exerciser, 0, Reg.MSICTL) == 0x7FF, "the bits between are reserved"


def test_trace_tells_every_dma(tmp_path: Path, client: FakeClient) -> None:
    trace = Trace(tmp_path / "trace")
    exerciser = Exerciser(trace)
    exerciser.attach(client)
    answer(exerciser)
    dma(exerciser, BASE, 16, write=True)
    exerciser.region_write(7, 4, b"\x06\x00")
    dma(exerciser, BASE, 16, write=True)
    trace.close()
    events = [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines()]
    told = [(e["sequence"], e["reason"], e["moved"]) for e in events if e["event"] == "dma"]
    assert told == [(1, "BUS_MASTER_OFF", 0), (2, "NONE", 16)]


@settings(deadline=None)  # the machine may be busy
@given(
    st.lists(
        st.tuples(
            st.integers(0, SIZE + 64), st.integers(0, 300), st.integers(0, BUFFER), st.booleans()
        ),
        max_size=20,
    )
)
def test_against_two_byte_strings(operations: list[tuple[int, int, int, bool]]) -> None:
    client, exerciser = FakeClient(), Exerciser(Trace())
    exerciser.attach(client)
    exerciser.region_write(7, 4, b"\x06\x00")
    exerciser.region_write(1, 0, DATA)
    client.ram[:] = (DATA * 4)[::-1]
    memory, buffer = bytearray(client.ram), bytearray(DATA)
    for place, length, offset, write in operations:
        found = dma(exerciser, BASE + place, length, write=write, offset=offset)
        if offset + length > BUFFER:
            assert found["status"] == DmaStatus.RANGE
        elif place + length > SIZE:
            assert found["status"] == DmaStatus.INTERNAL
        elif write:
            memory[place : place + length] = buffer[offset : offset + length]
        else:
            buffer[offset : offset + length] = memory[place : place + length]
    assert client.ram == memory
    assert exerciser.region_read(1, 0, BUFFER) == buffer
