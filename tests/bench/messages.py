# SPDX-License-Identifier: Apache-2.0
"""Messages: the dispatch of one in isolation, and round trips over a socket to another process."""

from __future__ import annotations

import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import Ext, Reg
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.framing import Framer
from dma_rehearsal.device.vfio_user.messages import (
    HEADER_SIZE,
    Command,
    Flags,
    Header,
    RegionAccess,
)
from tests.bench.dma import connected
from tests.bench.registry import Row, at_most, benchmark, seconds
from tests.unit.vfio_user.client import RawClient

DISPATCHED = 20_000
ROUND_TRIPS, ROUNDS = 300, 25
POSTED = 64  # writes in a row
READ = RegionAccess(Reg.DMA_LEN, 0, 4).pack()
WRITE = READ + struct.pack("<I", 64)


def _framed(command: int, payload: bytes, flags: int = 0) -> bytes:
    return Header(1, command, HEADER_SIZE + len(payload), flags, 0).pack() + payload


@benchmark("the dispatch of one message, in isolation: from bytes that came to bytes that go")
def dispatch() -> Iterator[Row]:
    """One register each; framing is a part of it, the socket is not."""
    with connected(Exerciser(Trace())) as connection:
        for what, data in (
            ("register read", _framed(Command.REGION_READ, READ)),
            ("register write", _framed(Command.REGION_WRITE, WRITE)),
            ("posted register write", _framed(Command.REGION_WRITE, WRITE, Flags.NO_REPLY)),
        ):
            framer = Framer()

            def one(data: bytes = data, framer: Framer = framer) -> None:
                for message in framer.feed(data, []):
                    connection.handle(message)
                connection.outbox.clear()

            best = min(seconds(one, DISPATCHED) for _ in range(5))
            yield Row(what, f"{1 / best:,.0f} a second", best * 1e6, at_most(5.0), unit="us")


# The other side of the comparison: what the same requests cost when nobody looks at them.
_ECHO = """
import socket, sys
listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
listener.bind(sys.argv[1])
listener.listen(1)
print("ready", flush=True)
client, _ = listener.accept()
while data := client.recv(65536):
    # Posted writes get no reply; a read of 32 bytes may have come behind some of them.
    if not data[8] & 0x10 or data[-30] == 9:
        client.sendall(data[-36:])
"""


@contextmanager
def _process(*arguments: str) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.communicate()


def _read(stream: socket.socket, request: bytes) -> None:
    stream.sendall(request)
    stream.recv(65536)


def _posted(stream: socket.socket, write: bytes) -> None:
    """Send writes that nobody answers; what comes of them is not waited for."""
    for _ in range(POSTED):
        stream.sendall(write)


@benchmark("round trips of a bare client process, against an echo loop that looks at nothing")
def socket_trips() -> Iterator[Row]:
    """The cost of the server alone: without a guest, and without QEMU between.

    For information, without a goal: a guest's accesses cross QEMU, and `in_guest` measures those.
    """
    read = _framed(Command.REGION_READ, READ)
    write = _framed(Command.REGION_WRITE, WRITE)
    posted = _framed(Command.REGION_WRITE, WRITE, Flags.NO_REPLY)
    with tempfile.TemporaryDirectory() as folder:
        device, echo = Path(folder, "device"), Path(folder, "echo")
        arguments = ("--exerciser-socket", str(device), "--platform-socket", f"{device}-platform")
        with (
            _process("-m", "dma_rehearsal.device", *arguments),
            _process("-c", _ECHO, str(echo)),
            RawClient(device) as client,
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other,
        ):
            client.read32(3, Ext.MAGIC)
            client.socket.settimeout(None)  # or each call would poll() first
            other.connect(str(echo))
            streams = client.socket, other
            for what, once, count in (
                ("bare client's register read", lambda stream: _read(stream, read), ROUND_TRIPS),
                ("bare client's register write", lambda stream: _read(stream, write), ROUND_TRIPS),
                ("bare client's posted write", lambda stream: _posted(stream, posted), 1),
            ):
                yield _side_by_side(what, once, count, streams, partial(_read, request=read))


def _side_by_side(
    what: str,
    once: Callable[[socket.socket], None],
    count: int,
    streams: tuple[socket.socket, socket.socket],
    settle: Callable[[socket.socket], None],
) -> Row:
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for stream, found in zip(streams, taken, strict=True):
            settle(stream)
            start = time.perf_counter()
            for _ in range(count):
                once(stream)
            found.append((time.perf_counter() - start) / count)
            settle(stream)
    each = POSTED if count == 1 else 1
    ours, theirs = (statistics.median(found) / each * 1e6 for found in taken)
    ratio = statistics.median(own / other for own, other in zip(*taken, strict=True))
    return Row(what, f"{ours:.1f} us, echo {theirs:.1f} us", ratio)
