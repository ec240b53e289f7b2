# SPDX-License-Identifier: Apache-2.0
"""DMA_READ and DMA_WRITE, which the server sends: what it asked, and what a reply to that is.

Theory of operation. One answer is awaited at a time, while every other message is served. A reply
that matches nothing that was asked closes the connection. One that is late has failed its DMA, and
is still recognised when it comes; a client that lets too many of them come late is closed. Of what
was asked nothing is kept but what its reply must say, so a late one holds no data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dma_rehearsal.device.vfio_user.errors import (
    ClientFault,
    LocalProtocolError,
    MemoryFault,
    RemoteProtocolError,
)
from dma_rehearsal.device.vfio_user.framing import Message
from dma_rehearsal.device.vfio_user.messages import (
    DMA_WRITE_SHORT_REPLY,
    HEADER_SIZE,
    Command,
    DmaAccess,
    Flags,
    Header,
)
from dma_rehearsal.device.vfio_user.model import Ask

# QEMU's loop hangs on 256 KiB (seen with 11.1); 64 KiB is well below.
CHUNK = 1 << 16
REPLY_TIMEOUT_S = 5.0
MAX_LATE = 16
_IDS = 1 << 16

Answered = Callable[[bytes | MemoryFault], None]


@dataclass(frozen=True, slots=True)
class _Asked:
    """The reply that is due. ``deadline`` is by the clock."""

    identity: int
    command: Command
    access: DmaAccess
    deadline: float


class DmaMessages:
    """The questions that one client was asked, and has not answered."""

    def __init__(self, send: Callable[[bytes], None], clock: Callable[[], float]) -> None:
        """``send`` takes whole messages."""
        self._send, self._clock = send, clock
        self.max_transfer = CHUNK
        self._awaited: tuple[_Asked, Answered] | None = None
        self._late: dict[int, _Asked] = {}
        self._next_id = 0

    def ask(self, ask: Ask, answered: Answered) -> None:
        """See ``model.Client.ask``."""
        if self._awaited is not None:
            raise LocalProtocolError("a DMA message while another is unanswered")
        if not 0 < ask.length <= self.max_transfer:
            raise LocalProtocolError(f"a DMA message of {ask.length} bytes")
        access = DmaAccess(ask.address, ask.length)
        command = Command.DMA_READ if ask.data is None else Command.DMA_WRITE
        payload = access.pack() + (ask.data or b"")
        # Far fewer replies are late than there are ids, so one is free.
        while self._next_id in self._late:
            self._next_id = (self._next_id + 1) % _IDS
        deadline = self._clock() + REPLY_TIMEOUT_S
        self._awaited = _Asked(self._next_id, command, access, deadline), answered
        header = Header(self._next_id, command, HEADER_SIZE + len(payload), Flags.COMMAND, 0)
        self._next_id = (self._next_id + 1) % _IDS
        self._send(header.pack() + payload)

    @property
    def idle(self) -> bool:
        """Return whether no reply is awaited."""
        return self._awaited is None

    def next_deadline(self) -> float | None:
        """Return when the reply that is awaited is late, by the clock."""
        return None if self._awaited is None else self._awaited[0].deadline

    def expire(self) -> None:
        """Give up a reply that is late. RemoteProtocolError (fatal) when too many were."""
        if self._awaited is None or self._awaited[0].deadline > self._clock():
            return
        (asked, answered), self._awaited = self._awaited, None
        self._late[asked.identity] = asked
        if len(self._late) > MAX_LATE:
            raise RemoteProtocolError("too many DMA replies never came", fatal=True)
        answered(ClientFault(asked.access.address, "the client did not answer"))

    def reply(self, message: Message) -> None:
        """Take a reply. RemoteProtocolError (fatal) when it does not answer the question."""
        identity = message.header.message_id
        asked = self._late.get(identity)
        awaited = self._awaited
        if awaited is not None and awaited[0].identity == identity:
            asked = awaited[0]
        if asked is None or asked.command != message.header.command or message.descriptors:
            raise RemoteProtocolError(
                f"a reply to nothing: message {identity}, command {message.header.command}",
                fatal=True,
            )
        outcome = _judge(asked, message)
        if awaited is None or asked is not awaited[0]:
            del self._late[identity]
            return
        self._awaited = None
        awaited[1](outcome)

    def close(self) -> None:
        """Forget everything: the client is gone."""
        self._awaited = None
        self._late.clear()


def _judge(asked: _Asked, message: Message) -> bytes | MemoryFault:
    """Return a reply's data, or the fault that it tells. RemoteProtocolError (fatal): neither."""
    header, payload, access = message.header, message.payload, asked.access
    if header.flags & Flags.ERROR:
        return ClientFault(access.address, f"the client refused it with error {header.error}")
    layout, expected, data = DmaAccess.STRUCT, DmaAccess.STRUCT.size, b""
    if asked.command == Command.DMA_READ:
        data = payload[expected:]
        expected += access.count
    elif not payload:  # QEMU quirk: 10.1 and 10.2 answer a write with the bare header
        return b""
    elif len(payload) == DMA_WRITE_SHORT_REPLY.size:
        layout, expected = DMA_WRITE_SHORT_REPLY, len(payload)
    if len(payload) != expected or layout.unpack_from(payload) != (access.address, access.count):
        raise RemoteProtocolError(f"{asked.command.name}: a reply to another access", fatal=True)
    return data
