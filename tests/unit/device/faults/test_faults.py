# SPDX-License-Identifier: Apache-2.0
"""Each fault does what it says, and only that."""

from __future__ import annotations

import json
import threading
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.faults import IMPLEMENTATIONS
from dma_rehearsal.device.faults.injector import FaultInjector
from dma_rehearsal.device.layout import (
    INTXCTL_ASSERT,
    MSICTL_TRIGGER,
    DmaReason,
    Ext,
    GrantDirection,
    MemoryType,
    Plat,
    ProtectionCommand,
    Reg,
    RingDescriptor,
    RingFlag,
    RingStatus,
)
from dma_rehearsal.device.platform.memory_types import Mtrrs
from dma_rehearsal.device.platform.platform import Platform, PlatformModels
from dma_rehearsal.device.platform.protection import ProtectionRules
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.errors import NoDescriptor, Unmapped
from dma_rehearsal.device.vfio_user.messages import Irq
from tests.unit.device.fakes import BASE, FakeClient, answer, dma, read32, record, start, write32
from tests.unit.device.platform.tables import PAT_4K, PAT_LARGE, TABLE, Tables

DATA = bytes(range(1, 101))


def devices(name: str | None) -> tuple[Exerciser, Platform]:
    """Return both devices with a fault that was set when they were made already."""
    exerciser, platform = Exerciser(Trace()), Platform(Trace())
    FaultInjector([exerciser], platform).set(name)
    answer(platform)
    return exerciser, platform


def exercise(name: str | None, *, write: bool) -> tuple[bytes, bytes, dict[str, int]]:
    """Run one DMA of 100 bytes; return memory, the device's buffer and the record."""
    client = FakeClient()
    device, _ = devices(name)
    device.attach(client)
    device.region_write(7, 4, b"\x06\x00")
    if write:
        device.region_write(1, 0, DATA)
    else:
        client.ram[:100] = DATA
    found = dma(device, BASE, 100, write=write)
    return bytes(client.ram[:100]), device.region_read(1, 0, 100), found


@pytest.mark.parametrize("write", [False, True])
def test_sound(write: bool) -> None:
    memory, buffer, found = exercise(None, write=write)
    assert memory == buffer == DATA
    assert found["crc32"] == zlib.crc32(DATA)


def test_read_flip() -> None:
    memory, buffer, found = exercise("device-read-flip", write=False)
    assert memory == DATA
    assert sum(a != b for a, b in zip(buffer, DATA, strict=True)) == 1
    assert found["status"] == 0
    assert found["crc32"] == zlib.crc32(buffer)
    memory, _, _ = exercise("device-read-flip", write=True)
    assert memory == DATA


def test_write_flip() -> None:
    memory, buffer, found = exercise("device-write-flip", write=True)
    assert buffer == DATA
    assert sum(a != b for a, b in zip(memory, DATA, strict=True)) == 1
    assert (found["status"], found["crc32"]) == (0, zlib.crc32(DATA))
    _, buffer, _ = exercise("device-write-flip", write=False)
    assert buffer == DATA


def test_ignores_direction() -> None:
    memory, buffer, found = exercise("device-ignores-direction", write=True)
    assert memory == bytes(100)
    assert buffer == bytes(100), "it read memory"
    assert (found["status"], found["direction"]) == (0, 0)


@pytest.mark.parametrize("write", [False, True])
def test_false_success(write: bool) -> None:
    memory, buffer, found = exercise("device-false-success", write=write)
    assert (memory, buffer) == ((bytes(100), DATA) if write else (DATA, bytes(100)))
    assert (found["status"], found["moved"]) == (0, 100)


def test_reads_stale() -> None:
    client = FakeClient()
    device = devices("device-reads-stale")[0]
    device.attach(client)
    device.region_write(7, 4, b"\x06\x00")
    device.region_write(1, 0, DATA)
    dma(device, BASE, 100, write=True)
    client.ram[:100] = bytes(100)
    assert dma(device, BASE, 100, write=False)["crc32"] == zlib.crc32(DATA)
    assert dma(device, BASE, 50, write=False)["crc32"] == zlib.crc32(bytes(50)), "another range"


@pytest.mark.parametrize("write", [False, True])
def test_stale_translation(write: bool) -> None:
    class Client(FakeClient):
        mapped = True

        def memory(self, address: int, length: int, *, write: bool) -> list[memoryview]:
            if not self.mapped:
                raise Unmapped(address)
            return super().memory(address, length, write=write)

    for name, reason, moved in (
        ("iommu-stale-translation", DmaReason.NONE, 100),
        (None, DmaReason.UNMAPPED, 0),
    ):
        client = Client()
        device = devices(name)[0]
        device.attach(client)
        device.region_write(7, 4, b"\x06\x00")
        dma(device, BASE, 100, write=write)
        client.mapped = False
        device.region_write(1, 0, DATA)
        found = dma(device, BASE, 100, write=write)
        assert (found["reason"], found["moved"]) == (reason, moved)
        assert (bytes(client.ram[:100]) == DATA) == (write and moved > 0)
        assert dma(device, BASE, 50, write=write)["reason"] == DmaReason.UNMAPPED


def interrupts(name: str | None, vectors: list[int]) -> list[tuple[int, int]]:
    """Send each vector's message, then let one more register write happen; return what came."""
    client = FakeClient()
    device = devices(name)[0]
    device.attach(client)
    start(device)
    for vector in vectors:
        write32(device, 0, Reg.MSICTL, MSICTL_TRIGGER | vector)
    write32(device, 0, Reg.DMA_LEN, 0)
    return client.interrupts


def test_faults_of_msix_are_of_one_vector() -> None:
    every = [(Irq.MSIX, vector) for vector in range(16)]
    wrong = every[10]
    assert interrupts(None, list(range(16))) == every
    dropped = interrupts("msix-dropped", list(range(16)))
    assert dropped == [each for each in every if each != wrong]
    misdirected = interrupts("msix-misdirected", list(range(16)))
    assert misdirected == [every[15] if each == wrong else each for each in every]
    assert interrupts("msix-doubled", list(range(16))) == every[:11] + every[10:]
    assert interrupts("msix-doubled", [10]) == [wrong, wrong]


def intx(name: str | None) -> tuple[str, set[tuple[int, int]]]:
    """Take the line up, then down twice; return Interrupt Status before and after the end of
    interrupt each time, and the kinds of interrupts that came.
    """
    client = FakeClient()
    device = devices(name)[0]
    device.attach(client)
    device.region_write(7, 4, b"\x06\x00")
    seen = ""
    for level in (INTXCTL_ASSERT, 0, 0):
        write32(device, 0, Reg.INTXCTL, level)
        seen += str(read32(device, 7, 4) >> 19 & 1)
        device.end_of_interrupt()
        seen += f"{read32(device, 7, 4) >> 19 & 1} "
    return seen.rstrip(), set(client.interrupts)


def test_faults_of_intx() -> None:
    line = (Irq.INTX, 0)
    assert intx(None) == ("11 10 00", {line})
    assert intx("intx-dropped") == ("11 00 00", set())
    assert intx("intx-misdirected") == ("11 00 00", {(Irq.MSIX, 15)})
    assert intx("intx-doubled") == ("11 11 10", {line})
    assert intx("intx-storm") == ("11 00 00", {line})


def made(name: str | None) -> tuple[Exerciser, FakeClient]:
    """Return a device with a fault, or a sound one, whose guest has turned bus mastering on."""
    client = FakeClient()
    device = devices(name)[0]
    device.attach(client)
    device.region_write(7, 4, b"\x06\x00")
    return device, client


def test_constraints_ignored() -> None:
    for name, reason in ((None, DmaReason.ALIGNMENT), ("constraints-ignored", DmaReason.NONE)):
        device, _ = made(name)
        write32(device, 3, Ext.ALIGNMENT, 64)
        assert dma(device, BASE + 1, 8, write=True)["reason"] == reason
        assert read32(device, 3, Ext.ALIGNMENT) == 64


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [("held-outlives-bus-master", 4, b"\0\0"), ("held-outlives-reset", 0x48, b"\0\x80")],
)
def test_held_outlives(name: str, place: int, value: bytes) -> None:
    for fault, busy in ((None, 0), (name, 1)):
        device, _ = made(fault)
        write32(device, 3, Ext.HOLD, 1)
        dma(device, BASE, 8, write=True)
        device.region_write(7, place, value)
        if not device.config.claims_memory:
            device.region_write(7, 4, b"\6\0")  # as the kernel restores it
        assert read32(device, 0, Reg.DMACTL) & 1 == busy


def test_ring_skips_last() -> None:
    last = {}
    for name in (None, "ring-skips-last"):
        device, client = made(name)
        device.region_write(1, 0, DATA)
        chain = [
            RingDescriptor(BASE, 4, 0, RingFlag.WRITE_MEMORY | RingFlag.CHAIN),
            RingDescriptor(BASE + 8, 4, 4, RingFlag.WRITE_MEMORY),
        ]
        client.ram[0x100:0x140] = b"".join(each.pack() for each in chain)
        write32(device, 3, Ext.RING_BASE_LO, BASE + 0x100)
        write32(device, 3, Ext.RING_SIZE, 4)
        write32(device, 3, Ext.RING_CONTROL, 1)
        write32(device, 3, Ext.RING_DOORBELL, 2)
        found = record(device, 1)
        last[name] = (found["status"], found["moved"], bytes(client.ram[:12]))
    assert last[None] == (0, 8, DATA[:4] + bytes(4) + DATA[4:8])
    assert last["ring-skips-last"] == (0, 8, DATA[:4] + bytes(8))


def test_ring_refusal_lost() -> None:
    halted = RingStatus.REFUSED, 0, DmaReason.UNMAPPED << 16
    for name, seen in ((None, halted), ("ring-refusal-lost", (RingStatus.OK, 1, 0))):
        device, client = made(name)
        client.ram[:32] = RingDescriptor(0x4000_0000, 4, 0, RingFlag.WRITE_MEMORY).pack()
        write32(device, 3, Ext.RING_BASE_LO, BASE)
        write32(device, 3, Ext.RING_SIZE, 4)
        write32(device, 3, Ext.RING_CONTROL, 1)
        write32(device, 3, Ext.RING_DOORBELL, 1)
        registers = Ext.RING_STATUS, Ext.RING_COMPLETION, Ext.RING_REFUSED
        assert tuple(read32(device, 3, each) for each in registers) == seen


def test_message_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, asked in ((None, 1), ("message-not-sent", 0)):
        device, client = made(name)

        def memory(address: int, _length: int, *, write: bool) -> list[memoryview]:  # noqa: ARG001
            raise NoDescriptor(address)

        monkeypatch.setattr(client, "memory", memory)
        found = dma(device, BASE, 8, write=False)
        assert len(client.messages) == asked
        assert device.hold.in_flight == bool(asked)
        assert (found["valid"], found["moved"]) == ((0, 0) if asked else (1, 8))


def test_trace_of_words() -> None:
    for name, count in ((None, 5), ("trace-of-words", 10)):
        device, _ = made(name)
        write32(device, 0, Reg.TXN_CTRL, 1)
        device.region_write(1, 0, bytes(8))
        words = [read32(device, 0, Reg.TXN_TRACE) for _ in range(12)]
        assert words.index(0xFFFF_FFFF) == count


def test_own_bar_reached() -> None:
    for name, reached in ((None, 0), ("own-bar-reached", int.from_bytes(DATA[:4], "little"))):
        device, _ = made(name)
        device.region_write(7, 4, b"\x06\x00")
        write32(device, 7, 0x1C, 0x9000_0000)
        device.region_write(1, 0, DATA)
        dma(device, 0x9000_0000 + Ext.MAX_SEGMENT, 4, write=True)
        assert read32(device, 3, Ext.MAX_SEGMENT) == reached


def test_witness_ignores_pat() -> None:
    tables = Tables()
    tables.map(0x1000, 0x5000, TABLE | PAT_4K)
    mtrrs = Mtrrs(1 << 11 | 6, 40)
    pat = 0x0407_0506_0007_0106
    seen = {}
    for name in (None, "witness-ignores-pat"):
        platform = devices(name)[1]
        report = platform.models.witness(tables.read, pat, mtrrs).walk(tables.root, 0x1000, 1, 4)
        seen[name] = report.runs[0].pat_index
    assert seen == {None: 4, "witness-ignores-pat": 0}
    assert pat & 0xFF == MemoryType.WB


def test_witness_misplaces_pat() -> None:
    """In an entry for a large page alone; an entry for 4 KiB is read as it should be."""
    for flags, level, index in (
        (TABLE, 2, 4),
        (TABLE | PAT_LARGE, 2, 4),
        (TABLE | PAT_4K, 1, 4),
        (TABLE, 1, 0),
    ):
        tables = Tables()
        tables.map(0, 0x20_0000, flags, level=level)
        platform = devices("witness-misplaces-pat")[1]
        witness = platform.models.witness(tables.read, 0x0407_0506_0007_0106, Mtrrs(0x806, 40))
        assert witness.walk(tables.root, 0, 1, 4).runs[0].pat_index == index


def test_witness_ignores_rights() -> None:
    tables = Tables()
    tables.map(0x1000, 0x5000, 1 << 63 | 1)  # present, and nothing may be done with it but read
    for name, rights in (
        (None, (False, False, True)),
        ("witness-ignores-rights", (True, True, False)),
    ):
        witness = devices(name)[1].models.witness(
            tables.read, 0x0407_0506_0007_0106, Mtrrs(0x806, 40)
        )
        (run,) = witness.walk(tables.root, 0x1000, 1, 4).runs
        assert (run.writable, run.user, run.no_execute) == rights


def test_record_lost() -> None:
    for name, kept in ((None, 32), ("device-record-lost", 24)):
        device, _ = made(name)
        for _ in range(16):
            dma(device, BASE, 1, write=True)
            dma(device, BASE, 1, write=False)
        assert read32(device, 3, Ext.DMA_COUNT) == kept


def test_witness_ignores_mtrrs() -> None:
    tables = Tables()
    tables.map(0x1000, 0x5000, TABLE)
    mtrrs = Mtrrs(0x806, 40, ((0, (1 << 40) - 0x10000 | 1 << 11),))  # 64 KiB of UC
    seen = {}
    for name in (None, "witness-ignores-mtrrs"):
        platform = devices(name)[1]
        witness = platform.models.witness(tables.read, 0x0407_0506_0007_0106, mtrrs)
        seen[name] = witness.walk(tables.root, 0x1000, 1, 4).runs[0].effective.name
    assert seen == {None: "UC", "witness-ignores-mtrrs": "WB"}


def guarded(name: str | None) -> tuple[Exerciser, FakeClient, Platform]:
    """Return a device behind an enabled protection unit that grants reads of 64 bytes at BASE."""
    device, client = made(name)
    platform = devices(name)[1]
    guard(device, platform)
    return device, client, platform


def guard(device: Exerciser, platform: Platform) -> None:
    """Enable the platform's protection unit, with a grant of reads of 64 bytes at BASE."""
    device.bus.interconnect = platform.interconnect
    write32(platform, 0, Plat.GRANT_ADDRESS_LO, BASE)
    write32(platform, 0, Plat.GRANT_LENGTH_LO, 64)
    write32(platform, 0, Plat.GRANT_DIRECTION, GrantDirection.OUT)
    for command in ProtectionCommand.GRANT, ProtectionCommand.ENABLE:
        write32(platform, 0, Plat.PROTECTION_CTL, command)


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        (None, [True, False, False, False]),
        ("protection-end-off-by-one", [True, True, False, False]),
        ("protection-direction-swapped", [False, False, False, True]),
        ("protection-moves-prefix", [True, False, False, False]),
        ("protection-record-lost", [True, False, False, False]),
    ],
)
def test_what_a_protection_unit_with_a_fault_lets_through(
    name: str | None, passes: list[bool]
) -> None:
    device, _, platform = guarded(name)
    requests = ((64, False), (65, False), (66, False), (64, True))
    found = [dma(device, BASE, length, write=write) for length, write in requests]
    assert [each["status"] == 0 for each in found] == passes
    assert read32(platform, 0, Plat.FAULT_COUNT) == passes.count(False)


def test_protection_moves_prefix() -> None:
    for name, moved in ((None, 0), ("protection-moves-prefix", 64)):
        device, client, _ = guarded(name)
        client.ram[:100] = DATA
        assert dma(device, BASE, 65, write=False)["moved"] == 0
        assert device.region_read(1, 0, 65) == DATA[:moved].ljust(65, b"\0")


def test_protection_record_lost() -> None:
    for name, kept in ((None, 16), ("protection-record-lost", 14)):
        device, _, platform = guarded(name)
        for _ in range(16):
            dma(device, BASE, 1, write=True)
        assert read32(platform, 0, Plat.FAULT_COUNT) == kept


def traced(name: str | None, path: Path) -> tuple[list[tuple[int, str]], Platform]:
    """Return (moved, reason) of the requests in the trace, of which one is refused; the platform.

    The protection unit grants reads of 64 bytes.
    """
    exerciser, platform = Exerciser(Trace(path)), Platform(Trace())
    exerciser.attach(FakeClient())
    exerciser.region_write(7, 4, b"\x06\x00")
    FaultInjector([exerciser], platform).set(name)
    answer(platform)
    guard(exerciser, platform)
    dma(exerciser, BASE, 64, write=False)
    dma(exerciser, BASE, 64, write=True)
    events = map(json.loads, path.read_text().splitlines())
    requests = [event for event in events if event["event"] == "request"]
    return [(each["moved"], each["reason"]) for each in requests], platform


@pytest.mark.parametrize(
    ("name", "due"),
    [
        (None, [(64, "NONE"), (0, "PROTECTION_DIRECTION")]),
        ("trace-refusals-lost", [(64, "NONE")]),
        ("trace-transfers-lost", [(0, "PROTECTION_DIRECTION")]),
        (
            "device-reads-ahead",
            [
                *((0, "PROTECTION_OUTSIDE"), (64, "NONE")),
                *((0, "PROTECTION_OUTSIDE"), (0, "PROTECTION_DIRECTION")),
            ],
        ),
        ("device-reads-ahead-untraced", [(64, "NONE")]),
    ],
)
def test_what_is_in_the_trace(name: str | None, due: list[tuple[int, str]], tmp_path: Path) -> None:
    """The platform counts all the same."""
    found, platform = traced(name, tmp_path / "trace")
    assert found == due
    refused = 3 if (name or "").startswith("device-reads-ahead") else 1
    assert read32(platform, 0, Plat.REFUSED_COUNT) == refused
    assert read32(platform, 0, Plat.REQUEST_COUNT) == refused + 1


def test_platform_refusals_uncounted(tmp_path: Path) -> None:
    found, platform = traced("platform-refusals-uncounted", tmp_path / "trace")
    assert found == [(64, "NONE"), (0, "PROTECTION_DIRECTION")]
    assert read32(platform, 0, Plat.REQUEST_COUNT) == 2
    assert read32(platform, 0, Plat.REFUSED_COUNT) == 0


def test_hangs() -> None:
    """A write to DMACTL never ends: nor does this thread, which nobody waits for."""
    device, _ = made("device-hangs")
    ended = threading.Event()

    def write() -> None:
        write32(device, 0, Reg.DMACTL, 0)
        ended.set()

    threading.Thread(target=write, daemon=True).start()
    assert not ended.wait(0.2)


def test_every_fault_is_set_and_cleared_while_the_devices_run() -> None:
    exerciser, platform = Exerciser(Trace()), Platform(Trace())
    state = set(vars(exerciser)), set(vars(platform))
    switch, rules = FaultInjector([exerciser], platform), ProtectionRules()
    for name, fault in IMPLEMENTATIONS.items():
        switch.set(name)
        assert type(exerciser.behaviour) is (fault.exerciser or Exerciser)
        switch.set(None)
        assert exerciser.behaviour is exerciser
        assert (set(vars(exerciser)), set(vars(platform))) == state
        models = platform.models
        assert replace(models, protection=rules) == replace(PlatformModels(), protection=rules)
        assert type(models.protection) is ProtectionRules


@pytest.mark.parametrize(
    ("name", "places"),
    [(None, [0x40, 0x7C, 0x84]), ("device-capability-hidden", [0x40, 0x84])],
)
def test_hidden_capability_is_not_in_the_list(name: str | None, places: list[int]) -> None:
    """Whether it is read whole, or a byte at a time."""
    exerciser, _ = devices(name)
    whole = exerciser.region_read(7, 0, 256)
    assert whole == b"".join(exerciser.region_read(7, each, 1) for each in range(256))
    found = []
    place = whole[0x34]
    while place:
        found.append(place)
        place = whole[place + 1]
    assert found == places
