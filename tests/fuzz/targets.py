# SPDX-License-Identifier: Apache-2.0
"""The fuzz targets, and what runs one for long: ``python -m tests.fuzz.targets --help``.

The invariant: whatever arrives, the server answers with a documented error, or closes that
connection; no other exception, no hang over 1 s, no leaked descriptor or mapping, no byte touched
outside a granted range.

A target is a function of bytes, which it reads as choices; past their end every choice is 0. So
hypothesis, the coverage-guided loop of ``fuzzer.py`` and a file of a failure all run the same.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.vfio_user.closing import close_all
from dma_rehearsal.device.vfio_user.connection import Connection
from dma_rehearsal.device.vfio_user.errors import RemoteProtocolError
from dma_rehearsal.device.vfio_user.framing import Framer
from dma_rehearsal.device.vfio_user.messages import (
    HEADER_SIZE,
    MAX_MESSAGE,
    Command,
    DmaAccess,
    Flags,
    Header,
)
from tests.unit.vfio_user.endpoint import BUFFER, GO, Prober

T = TypeVar("T")
PAGE = 4096
BASE = 0x10000
HANG_S = 1.0  # of CPU time, untraced: a busy machine is not a hang
BLOCKED_S = 30.0
GUARD = b"\xa5" * PAGE
DOCUMENTED = (
    *(0, errno.EINVAL, errno.ENOTSUP, errno.EEXIST, errno.ENOSPC, errno.ENOTTY),
    errno.EBUSY,  # a state that is asked for while a DMA waits for the client
)
WORDS = (
    *(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 20, 24, 32, 48, 56, 64, 1024),
    *(PAGE, PAGE + 1, 2 * PAGE, BASE, BASE + PAGE, 1 << 20, 1 << 31, (1 << 32) - 1),
    *(method << 16 | feature for method in (1, 2, 4) for feature in (1, 2, 6, 7, 8)),
)
ENDPOINT = Prober()


class Hang(Exception):
    """Messages took longer than HANG_S."""


class Choices:
    """Bytes, read as numbers, one of some, or data."""

    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    def data(self, length: int) -> bytes:
        found = self._data[self._position : self._position + length]
        self._position += length
        return found.ljust(length, b"\0")

    def number(self, below: int) -> int:
        return int.from_bytes(self.data(1 if below <= 256 else 4), "little") % below

    def pick(self, these: Sequence[T]) -> T:
        return these[self.number(len(these))]

    @property
    def more(self) -> bool:
        return self._position < len(self._data)

    def payload(self) -> bytes:
        """Words that mean something somewhere, or plain bytes."""
        kind, count = self.number(4), self.number(13)
        if kind == 0:
            return self.data(5 * count)
        if kind == 1:
            return b"".join(struct.pack("<Q", self.pick(WORDS)) for _ in range(count))
        return b"".join(struct.pack("<I", self.pick(WORDS) & 0xFFFF_FFFF) for _ in range(count))


class Peer:
    """A connection with an endpoint, and what is true of it whatever arrives."""

    def __init__(self, model: Endpoint, sealed: bool) -> None:
        self.now = 0.0
        self.endpoint = ENDPOINT  # where it is the model
        self.endpoint.as_new()
        self.model = model
        self.connection = Connection(model, lambda: self.now)
        self.asked: list[tuple[Header, bytes]] = []  # the server's own commands
        self.framer = Framer()
        self.memory = os.memfd_create("granted", os.MFD_ALLOW_SEALING)
        os.write(self.memory, GUARD + bytes(PAGE) + GUARD)
        if sealed:  # as QEMU's, which is mapped; of another file the kernel copies the bytes
            fcntl.fcntl(self.memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)

    def feed(self, data: bytes, descriptors: Sequence[int] = ()) -> list[Header]:
        """Hand in bytes, and return the headers of what comes out."""
        headers: list[Header] = []
        messages = self.framer.feed(data, list(descriptors))
        started, began = time.thread_time(), time.monotonic()
        try:
            for message in messages:
                self.connection.handle(message)
                headers += self.collect()
        finally:
            for message in messages:
                close_all(message.descriptors)
        if time.thread_time() - started >= HANG_S:
            raise Hang
        assert time.monotonic() - began < BLOCKED_S, "blocked"
        return headers

    def command(self, command: int, payload: bytes = b"") -> list[Header]:
        return self.feed(framed(3, command, payload))

    def collect(self) -> list[Header]:
        headers = []
        while self.connection.outbox:
            outgoing = self.connection.outbox.popleft()
            header = Header.unpack(outgoing.data)
            assert HEADER_SIZE <= header.size == len(outgoing.data) <= MAX_MESSAGE
            assert bool(header.error) == bool(header.flags & Flags.ERROR)
            assert header.error in DOCUMENTED, errno.errorcode.get(header.error)
            assert header.size == HEADER_SIZE or not header.error
            headers.append(header)
            if not header.flags & Flags.REPLY:
                self.asked.append((header, outgoing.data[HEADER_SIZE:]))
        return headers

    def negotiate(self) -> None:
        self.command(Command.VERSION, bytes(4))

    def grant(self) -> None:
        """Grant the middle page of three."""
        payload = struct.pack("<IIQQQ", 32, 3, PAGE, BASE, PAGE)
        (answer,) = self.feed(framed(2, Command.DMA_MAP, payload), [os.dup(self.memory)])
        assert answer.error == 0

    def start_dma(self, length: int, write: bool) -> list[Header]:
        return self.command(
            Command.REGION_WRITE, struct.pack("<QIII", GO, BUFFER, 4, length | write << 31)
        )

    def close(self) -> None:
        self.connection.close()
        self.framer.close()
        assert self.model.bus.client is None, "still attached"
        assert os.pread(self.memory, PAGE, 0) == GUARD, "written before the granted page"
        assert os.pread(self.memory, PAGE, 2 * PAGE) == GUARD, "written behind the granted page"
        os.close(self.memory)


def framed(identity: int, command: int, payload: bytes, flags: int = 0, error: int = 0) -> bytes:
    header = Header.STRUCT.pack(identity, command, HEADER_SIZE + len(payload), flags, error)
    return header + payload


@contextmanager
def peer(model: Endpoint = ENDPOINT, *, sealed: bool = True) -> Iterator[Peer]:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # a count, no paths
    made = Peer(model, sealed)
    try:
        yield made
    except RemoteProtocolError as error:
        # Only what cannot be followed reaches the server's loop, which closes then.
        assert error.fatal  # noqa: PT017
    finally:
        made.close()
    assert len(os.listdir("/proc/self/fd")) == before, "descriptors leak"  # noqa: PTH208


def any_bytes(data: bytes) -> None:
    """Bytes that need not be messages, in pieces, with descriptors."""
    choices = Choices(data)
    with peer() as made:
        while choices.more:
            count = choices.number(4)
            piece = choices.data(choices.number(64))
            made.feed(piece, [os.memfd_create("fuzz") for _ in range(count)])


def any_commands(data: bytes) -> None:
    """Well-framed messages with any command, flags, payload and number of descriptors."""
    choices = Choices(data)
    with peer() as made:
        if choices.number(8):
            made.negotiate()
            made.grant()
        while choices.more:
            command = choices.pick([*Command, choices.number(1 << 16)])
            flags = choices.pick([0, 0, 0, Flags.NO_REPLY, choices.number(256)])
            payload = choices.payload()
            descriptors = [os.dup(made.memory) for _ in range(choices.pick([0, 0, 0, 1, 2]))]
            answers = made.feed(framed(7, command, payload, flags), descriptors)
            replies = [each for each in answers if each.flags & Flags.REPLY]
            assert len(replies) == (0 if flags & Flags.NO_REPLY else 1)
            assert all((each.message_id, each.command) == (7, command) for each in replies)


def any_replies(data: bytes) -> None:
    """Replies to the server's own DMA messages: right, late, wrong, to nothing."""
    choices = Choices(data)
    with peer() as made:
        made.negotiate()
        made.command(Command.DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, 0, 1 << 20))
        length, write = choices.number(3 << 16), bool(choices.number(2))
        made.endpoint.by_message = bool(choices.number(2))
        asked = [each for each in made.start_dma(length, write) if not each.flags & Flags.REPLY]
        moved = 0
        while choices.more:
            request = asked[-1] if asked else None
            identity = request.message_id if request else choices.number(4)
            command = request.command if request else Command.DMA_READ
            count = min(length - moved, 1 << 16)
            payload = DmaAccess(made.endpoint.address + moved, count).pack()
            payload += b"" if write else bytes(count)
            error, kind = 0, choices.number(8)
            if kind == 1:
                made.now += 6
                made.connection.tick()
            elif kind == 2:
                made.command(Command.DEVICE_RESET)
            elif kind == 3:
                identity ^= 1 << choices.number(16)
            elif kind == 4:
                command ^= 1 << choices.number(16)
            elif kind == 5:
                error = errno.EFAULT
            elif kind == 6:
                payload = choices.pick([payload[:-1], payload + b"\0", choices.payload()])
            flags = Flags.REPLY | (Flags.ERROR if error else 0)
            out = made.feed(framed(identity, command, payload, flags, error))
            asked = [each for each in out if not each.flags & Flags.REPLY]
            moved += count if asked else 0
            assert made.endpoint.done <= 1, "on_done came twice"


def any_capabilities(data: bytes) -> None:
    """VERSION with any capabilities."""
    choices = Choices(data)
    values: list[object] = [0, 1, -1, 16, 1 << 20, 1 << 70, 1.5, True, None, "x", [], {}, [[[]]]]
    values += [{"pgsize": choices.number(1 << 14)}, {"supported": choices.pick([True, 1, "x"])}]
    names = ["max_msg_fds", "max_data_xfer_size", "pgsizes", "twin_socket", "", "x"]
    names += ["max_dma_maps", "write_multiple", "migration"]
    inner = {choices.pick(names): choices.pick(values) for _ in range(choices.number(5))}
    text = json.dumps({choices.pick(["capabilities", "x"]): inner}).encode()
    if choices.number(3) == 0:
        at = choices.number(len(text))
        text = text[:at] + choices.data(3) + text[at + choices.number(4) :]
    text += choices.pick([b"\0", b"\0", b"", b"\0\0"])
    with peer() as made:
        payload = struct.pack("<HH", choices.pick([0, 0, 0, 1, 65535]), choices.number(3)) + text
        (answer,) = made.command(Command.VERSION, payload)
        (info,) = made.command(Command.DEVICE_GET_INFO, struct.pack("<IIII", 16, 0, 0, 0))
        assert bool(answer.error) == bool(info.error), "half negotiated"


def any_ranges(data: bytes) -> None:
    """DMA around one granted page, which a hostile client cuts off its file meanwhile."""
    choices = Choices(data)
    sealed = bool(choices.number(2))
    with peer(sealed=sealed) as made:
        made.negotiate()
        made.grant()
        for _ in range(1 + choices.number(12)):
            address = choices.pick([BASE, BASE - 1, BASE + 1, BASE + PAGE, 0, (1 << 64) - 1])
            length = choices.pick([0, 1, 2, PAGE - 1, PAGE, PAGE + 1, 1 << 20])
            cut = not sealed and choices.number(4) == 0
            if cut:
                os.ftruncate(made.memory, PAGE)
            made.endpoint.address = address
            made.start_dma(length, bool(choices.number(2)))
            inside = address >= BASE and address + length <= BASE + PAGE and not cut
            empty = length == 0
            assert made.endpoint.moved is (empty or inside)
            if cut:
                os.ftruncate(made.memory, 2 * PAGE)
                os.pwrite(made.memory, GUARD, 2 * PAGE)


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each
    for each in (any_bytes, any_commands, any_replies, any_capabilities, any_ranges)
}
