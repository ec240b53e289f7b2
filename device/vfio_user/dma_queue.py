"""DMA that may need the client's help: DMA_READ and DMA_WRITE, which the server sends.

Theory of operation. DMAs stand in one queue and are done in order. The one in front is done at once
where the DMA map has descriptors for all of it; otherwise it goes by messages, one piece at a time,
and the queue waits for the reply while every other message is served. A reply that matches nothing
that was asked closes the connection. One that is late fails its DMA, and is still recognised when
it comes; a client that lets too many of them come late is closed.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from .dma_map import DmaMap
from .errors import (
    ClientFault,
    ClientGone,
    LocalProtocolError,
    MemoryFault,
    NoDescriptor,
    RemoteProtocolError,
    Unmapped,
    Withdrawn,
)
from .framing import Message
from .messages import (
    DMA_WRITE_SHORT_REPLY,
    HEADER_SIZE,
    Command,
    DmaAccess,
    Flags,
    Header,
)
from .model import Dma

_log = logging.getLogger(__name__)

# QEMU's loop hangs on 256 KiB (seen with 11.1); 64 KiB is well below.
CHUNK = 1 << 16
REPLY_TIMEOUT_S = 5.0
MAX_QUEUED = 256
MAX_QUEUED_BYTES = 1 << 26
MAX_LATE = 16
# DMAs that end, and start others, within one turn; the rest waits until messages were served.
MAX_TURN = 1024
_IDS = 1 << 16
_ADDRESS_END = 1 << 64


@dataclass(slots=True)
class _Job:
    dma: Dma
    read: bytearray
    moved: int = 0


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a reply must say. ``job`` is None when it was cancelled."""

    job: _Job | None
    command: Command
    access: DmaAccess
    deadline: float


class DmaQueue:
    """The DMAs of one client that were started and are not done."""

    def __init__(
        self,
        dma_map: DmaMap,
        wrote: Callable[[int, int], None],
        send: Callable[[bytes], None],
        clock: Callable[[], float],
    ) -> None:
        """``wrote`` is told of memory that is written here; ``send`` takes whole messages."""
        self._map, self._wrote, self._send, self._clock = dma_map, wrote, send, clock
        self.max_transfer = CHUNK
        self._jobs: deque[_Job] = deque()
        self._bytes = 0
        self._asked: dict[int, _Asked] = {}  # the one that is awaited, and late ones
        self._awaited: int | None = None
        self._next_id = 0
        self._running = False
        self._turn = 0
        self._open = True

    # For the endpoint.

    def start(self, dma: Dma) -> None:
        """See ``model.Client.start_dma``. LocalProtocolError: the length is not the data's."""
        if dma.length < 0 or (dma.data is not None and len(dma.data) != dma.length):
            raise LocalProtocolError(f"a DMA of {dma.length} bytes with other data")
        if not 0 <= dma.address <= _ADDRESS_END - dma.length:
            self._done(dma, Unmapped(dma.address))
        elif not self._open:
            self._done(dma, ClientGone(dma.address))
        elif len(self._jobs) >= MAX_QUEUED or self._bytes + dma.length > MAX_QUEUED_BYTES:
            self._done(dma, ClientFault(dma.address, "too many DMAs are under way"))
        else:
            self._jobs.append(_Job(dma, bytearray()))
            self._bytes += dma.length
            self._run()

    def cancel(self) -> None:
        """See ``model.Client.cancel_dma``. A reply that is under way is still expected."""
        self._jobs.clear()
        self._bytes = 0
        if self._awaited is not None:
            asked = self._asked[self._awaited]
            self._asked[self._awaited] = replace(asked, job=None)

    # For the connection.

    def new_turn(self) -> None:
        """Go on with what an earlier turn left."""
        self._turn = 0
        if self._jobs:
            self._run()

    @property
    def idle(self) -> bool:
        """Return whether no DMA is under way, and no reply is awaited."""
        return not self._jobs and self._awaited is None

    @property
    def ready(self) -> bool:
        """Return whether a turn was too short for what can be done without the client."""
        return bool(self._jobs) and self._turn >= MAX_TURN

    def next_deadline(self) -> float | None:
        """Return when the reply that is awaited is late, by the clock."""
        return None if self._awaited is None else self._asked[self._awaited].deadline

    def expire(self) -> None:
        """Fail the DMA whose reply is late. RemoteProtocolError (fatal) when too many were."""
        deadline = self.next_deadline()
        if deadline is None or deadline > self._clock():
            return
        asked = self._asked[self._awaited or 0]
        self._awaited = None
        if len(self._asked) > MAX_LATE:
            raise RemoteProtocolError("too many DMA replies never came", fatal=True)
        if asked.job is not None:
            self._finish(ClientFault(asked.access.address, "the client did not answer"))
        self._run()

    def reply(self, message: Message) -> None:
        """Take a reply. RemoteProtocolError (fatal) when it is none to what was asked."""
        identity = message.header.message_id
        asked = self._asked.get(identity)
        if asked is None or asked.command != message.header.command or message.descriptors:
            raise RemoteProtocolError(
                f"a reply to nothing: message {identity}, command {message.header.command}",
                fatal=True,
            )
        fault, data = _judge(asked, message)
        del self._asked[identity]
        if identity != self._awaited:
            return
        self._awaited = None
        job = asked.job
        if job is not None and fault is not None:
            self._finish(fault)
        elif job is not None:
            job.read += data
            job.moved += asked.access.count
            if job.moved == job.dma.length:
                self._finish(bytes(job.read))
        self._run()

    def close(self) -> None:
        """Fail everything: the client is gone."""
        self._open = False
        jobs, self._jobs = self._jobs, deque()
        self._asked.clear()
        self._awaited = None
        self._bytes = 0
        for job in jobs:
            self._done(job.dma, ClientGone(job.dma.address + job.moved))

    # The queue.

    def _run(self) -> None:
        """Do what can be done. A DMA that is started by another's end waits for this loop."""
        if self._running:
            return
        self._running = True
        try:
            while self._jobs and self._turn < MAX_TURN and self._step(self._jobs[0]):
                self._turn += 1
        finally:
            self._running = False

    def _step(self, job: _Job) -> bool:
        """Do the job in front, or send its next piece. Return whether it is done."""
        awaited = None if self._awaited is None else self._asked[self._awaited]
        if awaited is not None and awaited.job is job:
            return False
        dma, rest = job.dma, job.dma.length - job.moved
        outcome: bytes | MemoryFault = b""
        if not dma.allowed():
            outcome = Withdrawn(dma.address + job.moved)
        elif not dma.by_message:
            try:
                outcome = self._at_once(job, dma.address + job.moved, rest)
            except NoDescriptor:
                if awaited is None:
                    self._ask(job)
                return False
            except MemoryFault as fault:
                outcome = fault.with_traceback(None)  # its frames hold views
        elif rest:
            if awaited is None:
                self._ask(job)
            return False
        self._finish(outcome)
        return True

    def _at_once(self, job: _Job, address: int, rest: int) -> bytes:
        """Move the rest without the client; what went by messages before needs no image."""
        data, start = job.dma.data, job.moved
        if job.dma.through is not None and not start:
            places = self._map.places(address, rest, write=data is not None)
            read = job.dma.through(places)
            if data is not None:
                self._wrote(address, rest)
            return read
        views = self._map.views(address, rest, write=data is not None)
        if data is None:
            return bytes(job.read) + b"".join(map(bytes, views))
        self._wrote(address, rest)
        for view in views:
            view[:] = data[start : start + len(view)]
            start += len(view)
        return b""

    def _ask(self, job: _Job) -> None:
        dma = job.dma
        count = min(dma.length - job.moved, CHUNK, self.max_transfer)
        access = DmaAccess(dma.address + job.moved, count)
        command = Command.DMA_READ if dma.data is None else Command.DMA_WRITE
        payload = access.pack()
        if dma.data is not None:
            payload += dma.data[job.moved : job.moved + count]
        # Far fewer replies are awaited than there are ids, so one is free.
        while self._next_id in self._asked:
            self._next_id = (self._next_id + 1) % _IDS
        header = Header(self._next_id, command, HEADER_SIZE + len(payload), Flags.COMMAND, 0)
        self._awaited = self._next_id
        self._next_id = (self._next_id + 1) % _IDS
        deadline = self._clock() + REPLY_TIMEOUT_S
        self._asked[self._awaited] = _Asked(job, command, access, deadline)
        self._send(header.pack() + payload)

    def _finish(self, outcome: bytes | MemoryFault) -> None:
        """Take the job in front from the queue and tell its end."""
        job = self._jobs.popleft()
        self._bytes -= job.dma.length
        self._done(job.dma, outcome)

    @staticmethod
    def _done(dma: Dma, outcome: bytes | MemoryFault) -> None:
        try:
            dma.on_done(outcome)
        except Exception:
            _log.exception("the device model failed at the end of a DMA")


def _judge(asked: _Asked, message: Message) -> tuple[MemoryFault | None, bytes]:
    """Return the fault that a reply tells, or its data. RemoteProtocolError (fatal): neither."""
    header, payload, access = message.header, message.payload, asked.access
    if header.flags & Flags.ERROR:
        reason = f"the client refused it with error {header.error}"
        return ClientFault(access.address, reason), b""
    layout, expected, data = DmaAccess.STRUCT, DmaAccess.STRUCT.size, b""
    if asked.command == Command.DMA_READ:
        data = payload[expected:]
        expected += access.count
    elif not payload:  # QEMU quirk: 10.1 and 10.2 answer a write with the bare header
        return None, b""
    elif len(payload) == DMA_WRITE_SHORT_REPLY.size:
        layout, expected = DMA_WRITE_SHORT_REPLY, len(payload)
    if len(payload) != expected or layout.unpack_from(payload) != (access.address, access.count):
        raise RemoteProtocolError(f"{asked.command.name}: a reply to another access", fatal=True)
    return None, data
