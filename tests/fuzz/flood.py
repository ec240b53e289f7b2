# SPDX-License-Identifier: Apache-2.0
"""A flood against a device process, and what its memory, descriptors and mappings do meanwhile.

    python -m tests.fuzz.flood [SECONDS]      600 by default

One client after the other does what costs a server memory: posted writes without an end, maps and
unmaps, DMA by messages that is never answered, interrupts, malformed messages, connections. The
figures are printed ten times, and the status is 1 when one of them grew after the first of these.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dma_rehearsal.device.layout import DmaCtl, Ext, Reg
from dma_rehearsal.device.vfio_user import messages as wire
from dma_rehearsal.device.vfio_user.messages import HEADER_SIZE, Command, Flags
from tests.unit.vfio_user.client import RawClient, Refused

SAMPLES = 10
MEMORY = 1 << 20
# The memory that the allocator of Python or libc may keep from one sample to another.
SLACK_KIB = 2048
PAGE = 4096
BASE, BARE = 0x10_0000, 0x1000_0000  # with a descriptor, and without
WRITES, MAPS, JUNK, LEFT = 2000, 500, 50, 8


@dataclass(frozen=True, slots=True)
class Sample:
    """The holdings of a process: resident memory in KiB, open descriptors, mappings."""

    resident: int
    descriptors: int
    mappings: int


def sample(pid: int) -> Sample:
    process = Path("/proc") / str(pid)
    status = dict(
        line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line
    )
    return Sample(
        int(status["VmRSS"].split()[0]),
        len(list((process / "fd").iterdir())),
        len((process / "maps").read_text().splitlines()),
    )


Flood = Callable[[RawClient, int, random.Random], int]  # returns the messages that it sent


def posted_writes(client: RawClient, _memory: int, rng: random.Random) -> int:
    """Any registers of any BAR, with any values; a read at the end."""
    for _ in range(WRITES):
        value = rng.choice([0, 1, 0xFFFF_FFFF, rng.getrandbits(32)])
        region, offset = rng.randrange(5), 4 * rng.randrange(64)
        client.region_write(region, offset, value.to_bytes(4, "little"), posted=True)
    client.read32(3, Ext.MAGIC)
    return WRITES + 1


def maps(client: RawClient, memory: int, rng: random.Random) -> int:
    """Maps with and without descriptors, overlaps, and what is left for the disconnect."""
    for index in range(MAPS):
        address = BASE + 2 * PAGE * index
        descriptor = memory if rng.random() < 0.5 else None
        with suppress(Refused):
            client.dma_map(address, PAGE, descriptor, offset=PAGE * (index % 256))
        if rng.random() < 0.7:
            client.dma_unmap(address, PAGE)
    return 2 * MAPS


def unanswered(client: RawClient, _memory: int, _rng: random.Random) -> int:
    """DMA for which the client is asked, and says nothing; resets in between."""
    with suppress(Refused):  # it is there already
        client.dma_map(BARE, MEMORY, None)
    client.region_write(7, 4, b"\x06\x00")
    client.write32(0, Reg.DMA_BUS_ADDR_LO, BARE)
    client.write32(0, Reg.DMA_LEN, 0x8000)
    for _ in range(LEFT):
        client.write32(0, Reg.DMACTL, DmaCtl.TRIGGER)
        client.region_write(7, 4, b"\x02\x00")
        client.region_write(7, 4, b"\x06\x00")
    return 3 * LEFT + 4


def interrupts(client: RawClient, _memory: int, _rng: random.Random) -> int:
    """An eventfd for each vector, over and over."""
    for _ in range(16):
        eventfds = [os.eventfd(0, os.EFD_CLOEXEC) for _ in range(16)]
        try:
            client.set_irqs(0x24, wire.Irq.MSIX, 0, 16, descriptors=eventfds)
        finally:
            for each in eventfds:
                os.close(each)
    return 16


def malformed(client: RawClient, memory: int, rng: random.Random) -> int:
    """Commands, flags, payloads and descriptors that are wrong; then a stream that is."""
    for _ in range(JUNK):
        command = rng.choice([*Command, rng.randrange(1 << 16)])
        if command == Command.VERSION:
            continue
        payload = rng.randbytes(rng.choice([0, 4, 16, 32, 1000]))
        given = [memory] * rng.randrange(3)
        client.send(command, payload, flags=Flags.NO_REPLY, descriptors=given)
    client.send(
        Command.REGION_READ, rng.randbytes(8), size=rng.choice([0, HEADER_SIZE - 1, 1 << 31])
    )
    with suppress(EOFError):
        while True:
            client.receive()
    return JUNK + 1


FLOODS: tuple[Flood, ...] = (posted_writes, maps, unanswered, interrupts, malformed)


def flood(socket: Path, seconds: float, memory: int, rng: random.Random) -> tuple[int, int]:
    """Go on for so long; return messages and connections."""
    messages = connections = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connections += 1
        with suppress(EOFError, BrokenPipeError, ConnectionResetError), RawClient(socket) as client:
            for each in rng.sample(FLOODS, k=3):
                messages += each(client, memory, rng)
    return messages, connections


def main(argv: list[str]) -> int:
    """See the module's documentation."""
    seconds = float(argv[0]) if argv else 600.0
    rng = random.Random(1)
    memory = os.memfd_create("memory", os.MFD_CLOEXEC)
    os.ftruncate(memory, MEMORY)
    with tempfile.TemporaryDirectory() as folder:
        sockets = Path(folder, "exerciser"), Path(folder, "platform")
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "dma_rehearsal.device", "--die-with-stdin"),
                *("--exerciser-socket", str(sockets[0]), "--platform-socket", str(sockets[1])),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what is refused is logged
        )
        try:
            assert process.stdout is not None
            process.stdout.readline()
            samples = _watch(process.pid, sockets[0], seconds, memory, rng)
            if process.poll() is not None:
                print(f"the device process ended with status {process.returncode}")
                return 1
        finally:
            process.kill()
            process.communicate()
            os.close(memory)
    return _verdict(samples)


def _watch(pid: int, socket: Path, seconds: float, memory: int, rng: random.Random) -> list[Sample]:
    samples, messages, connections = [sample(pid)], 0, 0
    print("seconds  messages  connections  resident KiB  descriptors  mappings")
    for step in range(SAMPLES + 1):
        if step:
            more = flood(socket, seconds / SAMPLES, memory, rng)
            messages, connections = messages + more[0], connections + more[1]
            # A client that negotiated last, so that the one before is gone for the server.
            RawClient(socket).close()
            samples.append(sample(pid))
        now = samples[-1]
        print(
            f"{seconds / SAMPLES * step:7.0f}  {messages:8}  {connections:11}  {now.resident:12}"
            f"  {now.descriptors:11}  {now.mappings:8}",
            flush=True,
        )
    return samples


def _verdict(samples: list[Sample]) -> int:
    first, rest = samples[1], samples[2:]
    grown = max(each.resident for each in rest) - first.resident
    held = max(each.descriptors for each in rest) - first.descriptors
    mapped = max(each.mappings for each in rest) - first.mappings
    flat = grown <= SLACK_KIB and held <= 2 and mapped <= 4
    print(
        f"since the first tenth: {grown:+} KiB, {held:+} descriptors, {mapped:+} mappings: "
        f"{'flat' if flat else 'it grows'}"
    )
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
