# SPDX-License-Identifier: Apache-2.0
"""One client's connection, without I/O: messages in, messages out.

Theory of operation. VERSION comes first and once; every other command before it is refused. Each
command is answered before the next is looked at, so a register access never overtakes another. A
malformed command is answered with an errno and changes nothing; only a stream that cannot be
followed any more closes the connection. Questions of the server (``dma_messages``) go out
behind the reply of the command that caused it, for QEMU holds its lock until that reply is there.

Whoever does the I/O hands in one message at a time, sends ``outbox`` before the next, calls
``tick`` when ``next_deadline`` is reached or ``ready`` is set, and ``close`` at the end.
"""

from __future__ import annotations

import errno
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from dma_rehearsal.device.vfio_user import information
from dma_rehearsal.device.vfio_user import messages as wire
from dma_rehearsal.device.vfio_user.client_memory import View
from dma_rehearsal.device.vfio_user.closing import close_all
from dma_rehearsal.device.vfio_user.dirty import DmaLog
from dma_rehearsal.device.vfio_user.dma_map import DmaMap
from dma_rehearsal.device.vfio_user.dma_messages import CHUNK, Answered, DmaMessages
from dma_rehearsal.device.vfio_user.errors import RemoteProtocolError
from dma_rehearsal.device.vfio_user.features import Features
from dma_rehearsal.device.vfio_user.framing import Message
from dma_rehearsal.device.vfio_user.interrupts import Interrupts
from dma_rehearsal.device.vfio_user.messages import HEADER_SIZE, Command, Flags, Header
from dma_rehearsal.device.vfio_user.model import Ask, DeviceModel, FileRange, MappedRange
from dma_rehearsal.device.vfio_user.negotiation import Limits, negotiate
from dma_rehearsal.device.vfio_user.turn import Turn

_log = logging.getLogger(__name__)

# Every message passes here, and an operation on an IntFlag costs as much as ten on an int.
_TYPE_MASK, _IS_REPLY, _IS_COMMAND = int(Flags.TYPE_MASK), int(Flags.REPLY), int(Flags.COMMAND)
_NO_REPLY, _ERROR = int(Flags.NO_REPLY), int(Flags.ERROR)
_OF_COMMANDS = _IS_COMMAND | _NO_REPLY | _ERROR
_VERSION = int(Command.VERSION)
# A client that errs on and on would fill the disk with the log.
_MAX_LOGGED = 32
_ACCESS = wire.RegionAccess.STRUCT
_WITH_DESCRIPTORS = (Command.DMA_MAP, Command.DEVICE_SET_IRQS)


@dataclass(slots=True)
class Outgoing:
    """One whole message to the client. Its descriptors stay their owner's."""

    data: bytes
    descriptors: tuple[int, ...] = ()


class Connection:
    """The state of one client: negotiated or not, its DMA map, its interrupts.

    It is the ``Client`` that the model talks to.
    """

    def __init__(
        self,
        model: DeviceModel,
        clock: Callable[[], float] = time.monotonic,
        turn: Turn | None = None,
    ) -> None:
        self._model = model
        self._turn = turn or Turn()
        self._ready = False
        self._limits = Limits()
        self._refused = 0
        self.outbox: deque[Outgoing] = deque()
        self._asked: list[bytes] = []
        self._reply_descriptors: tuple[int, ...] = ()
        self.dma_map = DmaMap()
        self._log = DmaLog()
        self._dma = DmaMessages(self._asked.append, clock)
        self._interrupts = Interrupts(model)
        self._features = Features(model.migration, self._log)
        self._handlers: dict[int, Callable[[Message], bytes]] = {
            Command.DMA_MAP: self._dma_map,
            Command.DMA_UNMAP: self._dma_unmap,
            Command.DEVICE_GET_INFO: lambda message: information.device_info(message.payload),
            Command.DEVICE_GET_REGION_INFO: self._region_info,
            Command.DEVICE_GET_REGION_IO_FDS: lambda message: information.region_io_fds(
                model, message.payload
            ),
            Command.DEVICE_GET_IRQ_INFO: lambda message: information.irq_info(
                model, message.payload
            ),
            Command.DEVICE_SET_IRQS: self._set_irqs,
            Command.REGION_READ: self._region_read,
            Command.REGION_WRITE: self._region_write,
            Command.REGION_WRITE_MULTI: self._region_write_multi,
            Command.DEVICE_RESET: self._device_reset,
            Command.DEVICE_FEATURE: lambda message: self._features.feature(message.payload),
            Command.MIG_DATA_READ: lambda message: self._features.read(
                message.payload, self._limits.max_data
            ),
            Command.MIG_DATA_WRITE: lambda message: self._features.write(message.payload),
        }

    # The client, as a device model uses it.

    def memory(self, address: int, length: int, *, write: bool) -> list[View]:
        """See ``model.Client.memory``."""
        views = self.dma_map.views(address, length, write=write)
        if write:
            self._log.wrote(address, length)
        return views

    def file_ranges(self, address: int, length: int, *, write: bool) -> list[FileRange]:
        """See ``model.Client.file_ranges``."""
        file_ranges = self.dma_map.file_ranges(address, length, write=write)
        if write:
            self._log.wrote(address, length)
        return file_ranges

    def mapped_range(self, address: int, *, write: bool) -> MappedRange | None:
        """See ``model.Client.mapped_range``. While writes are logged, each has to be told."""
        return (
            None if write and self._log.active else self.dma_map.mapped_range(address, write=write)
        )

    def ranges(self) -> Iterator[tuple[int, int]]:
        """See ``model.Client.ranges``."""
        return self.dma_map.ranges()

    @property
    def message_max(self) -> int:
        """See ``model.Client.message_max``."""
        return self._dma.max_transfer

    def ask(self, ask: Ask, answered: Answered) -> None:
        """See ``model.Client.ask``."""
        self._dma.ask(ask, answered)

    def trigger(self, index: int, subindex: int) -> bool:
        """See ``model.Client.trigger``."""
        return self._interrupts.trigger(index, subindex)

    def armed(self, index: int, subindex: int) -> bool:
        """See ``model.Client.armed``."""
        return self._interrupts.armed(index, subindex)

    # Messages in, messages out.

    def handle(self, message: Message) -> None:
        """Take a message; what is owed to it is in ``outbox`` then.

        Every descriptor that the message brought and that was not kept is closed.
        RemoteProtocolError with ``fatal`` set when the connection must be closed.
        """
        header = message.header
        try:
            if self._model.dma_ready:  # what an earlier turn left
                self._model.go_on()
            if header.flags & _TYPE_MASK == _IS_REPLY:
                self._dma.reply(message)
            else:
                self._command(message)
        finally:
            if message.descriptors:
                close_all(message.descriptors)
        if self._asked:
            self._send_asked()

    def _command(self, message: Message) -> None:
        header = message.header
        error, payload, self._reply_descriptors = 0, b"", ()
        try:
            payload = self._dispatch(message)
        except RemoteProtocolError as refusal:
            if refusal.fatal:
                raise
            error = refusal.errno
            self._note("command %d refused: %s", header.command, str(refusal))
        except Exception as failure:
            error = errno.EIO
            self._note("command %d: the device model failed", header.command, failure=failure)
        if header.flags & _NO_REPLY:
            return
        descriptors = () if error else self._reply_descriptors
        self.outbox.append(Outgoing(_reply(header, payload, error), descriptors))

    def _dispatch(self, message: Message) -> bytes:
        header = message.header
        if header.flags & ~_OF_COMMANDS:
            raise RemoteProtocolError(f"header flags {header.flags:#x}")
        if header.command == _VERSION:
            return self._version(message)
        if not self._ready:
            raise RemoteProtocolError(f"command {header.command} before VERSION")
        handler = self._handlers.get(header.command)
        if handler is None:
            raise RemoteProtocolError(f"command {header.command} is not known", errno.ENOTSUP)
        if message.descriptors and header.command not in _WITH_DESCRIPTORS:
            raise RemoteProtocolError(f"command {header.command} takes no descriptors")
        return handler(message)

    def _note(self, text: str, *values: object, failure: Exception | None = None) -> None:
        """Log what went wrong, the first few times."""
        self._refused += 1
        if self._refused <= _MAX_LOGGED:
            _log.log(logging.ERROR if failure else logging.WARNING, text, *values, exc_info=failure)
        if self._refused == _MAX_LOGGED:
            _log.warning("further refusals of this client are not logged")

    def _send_asked(self) -> None:
        self.outbox.extend(map(Outgoing, self._asked))
        self._asked.clear()

    @property
    def idle(self) -> bool:
        """Return whether nothing is to be done before the next message: ``tick`` does nothing."""
        return self._dma.idle and not self._model.dma_ready

    @property
    def ready(self) -> bool:
        """Return whether ``tick`` has something to do at once."""
        return self._model.dma_ready

    def next_deadline(self) -> float | None:
        """Return when ``tick`` must be called, by the clock; None when a message comes first."""
        return self._dma.next_deadline()

    def tick(self) -> None:
        """Do what time brings. RemoteProtocolError (fatal) for a client that never answers."""
        if self._model.dma_ready:
            self._model.go_on()
        self._dma.expire()
        self._send_asked()

    def close(self) -> None:
        """Forget the client: detach the model, unmap everything, close every descriptor."""
        self._dma.close()
        self._detach()
        self._log.stop()
        self.dma_map.clear()
        self._interrupts.close()

    def _detach(self) -> None:
        """Part from the model, whatever it makes of that."""
        if self._ready:
            self._ready = False
            try:
                self._model.detach()
            except Exception:
                _log.exception("the device model failed at the end of a connection")

    # The commands.

    def _version(self, message: Message) -> bytes:
        if self._ready:
            raise RemoteProtocolError("VERSION twice")
        if message.descriptors:
            raise RemoteProtocolError("VERSION takes no descriptors")
        self._limits, reply = negotiate(message.payload)
        self._dma.max_transfer = min(CHUNK, self._limits.max_data)
        self._ready = True
        try:
            self._model.attach(self)
        except BaseException:
            self._detach()  # half of a device is of no use: this client may try again
            raise
        return reply

    def _dma_map(self, message: Message) -> bytes:
        request = _exactly(wire.DmaMap, message)
        if len(message.descriptors) > 1:
            raise RemoteProtocolError(f"DMA_MAP with {len(message.descriptors)} descriptors")
        descriptor = message.descriptors[0] if message.descriptors else None
        self.dma_map.add(request.address, request.size, request.flags, request.offset, descriptor)
        return b""

    def _dma_unmap(self, message: Message) -> bytes:
        request = _exactly(wire.DmaUnmap, message)
        if request.flags == wire.DmaUnmapFlag.GET_DIRTY_BITMAP:
            raise RemoteProtocolError("DMA_UNMAP with a dirty bitmap", errno.ENOTSUP)
        if request.flags & ~int(wire.DmaUnmapFlag.ALL):
            raise RemoteProtocolError(f"DMA_UNMAP flags {request.flags:#x}")
        if request.flags & wire.DmaUnmapFlag.ALL:
            if request.address or request.size:
                raise RemoteProtocolError("DMA_UNMAP of all with an address or a size")
            self.dma_map.clear()
            self._unmapped(0, 1 << 64)
        else:
            self.dma_map.remove(request.address, request.size)
            self._unmapped(request.address, request.size)
        return message.payload

    def _unmapped(self, address: int, length: int) -> None:
        """Tell the model. The memory is gone, whatever it makes of that, and so says the reply."""
        try:
            self._model.unmapped(address, length)
        except Exception as failure:
            self._note("the device model failed at an unmap", failure=failure)

    def _region_info(self, message: Message) -> bytes:
        reply, self._reply_descriptors = information.region_info(
            self._model, message.payload, self._limits.max_fds
        )
        return reply

    def _set_irqs(self, message: Message) -> bytes:
        size = wire.SetIrqs.STRUCT.size
        if len(message.payload) < size:
            raise RemoteProtocolError("SET_IRQS is cut short")
        request = wire.SetIrqs.unpack(message.payload)
        if request.argsz < size:
            raise RemoteProtocolError(f"SET_IRQS with argsz {request.argsz}")
        if request.index >= wire.NUM_IRQS:
            raise RemoteProtocolError(f"interrupt index {request.index} does not exist")
        self._interrupts.set(request, message.payload[size:], message.descriptors)
        return b""

    def _region_read(self, message: Message) -> bytes:
        if len(message.payload) != 16:
            raise RemoteProtocolError("REGION_READ has the wrong size")
        offset, region, count = _ACCESS.unpack(message.payload)
        self._check_range(region, offset, count)
        self._turn.access = region, offset, count, None
        return message.payload + self._model.region_read(region, offset, count)

    def _region_write(self, message: Message) -> bytes:
        payload = message.payload
        if len(payload) < 16:
            raise RemoteProtocolError("REGION_WRITE is cut short")
        offset, region, count = _ACCESS.unpack_from(payload)
        if len(payload) != 16 + count:
            raise RemoteProtocolError(f"REGION_WRITE of {count} bytes carries {len(payload) - 16}")
        self._check_range(region, offset, count)
        self._write(region, offset, payload[16:])
        return payload[:16]

    def _region_write_multi(self, message: Message) -> bytes:
        """QEMU quirk: under backlog its posted writes come bundled, up to 200 in one message."""
        payload = message.payload
        if len(payload) < wire.WRITE_MULTI_HEADER.size:
            raise RemoteProtocolError("REGION_WRITE_MULTI is cut short")
        (count,) = wire.WRITE_MULTI_HEADER.unpack_from(payload)
        entry = wire.WRITE_MULTI_ENTRY
        if count > wire.WRITE_MULTI_MAX or len(payload) != 8 + count * entry.size:
            raise RemoteProtocolError(f"REGION_WRITE_MULTI of {count} in {len(payload)} bytes")
        writes = list(entry.iter_unpack(payload[8:]))
        for offset, region, length, _data in writes:
            if length > 8:
                raise RemoteProtocolError(f"REGION_WRITE_MULTI with a write of {length} bytes")
            self._check_range(region, offset, length)
        for offset, region, length, data in writes:
            self._write(region, offset, data[:length])
        return payload[:8]

    def _write(self, region: int, offset: int, data: bytes) -> None:
        self._turn.access = region, offset, len(data), data
        self._model.region_write(region, offset, data)

    def _check_range(self, region: int, offset: int, count: int) -> None:
        if region >= wire.NUM_REGIONS:
            raise RemoteProtocolError(f"region {region} does not exist")
        if not 0 < count <= wire.MAX_DATA_XFER or offset + count > self._model.region_size(region):
            raise RemoteProtocolError(f"region {region}: {count} bytes at {offset:#x}")

    def _device_reset(self, message: Message) -> bytes:
        if message.payload:
            raise RemoteProtocolError("DEVICE_RESET with a payload")
        if self._model.migration is not None:
            self._model.migration.reset(self._model.device_reset)
        else:
            self._model.device_reset()
        return b""


def _reply(header: Header, payload: bytes, error: int = 0) -> bytes:
    if error:
        payload = b""
    flags = _IS_REPLY | (_ERROR if error else 0)
    size = HEADER_SIZE + len(payload)
    return Header.STRUCT.pack(header.message_id, header.command, size, flags, error) + payload


def _exactly(kind: Any, message: Message) -> Any:
    size = kind.STRUCT.size
    if len(message.payload) != size:
        raise RemoteProtocolError(f"{kind.__name__} of {len(message.payload)} bytes, not {size}")
    request = kind.unpack(message.payload)
    if request.argsz < size:
        raise RemoteProtocolError(f"{kind.__name__} with argsz {request.argsz}")
    return request
