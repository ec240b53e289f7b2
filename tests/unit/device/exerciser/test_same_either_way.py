# SPDX-License-Identifier: Apache-2.0
"""A DMA that moves at once, and the same by the bus's queue: nobody can tell them apart.

Two boards get the same accesses, grants and changes of the client's map. One of them has no
`Bus.move_at_once`. Memory, the device's buffer, registers, faults and the trace are then the same.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dma_rehearsal.device.endpoints.routing import Fabric
from dma_rehearsal.device.exerciser.capabilities import OptionalCapability
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import (
    FUNCTION_NAMED,
    RID_VALID,
    DmaCtl,
    Ext,
    Plat,
    ProtectionCommand,
    Reg,
    RingDescriptor,
    RingFlag,
)
from dma_rehearsal.device.platform.platform import Platform
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.dma_map import DmaMap
from dma_rehearsal.device.vfio_user.messages import DmaMapFlag
from dma_rehearsal.device.vfio_user.model import Ask, FileRange, MappedRange
from tests.generated import examples
from tests.unit.device.fakes import answer, read32, record, start, write32

PAGE = 4096
BASE = 0x10_0000
FILE = 16 * PAGE
RW = DmaMapFlag.READ | DmaMapFlag.WRITE
# Bus address: pages, flags, page of the file; None: without a descriptor.
MAPPINGS = {
    BASE: (4, RW, 0),
    BASE + 4 * PAGE: (2, RW, 8),  # adjacent, and elsewhere in the file
    BASE + 8 * PAGE: (2, RW, 1),  # the bytes of the first
    BASE + 16 * PAGE: (2, DmaMapFlag.READ, 4),
    BASE + 20 * PAGE: (2, DmaMapFlag.WRITE, 6),
    BASE + 24 * PAGE: (2, RW, None),
}
OWN_BAR, PEER_BAR = BASE + 32 * PAGE, BASE + 40 * PAGE
EDGES = sorted(
    {each for at, (pages, _, _) in MAPPINGS.items() for each in (at, at + pages * PAGE)}
    | {OWN_BAR, OWN_BAR + PAGE, PEER_BAR, PEER_BAR + PAGE, 0, (1 << 64) - PAGE}
)
SELF, PEER = 0x20, 0x21  # requester IDs
RING = BASE + 3 * PAGE


class MappedMemory:
    """A client with a DMA map as the server keeps it, over a file that is mapped."""

    message_max = PAGE

    def __init__(self) -> None:
        self.file = os.memfd_create("memory", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        os.truncate(self.file, FILE)
        fcntl.fcntl(self.file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        os.pwrite(self.file, random.Random(1).randbytes(FILE), 0)
        self.map = DmaMap()
        self.interrupts: list[tuple[int, int]] = []
        self.asked: list[tuple[int, int, bytes | None]] = []
        for address in MAPPINGS:
            self.add(address)

    def add(self, address: int) -> None:
        pages, flags, page = MAPPINGS[address]
        descriptor = None if page is None else self.file
        self.map.add(address, pages * PAGE, flags, (page or 0) * PAGE, descriptor)

    def close(self) -> None:
        self.map.clear()
        os.close(self.file)

    def memory(self, address: int, length: int, *, write: bool) -> Any:
        return self.map.views(address, length, write=write)

    def file_ranges(self, address: int, length: int, *, write: bool) -> list[FileRange]:
        return self.map.file_ranges(address, length, write=write)

    def mapped_range(self, address: int, *, write: bool) -> MappedRange | None:
        return self.map.mapped_range(address, write=write)

    def ranges(self) -> Iterator[tuple[int, int]]:
        return self.map.ranges()

    def ask(self, ask: Ask, answered: Callable[[bytes], None]) -> None:
        self.asked.append((ask.address, ask.length, None if ask.data is None else bytes(ask.data)))
        answered(b"" if ask.data is not None else b"\xa5" * ask.length)

    def armed(self, index: int, subindex: int) -> bool:
        del index, subindex
        return True

    def trigger(self, index: int, subindex: int) -> bool:
        self.interrupts.append((index, subindex))
        return True


class Board:
    """An exerciser, a peer whose BAR it reaches, and the platform."""

    def __init__(self, trace: Trace, *, at_once: bool, behind_iommu: bool, told: bool) -> None:
        self.client = MappedMemory()
        self.platform = Platform(trace)
        fabric = Fabric()
        every = OptionalCapability
        self.ours = Exerciser(trace, buffer_size=PAGE, capabilities=[*every], fabric=fabric)
        self.peer = Exerciser(trace, buffer_size=PAGE, fabric=fabric)
        self.platform.attach(self.client)
        answer(self.platform)
        for number, device, bar in ((SELF, self.ours, OWN_BAR), (PEER, self.peer, PEER_BAR)):
            device.bus.interconnect = self.platform.interconnect
            device.bus.behind_iommu = behind_iommu
            device.requester_id = number if told else None
            device.attach(self.client)
            start(device)
            device.region_write(7, 0x14, bar.to_bytes(4, "little"))
            write32(device, 3, Ext.RING_BASE_LO, RING)
            write32(device, 3, Ext.RING_SIZE, 16)
        self.taken = 0
        bus = self.ours.bus
        moved_at_once = bus.move_at_once

        def either(*arguments: Any, **how: Any) -> int | None:
            found = moved_at_once(*arguments, **how) if at_once else None
            self.taken += found is not None
            return found

        bus.move_at_once = either  # type: ignore[method-assign]

    def act(self, step: tuple[Any, ...]) -> None:
        """Do one step, which `steps` makes."""
        kind, *rest = step
        getattr(self, f"act_{kind}")(*rest)

    def act_dma(self, address: int, length: int, offset: int, control: int, rid: int) -> None:
        write32(self.ours, 0, Reg.RID_CTL, rid)
        write32(self.ours, 0, Reg.DMA_BUS_ADDR_LO, address)
        write32(self.ours, 0, Reg.DMA_BUS_ADDR_HI, address >> 32)
        write32(self.ours, 0, Reg.DMA_LEN, length)
        write32(self.ours, 0, Reg.DMA_OFFSET, offset)
        write32(self.ours, 0, Reg.DMACTL, DmaCtl.TRIGGER | control)

    def act_ring(self, chain: list[tuple[int, int, int, int]]) -> None:
        """Run descriptors, laid by the CPU: two pieces of the buffer that touch are one."""
        descriptors = b"".join(RingDescriptor(*each).pack() for each in chain)
        os.pwrite(self.client.file, descriptors, RING - BASE)
        for register, value in (
            (Ext.RING_CONTROL, 0),
            (Ext.RING_CONTROL, 1),
            (Ext.RING_DOORBELL, len(chain)),
        ):
            write32(self.ours, 3, register, value)

    def act_register(self, bar: int, register: int, value: int) -> None:
        write32(self.ours, bar, register, value)

    def act_command(self, value: int) -> None:
        self.ours.region_write(7, 4, bytes([value]))

    def act_store(self, place: int, value: int) -> None:
        os.pwrite(self.client.file, bytes([value]) * 100, place)

    def act_map(self, address: int) -> None:
        if any(at == address for at, _ in self.client.map.ranges()):
            self.client.map.remove(address, MAPPINGS[address][0] * PAGE)
            self.ours.unmapped(address, MAPPINGS[address][0] * PAGE)
        else:
            self.client.add(address)

    def act_protect(self, command: int, address: int, length: int, how: int, function: int) -> None:
        for register, value in (
            (Plat.GRANT_ADDRESS_LO, address),
            (Plat.GRANT_LENGTH_LO, length),
            (Plat.GRANT_OWNER_LO, how),
        ):
            write32(self.platform, 0, register, value)
            write32(self.platform, 0, register + 4, value >> 32)
        write32(self.platform, 0, Plat.GRANT_DIRECTION, how)
        write32(self.platform, 0, Plat.GRANT_FUNCTION, function)
        write32(self.platform, 0, Plat.PROTECTION_CTL, command)

    def seen(self) -> dict[str, Any]:
        """Return all that software, a peer and the trace can see."""
        ours, client = self.ours, self.client
        count = read32(ours, 3, Ext.DMA_COUNT)
        interconnect = self.platform.interconnect
        return {
            "memory": os.pread(client.file, FILE, 0),
            "buffers": [bytes(each.buffer) for each in (ours, self.peer)],
            "records": [record(ours, number) for number in range(1, count + 1)],
            "registers": [
                *(read32(ours, 0, each) for each in Reg),
                *(read32(ours, 3, each) for each in Ext),
                *(read32(self.platform, 0, each) for each in Plat if each.name[:4] != "MAIL"),
            ],
            "transactions": list(ours.bus.transactions),
            "refused": [
                interconnect.refusals.get(number)
                for number in range(1, interconnect.refusals.count + 1)
            ],
            "sequence": interconnect.sequence,
            "interrupts": client.interrupts,
            "asked": client.asked,
        }


offsets = st.sampled_from([-100, -64, -1, 0, 1, 64, 100, PAGE - 3, PAGE])
lengths = st.sampled_from([0, 1, 3, 64, 100, 1000, PAGE - 1, PAGE])
# Mostly where the memory is; an address is 64 bits wide.
addresses = st.tuples(st.sampled_from([BASE, *EDGES]), offsets).map(
    lambda pair: sum(pair) % (1 << 64)
)
places = st.sampled_from([0, 0, 1, 64, 100, 2048, PAGE - 100, PAGE - 1, PAGE])
controls = st.sampled_from([0, DmaCtl.WRITE_MEMORY]).flatmap(
    lambda way: st.sampled_from(
        [0, 0, 0, DmaCtl.NO_SNOOP, DmaCtl.USE_ATC, DmaCtl.PASID, 1 << 10, 2 << 10]
    ).map(lambda more: way | more)
)
rids = st.sampled_from([0, 0, RID_VALID | SELF, RID_VALID | PEER])
flags = st.sampled_from([0, RingFlag.WRITE_MEMORY]).flatmap(
    lambda way: st.sampled_from([0, RingFlag.CHAIN, RingFlag.NO_SNOOP, RingFlag.INTERRUPT]).map(
        lambda more: int(way | more)
    )
)
chains = st.lists(st.tuples(addresses, lengths, places, flags), min_size=1, max_size=5)


@st.composite
def adjoining(draw: st.DrawFn) -> list[tuple[int, int, int, int]]:
    """Draw a chain whose side of the buffer is mostly one piece."""
    way = draw(st.sampled_from([0, int(RingFlag.WRITE_MEMORY)]))
    count, offset, found = draw(st.integers(1, 5)), draw(places), []
    start_at = draw(st.sampled_from([BASE, BASE + 4 * PAGE, BASE + 8 * PAGE]))
    for index in range(count):
        length = draw(st.sampled_from([1, 3, 64, 100, 1000]))
        address = start_at + draw(st.sampled_from([0, 0, 10, 64, PAGE - 1, 2 * PAGE - 1]))
        chain = int(RingFlag.CHAIN) if index < count - 1 else 0
        found.append((address, length, offset, way | chain))
        offset += length
    return found


grants = st.tuples(
    st.just("protect"),
    st.sampled_from([ProtectionCommand.GRANT, ProtectionCommand.GRANT_TO_FUNCTION] * 3)
    | st.sampled_from([*ProtectionCommand]),
    addresses,
    lengths | st.sampled_from([4 * PAGE, 32 * PAGE]),
    st.integers(1, 3),
    st.sampled_from([FUNCTION_NAMED | SELF, FUNCTION_NAMED | PEER, 0, SELF]),
)
steps = st.one_of(
    st.tuples(st.just("dma"), addresses, lengths, places, controls, rids),
    st.tuples(st.just("dma"), st.just(BASE), lengths, places, controls, rids),
    st.tuples(st.just("ring"), chains),
    st.tuples(st.just("ring"), adjoining()),
    grants,
    st.tuples(st.just("map"), st.sampled_from([*MAPPINGS])),
    st.tuples(st.just("store"), st.integers(0, FILE - 100), st.integers(0, 255)),
    st.tuples(st.just("command"), st.sampled_from([6, 6, 6, 2])),
    st.tuples(
        st.just("register"),
        st.just(3),
        st.sampled_from([Ext.HOLD, Ext.STEP, Ext.ALIGNMENT, Ext.MAX_SEGMENT, Ext.BOUNDARY]),
        st.sampled_from([0, 0, 1, 64, PAGE]),
    ),
)


@contextmanager
def board(folder: Path, *, at_once: bool, **how: bool) -> Iterator[Board]:
    trace = Trace(folder / f"{at_once}.jsonl")
    made = Board(trace, at_once=at_once, **how)
    try:
        yield made
    finally:
        trace.close()
        for each in (made.ours, made.peer, made.platform):
            each.detach()
        made.client.close()


def events(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: fact for name, fact in each.items() if name != "time"} for each in found]


@settings(max_examples=examples(400), deadline=None)
@given(st.lists(steps, min_size=1, max_size=12), st.booleans(), st.booleans())
def test_nobody_can_tell(order: list[tuple[Any, ...]], behind_iommu: bool, told: bool) -> None:
    how = {"behind_iommu": behind_iommu, "told": told}
    with TemporaryDirectory() as name:
        folder = Path(name)
        with board(folder, at_once=True, **how) as one, board(folder, at_once=False, **how) as two:
            for step in order:
                one.act(step)
                two.act(step)
                assert one.seen() == two.seen()
        assert two.taken == 0
        assert events(folder / "True.jsonl") == events(folder / "False.jsonl")


@pytest.mark.parametrize("write", [False, True])
def test_what_is_generated_moves_at_once(tmp_path: Path, write: bool) -> None:
    with board(tmp_path, at_once=True, behind_iommu=False, told=True) as made:
        made.act_dma(BASE, 64, 0, DmaCtl.WRITE_MEMORY if write else 0, 0)
        way = RingFlag.WRITE_MEMORY if write else RingFlag(0)
        made.act_ring([(BASE, 64, 0, int(way | RingFlag.CHAIN)), (BASE + 10, 64, 64, int(way))])
        assert made.taken == 2
