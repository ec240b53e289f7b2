# SPDX-License-Identifier: Apache-2.0
"""DMA through mapped memory, without sockets: the bus, the exerciser on top of it, and its ring."""

from __future__ import annotations

import fcntl
import itertools
import os
import random
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from dma_rehearsal.device.endpoints.bus import Bus
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import DmaCtl, Ext, Reg, RingDescriptor, RingFlag
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.connection import Connection
from dma_rehearsal.device.vfio_user.framing import Message
from dma_rehearsal.device.vfio_user.messages import HEADER_SIZE, Command, DmaMap, Flags, Header
from tests.bench.registry import Row, Work, at_least, benchmark, compare, seconds

MIB = 1 << 20
BASE = 0x1000_0000
RAM = 64 * MIB
PAGE = 4096
SIZES = (1 << 16, 1 << 18, MIB, 4 * MIB, 16 * MIB)
GOAL_FROM = MIB
SCATTERED = 1024  # pages


def command(command: int, payload: bytes, *descriptors: int) -> Message:
    """Return a message as it is handed to a connection."""
    header = Header(1, command, HEADER_SIZE + len(payload), Flags.COMMAND, 0)
    return Message(header, payload, list(descriptors))


@contextmanager
def connected(device: Exerciser) -> Iterator[Connection]:
    """Have a client that granted 64 MiB as QEMU does, and bus mastering on."""
    connection = Connection(device)
    memory = os.memfd_create("ram", os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(memory, RAM)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        connection.handle(command(Command.VERSION, bytes(4)))
        grant = DmaMap(32, 3, 0, BASE, RAM).pack()
        connection.handle(command(Command.DMA_MAP, grant, os.dup(memory)))
        device.region_write(7, 4, b"\x06\x00")
        connection.outbox.clear()
        device.bus.write(BASE, bytes(RAM))  # or the first touch of each page would be measured
        yield connection
    finally:
        connection.close()
        os.close(memory)


def _write32(device: Exerciser, bar: int, offset: int, value: int) -> None:
    device.region_write(bar, offset, struct.pack("<I", value))


def _places(size: int) -> Iterator[int]:
    """Yield one place in RAM after the other, so that no cache of the CPU holds the next."""
    return itertools.cycle(range(0, RAM - size + 1, size))


def _rate(length: int, taken: float) -> str:
    return f"{length / taken / 1e9:.1f} GB/s"


def _name(length: int) -> str:
    return f"{length // MIB} MiB" if length >= MIB else f"{length // 1024} KiB"


@benchmark("an endpoint's DMA through mapped memory, against a memcpy of the same bytes")
def memcpy() -> Iterator[Row]:
    """Both ways, contiguous; then the exerciser's DMA, which also takes a CRC-32."""
    device = Exerciser(Trace(), buffer_size=16 * MIB)
    source, target = bytearray(os.urandom(MIB) * 16), memoryview(bytearray(16 * MIB))
    with connected(device) as connection:
        (view,) = connection.memory(BASE, RAM, write=True)
        assert isinstance(view, memoryview), "sealed memory is mapped"
        view[: len(source)] = source
        for size in SIZES:
            goal = at_least(0.9) if size >= GOAL_FROM else None
            for way, ours, theirs in _ways(device.bus, view, bytes(source[:size])):
                found = compare(ours, theirs, max(1, MIB // size), 60)
                rates = f"{_rate(size, found.ours)}, memcpy {_rate(size, found.theirs)}"
                yield Row(f"bus.{way} of {_name(size)}", rates, found.ratio, goal)
        for way, control in (("write", DmaCtl.WRITE_MEMORY), ("read", DmaCtl(0))):
            yield from _exerciser(device, way, DmaCtl.TRIGGER | control, view, target)
        view.release()


def _ways(bus: Bus, view: memoryview, data: bytes) -> list[tuple[str, Work, Work]]:
    """Return both ways of a DMA with the memcpy that goes the same way, each at another place."""
    size = len(data)
    places = _places(size)

    def to_memory() -> None:
        start = next(places)
        view[start : start + size] = data

    def from_memory() -> bytes:
        start = next(places)
        return bytes(view[start : start + size])

    return [
        ("write", lambda: bus.write(BASE + next(places), data), to_memory),
        ("read", lambda: bus.read(BASE + next(places), size), from_memory),
    ]


def _exerciser(
    device: Exerciser, way: str, control: int, view: memoryview, target: memoryview
) -> Iterator[Row]:
    size = 4 * MIB
    for register, value in ((Reg.DMA_BUS_ADDR_LO, BASE), (Reg.DMA_LEN, size)):
        _write32(device, 0, register, value)

    def copy_and_check() -> None:
        target[:size] = view[:size]
        zlib.crc32(target[:size])

    found = compare(lambda: _write32(device, 0, Reg.DMACTL, control), copy_and_check)
    rates = f"{_rate(size, found.ours)}, memcpy and CRC-32 {_rate(size, found.theirs)}"
    yield Row(f"the exerciser's {way} of {_name(size)}", rates, found.ratio)


@benchmark("4 MiB over 1,024 scattered pages, against as much in one piece")
def scattered() -> Iterator[Row]:
    """By a bare loop, which is the floor; the bus's lists; the ring, which also takes a CRC-32.

    Lists miss the goal where the bare loop does. The ring misses it, and in Python it must: its
    descriptor is made, checked and sliced in some 0.8 us, as long as the copy and the CRC-32 of its
    4 KiB take.
    """
    size = SCATTERED * PAGE
    device = Exerciser(Trace(), buffer_size=size)
    pages = [
        BASE + PAGE * index for index in random.Random(1).sample(range(RAM // PAGE // 2), SCATTERED)
    ]
    data, whole = bytes(size), _places(size)
    with connected(device) as connection:
        bus: Bus = device.bus
        window = connection.mapped_range(BASE, write=True)
        assert window is not None
        memory = window.memory
        lists = [(page, PAGE) for page in pages]
        pieces = [(page, data[:PAGE]) for page in pages]

        def stores() -> None:
            for address, piece in pieces:
                memory[address - BASE : address - BASE + PAGE] = piece

        for way, floor, ours, theirs in (
            (
                "read",
                lambda: [memory[page - BASE : page - BASE + PAGE] for page in pages],
                lambda: bus.read_list(lists),
                lambda: bus.read(BASE + next(whole), size),
            ),
            (
                "write",
                stores,
                lambda: bus.write_list(pieces),
                lambda: bus.write(BASE + next(whole), data),
            ),
        ):
            for what, work, goal in (
                (f"a bare loop of slices, {way}", floor, None),
                (f"bus.{way}_list", ours, at_least(0.8)),
            ):
                found = compare(work, theirs)
                rates = f"{_rate(size, found.ours)}, in one {_rate(size, found.theirs)}"
                yield Row(what, rates, found.ratio, goal)
        for way, flag in (("read", RingFlag(0)), ("write", RingFlag.WRITE_MEMORY)):
            chain = [
                RingDescriptor(page, PAGE, PAGE * index, flag | RingFlag.CHAIN)
                for index, page in enumerate(pages)
            ]
            chain[-1] = RingDescriptor(pages[-1], PAGE, size - PAGE, flag)
            ours = partial(_ring, device, BASE + 48 * MIB, chain)
            theirs = partial(_ring, device, BASE + 56 * MIB, [RingDescriptor(BASE, size, 0, flag)])
            found = compare(ours, theirs)
            rates = f"{_rate(size, found.ours)}, in one {_rate(size, found.theirs)}"
            yield Row(f"one {way} of the ring", rates, found.ratio, at_least(0.7))


def _ring(device: Exerciser, base: int, descriptors: list[RingDescriptor]) -> None:
    """Enable a ring that was laid before, or lay it, and run all of it."""
    size = RingDescriptor.STRUCT.size
    if device.bus.read(base, size) != descriptors[0].pack():
        device.bus.write(base, b"".join(each.pack() for each in descriptors))
    _write32(device, 3, Ext.RING_CONTROL, 0)
    for register, value in (
        (Ext.RING_BASE_LO, base),
        (Ext.RING_SIZE, max(2, len(descriptors) + 1)),
        (Ext.RING_CONTROL, 1),
        (Ext.RING_DOORBELL, len(descriptors)),
    ):
        _write32(device, 3, register, value)


@benchmark("descriptors of the ring, each a transfer of its own")
def ring() -> Iterator[Row]:
    """In isolation: no socket, no guest."""
    count = 4000
    device = Exerciser(Trace())
    with connected(device):
        for length in (64, PAGE):
            lists = [
                RingDescriptor(BASE + length * index, length, 0, RingFlag.WRITE_MEMORY)
                for index in range(count)
            ]
            work = partial(_ring, device, BASE + 48 * MIB, lists)
            work()
            each = min(seconds(work) for _ in range(5)) / count
            yield Row(
                f"{length} bytes each", f"{1 / each:,.0f} a second", each * 1e6, unit="us each"
            )
