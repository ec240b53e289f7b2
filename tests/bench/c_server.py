# SPDX-License-Identifier: Apache-2.0
"""The exerciser beside a device in C on libvfio-user: the same messages of one client, by turns.

The client takes the time by the wall clock: from the write of a doorbell until it has read the
interrupt's eventfd, and from the write that triggers a DMA until its reply. The exerciser checks
each DMA and keeps a record with its CRC-32 in every row. The device in C copies, and takes zlib's
CRC-32 in the rows that say so. Pinned, the client has one CPU and the servers another.
"""

from __future__ import annotations

import fcntl
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dma_rehearsal.device.layout import MSICTL_TRIGGER, DmaCtl, DmaStatus, Reg
from dma_rehearsal.device.vfio_user.messages import (
    HEADER_SIZE,
    Command,
    Header,
    Irq,
    RegionAccess,
    SetIrqsFlag,
)
from tests.bench import libvfio_user
from tests.bench.registry import Goal, Row, at_most, benchmark
from tests.unit.vfio_user.client import RawClient

NAME = "c_server"
MIB = 1 << 20
PAGE = 4096
BASE = 0x1000_0000
RAM = 16 * MIB
ROUNDS = 41
START_S = 30
_REPLY_SIZE = HEADER_SIZE + 16


@dataclass(frozen=True, slots=True)
class _Server:
    """A server's process, and the client that is connected to it."""

    process: int
    client: RawClient
    interrupt: int  # the eventfd of vector 0


@dataclass(frozen=True, slots=True)
class _Case:
    """One thing to measure: ``count`` calls of ``once`` in a turn, after ``prepare``."""

    what: str
    prepare: Callable[[_Server], None]
    once: Callable[[_Server], float]
    count: int
    goal: Goal


@contextmanager
def _started(command: list[str], socket: Path, memory: int) -> Iterator[_Server]:
    """Have a server that says "ready", with a client that granted memory and has its interrupt."""
    with ExitStack() as after:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        after.callback(process.communicate)
        after.callback(process.kill)
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError(f"{command[0]} ended with status {process.wait(START_S)}")
        interrupt = os.eventfd(0, os.EFD_CLOEXEC)
        after.callback(os.close, interrupt)
        client = after.enter_context(RawClient(socket))
        client.start()
        client.dma_map(BASE, RAM, memory)
        flags = SetIrqsFlag.DATA_EVENTFD | SetIrqsFlag.ACTION_TRIGGER
        client.set_irqs(flags, Irq.MSIX, 0, 1, descriptors=[interrupt])
        client.socket.settimeout(None)  # or each call would poll() first
        yield _Server(process.pid, client, interrupt)


@contextmanager
def _memory() -> Iterator[int]:
    descriptor = os.memfd_create("ram", os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, RAM)
        os.pwrite(descriptor, os.urandom(MIB) * (RAM // MIB), 0)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        yield descriptor
    finally:
        os.close(descriptor)


def _write_message(register: int, value: int) -> bytes:
    payload = RegionAccess(register, 0, 4).pack() + struct.pack("<I", value)
    size = HEADER_SIZE + len(payload)
    return Header(1, Command.REGION_WRITE, size, 0, 0).pack() + payload


def _doorbell(message: bytes, server: _Server) -> float:
    stream = server.client.socket
    start = time.perf_counter()
    stream.send(message)
    os.eventfd_read(server.interrupt)
    taken = time.perf_counter() - start
    stream.recv(_REPLY_SIZE)
    return taken


def _access(message: bytes, server: _Server) -> float:
    stream = server.client.socket
    start = time.perf_counter()
    stream.send(message)
    stream.recv(_REPLY_SIZE)
    return time.perf_counter() - start


def _registers(server: _Server, length: int, crc: bool) -> None:
    for register, value in (
        (Reg.DMA_BUS_ADDR_LO, BASE),
        (Reg.DMA_LEN, length),
        (libvfio_user.CRC_ON, int(crc)),
    ):
        server.client.write32(0, register, value)


def _nothing(_server: _Server) -> None:
    pass


def _cases() -> Iterator[_Case]:
    ring = partial(_doorbell, _write_message(Reg.MSICTL, MSICTL_TRIGGER))
    yield _Case("a doorbell to its interrupt", _nothing, ring, 300, at_most(1.0))
    for length, crc, count, goal in ((PAGE, False, 200, 1.5), (MIB, True, 20, 1.1)):
        prepare = partial(_registers, length=length, crc=crc)
        name = "1 MiB, CRC-32 in C too" if crc else "4 KiB, a bare copy in C"
        for way, control in (("read", DmaCtl(0)), ("write", DmaCtl.WRITE_MEMORY)):
            access = partial(_access, _write_message(Reg.DMACTL, DmaCtl.TRIGGER | control))
            yield _Case(f"DMA {way} of {name}", prepare, access, count, at_most(goal))


def _places() -> Iterator[tuple[str, int | None, int | None]]:
    """Yield the ways to place the processes: words, the client's CPU and the servers'."""
    yield "unpinned", None, None
    first, *others = sorted(os.sched_getaffinity(0))
    if others:
        yield "pinned", first, others[0]


@contextmanager
def _pinned(client: int | None, servers: int | None, processes: list[int]) -> Iterator[None]:
    """Keep the client on one CPU and all threads of the servers on another; None: on any."""
    if client is None or servers is None:
        yield
        return
    before = os.sched_getaffinity(0)
    threads = [int(each.name) for one in processes for each in Path(f"/proc/{one}/task").iterdir()]
    try:
        os.sched_setaffinity(0, {client})
        for thread in threads:
            os.sched_setaffinity(thread, {servers})
        yield
    finally:
        for thread in (0, *threads):
            os.sched_setaffinity(thread, before)


def _compared(case: _Case, ours: _Server, theirs: _Server, how: str) -> Row:
    """Measure by turns: the median of a turn's calls, and the median of the turns' ratios."""
    taken: tuple[list[float], list[float]] = ([], [])
    for server in (ours, theirs):
        case.prepare(server)
        case.once(server)
    for _ in range(ROUNDS):
        for server, found in zip((ours, theirs), taken, strict=True):
            found.append(statistics.median(case.once(server) for _ in range(case.count)))
    own, other = (statistics.median(found) * 1e6 for found in taken)
    ratio = statistics.median(one / two for one, two in zip(*taken, strict=True))
    return Row(f"{case.what}, {how}", f"{own:.1f} us, C {other:.1f} us", ratio, case.goal)


@benchmark("a device on libvfio-user, in C, against the exerciser: the same client's messages")
def c_server() -> Iterator[Row]:
    """Yield nothing without the sources, and say how to get them."""
    library = libvfio_user.sources()
    if library is None:
        print(libvfio_user.GET)
        return
    with tempfile.TemporaryDirectory() as name, ExitStack() as after:
        folder = Path(name)
        program = libvfio_user.build(library, folder, MIB)
        memory = after.enter_context(_memory())
        own, other = folder / "ours", folder / "theirs"
        device = [
            *(sys.executable, "-m", "dma_rehearsal.device", "--buffer-size", str(MIB)),
            *("--exerciser-socket", str(own), "--platform-socket", str(folder / "platform")),
        ]
        ours = after.enter_context(_started(device, own, memory))
        theirs = after.enter_context(_started([str(program), str(other)], other, memory))
        for how, client, servers in _places():
            with _pinned(client, servers, [ours.process, theirs.process]):
                for case in _cases():
                    yield _compared(case, ours, theirs, how)
        if (status := ours.client.read32(0, Reg.DMASTATUS)) != DmaStatus.OK:
            raise RuntimeError(f"the exerciser refused a DMA: DMASTATUS is {status}")
