# SPDX-License-Identifier: Apache-2.0
"""The exerciser, with an echo loop in its place on the same socket while the guest asks for it.

The goals of the bench are against what the same requests cost when nobody looks at them. So a write
of anything but 0 to VDM_CTL, which does nothing otherwise, has the session answer reads and writes
with what was made before; a write of 0 ends that. Software reads a register before and after each
of the two, so that nothing else is under way.
"""

from __future__ import annotations

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import Reg
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user import server
from dma_rehearsal.device.vfio_user.errors import RemoteProtocolError
from dma_rehearsal.device.vfio_user.messages import (
    HEADER_SIZE,
    Command,
    Flags,
    Header,
    RegionAccess,
)

_READ, _WRITE = int(Command.REGION_READ), int(Command.REGION_WRITE)
_WRITE_MULTI, _NO_REPLY = int(Command.REGION_WRITE_MULTI), int(Flags.NO_REPLY)
_RECEIVE_SIZE = 1 << 16


def _canned(command: int, payload: bytes) -> bytes:
    """Return a reply without the message's number, its first two bytes."""
    return Header(0, command, HEADER_SIZE + len(payload), Flags.REPLY, 0).pack()[2:] + payload


_READ_REPLY = _canned(_READ, RegionAccess(Reg.DMA_LEN, 0, 4).pack() + bytes(4))
_WRITE_REPLY = _canned(_WRITE, RegionAccess(Reg.DMA_LEN, 0, 4).pack())
_END = RegionAccess(Reg.VDM_CTL, 0, 4).pack() + bytes(4)


class Echo(Exerciser):
    """The exerciser; its sessions can echo. Every server of this process has such sessions then."""

    session: EchoSession | None = None

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace)
        vars(server)["_Session"] = EchoSession

    def write_vdm_ctl(self, value: int) -> None:
        """Echo from the next message on."""
        if value and self.session is not None:
            self.session.begin()


class EchoSession(server._Session):
    """A session that dispatches as ever, at no cost, until it begins to echo."""

    def run(self) -> None:
        """Serve; the model can reach this session meanwhile."""
        if isinstance(self._model, Echo):
            self._model.session = self
        super().run()

    def begin(self) -> None:
        """Echo once everything that came before is answered."""
        vars(self)["_step"] = self._echo_step

    def _echo_step(self) -> bool:
        if self._inbox:
            return super()._step()
        return self._echo() if self._flush() else self._wait(server._POLL_OUT)

    def _echo(self) -> bool:
        """Answer until the end is asked for; return whether the client is still there.

        RemoteProtocolError (fatal) for all but whole region reads and writes, which a quiet guest
        sends alone.
        """
        stream = self._stream
        while data := stream.recv(_RECEIVE_SIZE):
            while data:
                size, command = int.from_bytes(data[4:8], "little"), data[2]
                if not HEADER_SIZE <= size <= len(data):
                    raise RemoteProtocolError(
                        "a message in pieces, which is not echoed", fatal=True
                    )
                if command == _READ:
                    stream.send(data[:2] + _READ_REPLY)
                elif command == _WRITE:
                    if not data[8] & _NO_REPLY:
                        stream.send(data[:2] + _WRITE_REPLY)
                    if data[HEADER_SIZE:size] == _END:
                        del vars(self)["_step"]
                        self._inbox.extend(self._framer.feed(data[size:], []))
                        return True
                elif command != _WRITE_MULTI:
                    raise RemoteProtocolError(f"command {command} is not echoed", fatal=True)
                data = data[size:]
        return False
