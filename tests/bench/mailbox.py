# SPDX-License-Identifier: Apache-2.0
"""The device's side of a driver's mappings: what the batches of a map and an unmap cost it.

The guest's side comes on top: the kernel module, the exit to QEMU, and the socket.
"""

from __future__ import annotations

import fcntl
import os
import statistics
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from dma_rehearsal.device.layout import CacheCommand, CacheModelMode, Plat
from dma_rehearsal.device.layout.mailbox import MAIL_TAG_BASE, DmaCall, MailCommand, MailRecord
from dma_rehearsal.device.platform.platform import Platform
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.connection import Connection
from dma_rehearsal.device.vfio_user.framing import Message
from dma_rehearsal.device.vfio_user.messages import HEADER_SIZE, Command, DmaMap, Flags, Header
from tests.bench.registry import ROUNDS, Row, at_most, benchmark, seconds

MIB = 1 << 20
RAM = 256 * MIB
TABLES = MIB  # where the page tables lie, and behind them the batches
BATCH = 2 * MIB
BUFFERS = 16 * MIB  # the rest is buffers
DIRECT_MAP = 0xFFFF_8880_0000_0000  # Linux's, of all memory by pages of 2 MiB
LINUX_PAT = 0x0407_0506_0007_0106
WRITE_BACK = 1 << 11 | 6  # IA32_MTRR_DEF_TYPE
IN = 1
FRAME = 2048
MAPPED = 65_000
REPEAT = 200
CALLERS = (0xFFFF_FFFF_C000_1234, 0xFFFF_FFFF_8123_4567, 0, 0)
# The goals of a pair in a guest are 250 us and 700 us; the device may take half.
GRANTS_US, CACHE_US = 125, 350


def _message(command: int, payload: bytes, *descriptors: int) -> Message:
    header = Header(1, command, HEADER_SIZE + len(payload), Flags.COMMAND, 0)
    return Message(header, payload, list(descriptors))


class _Bench:
    """A platform with a client's memory, page tables in it, and batches."""

    def __init__(self, trace: Trace, memory: int) -> None:
        self.platform = Platform(trace)
        self.connection = Connection(self.platform)
        self.connection.handle(_message(Command.VERSION, bytes(4)))
        grant = DmaMap(32, 3, 0, 0, RAM).pack()
        self.connection.handle(_message(Command.DMA_MAP, grant, os.dup(memory)))
        self.connection.outbox.clear()
        self.platform.region_write(7, 4, b"\x06\x00")
        self.memory = memory
        self._tags = MAIL_TAG_BASE
        self._map_all()

    def _map_all(self) -> None:
        """Lay page tables as Linux's direct map has them, and tell the witness the types."""
        top, middle, low = TABLES, TABLES + 4096, TABLES + 8192
        for table, index, entry in (
            (top, DIRECT_MAP >> 39 & 0x1FF, middle | 3),
            (middle, 0, low | 3),
            *((low, index, index * 2 * MIB | 0x83) for index in range(RAM // (2 * MIB))),
        ):
            os.pwrite(self.memory, struct.pack("<Q", entry), table + 8 * index)
        for register, value in (
            (Plat.PAT_LO, LINUX_PAT & 0xFFFF_FFFF),
            (Plat.PAT_HI, LINUX_PAT >> 32),
            (Plat.MTRR_DEF_TYPE_LO, WRITE_BACK),
            (Plat.PHYSICAL_BITS, 40),
            (Plat.MAIL_ADDRESS_LO, BATCH),
        ):
            self.write(register, value)

    def write(self, register: int, value: int) -> None:
        self.platform.region_write(0, register, struct.pack("<I", value))

    def caches(self) -> None:
        """Turn the cache model on."""
        self.write(Plat.CACHE_MODE, CacheModelMode.STRICT)
        self.write(Plat.CACHE_LINE, 64)
        self.write(Plat.CACHE_CTL, CacheCommand.CONFIGURE)

    def tag(self) -> int:
        self._tags += 1
        return self._tags

    def send(self, records: list[MailRecord]) -> None:
        """Do what the kernel module does: lay the batch, and read the register."""
        os.pwrite(self.memory, b"".join(each.pack() for each in records), BATCH)
        self.go(len(records))

    def go(self, count: int) -> None:
        """Carry out what lies there."""
        self.write(Plat.MAIL_COUNT, count)
        answer = self.platform.region_read(0, Plat.MAIL_GO, 4)
        assert answer == bytes(4), answer.hex()


def _map(tag: int, address: int, length: int, *, cache: bool) -> list[MailRecord]:
    found = [MailRecord(MailCommand.GRANT, IN, tag, address=address, length=length)]
    if cache:
        track = replace(found[0], command=MailCommand.TRACK)
        found += [
            replace(track, virtual=DIRECT_MAP + address, root=TABLES, levels=4),
            MailRecord(MailCommand.SYNC_FOR_DEVICE, IN, tag, length=length),
        ]
    return [replace(each, call=DmaCall.MAP_PAGE, callers=CALLERS) for each in found]


def _unmap(tag: int, length: int, *, cache: bool) -> list[MailRecord]:
    found = [MailRecord(MailCommand.WITHDRAW, tag=tag)]
    if cache:
        found.append(MailRecord(MailCommand.SYNC_FOR_CPU, IN, tag, length=length))
        found.append(MailRecord(MailCommand.UNTRACK, tag=tag))
    return [replace(each, call=DmaCall.UNMAP_PAGE, callers=CALLERS) for each in found]


@contextmanager
def _bench() -> Iterator[_Bench]:
    memory = os.memfd_create("ram", os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, RAM)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    with tempfile.TemporaryDirectory() as folder:
        trace = Trace(Path(folder, "trace"))
        bench = _Bench(trace, memory)
        try:
            yield bench
        finally:
            bench.connection.close()
            trace.close()
            os.close(memory)


def _pair(bench: _Bench, *, cache: bool) -> float:
    """Return the microseconds of the device for a map and an unmap of one frame."""
    address = RAM - MIB
    tag = bench.tag()
    batches = _map(tag, address, FRAME, cache=cache), _unmap(tag, FRAME, cache=cache)
    packed = [(len(each), b"".join(record.pack() for record in each)) for each in batches]

    def pair() -> None:
        for count, batch in packed:
            os.pwrite(bench.memory, batch, BATCH)
            bench.go(count)

    pair()
    return statistics.median(seconds(pair, REPEAT) for _ in range(ROUNDS)) * 1e6


def _fill(bench: _Bench, count: int, length: int, *, cache: bool) -> None:
    """Have so many mappings in force, each in a page of its own where there is room."""
    step = min(4096, (RAM - BUFFERS - 2 * MIB) // max(count, 1) & ~63)
    for start in range(0, count, 16):
        records: list[MailRecord] = []
        for index in range(start, min(start + 16, count)):
            records += _map(bench.tag(), BUFFERS + index * step, length, cache=cache)
        bench.send(records)


@benchmark("a map and an unmap of 2 KiB by the mailbox: what they cost the device")
def mailbox() -> Iterator[Row]:
    """With grants alone, and with the cache model; with nothing else in force, and with a lot."""
    for cache, goal in (False, GRANTS_US), (True, CACHE_US):
        what = "grants and the cache model" if cache else "grants"
        for others, length in (0, 0), (MAPPED, 64):
            with _bench() as bench:
                if cache:
                    bench.caches()
                _fill(bench, others, length, cache=cache)
                taken = _pair(bench, cache=cache)
            beside = f", beside {others:,} mappings" if others else ""
            yield Row(f"{what}{beside}", f"{taken:.0f} us", taken, at_most(goal), unit="us")
