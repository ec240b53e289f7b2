"""One client's connection, without I/O: messages in, replies out.

Theory of operation. VERSION comes first and once; every other command before it is refused. Each
command is answered before the next is looked at, so a register access never overtakes another. A
malformed message is answered with an errno and changes nothing; only a stream that cannot be
followed any more closes the connection.
"""

from __future__ import annotations

import errno
import json
import logging
import struct
from collections.abc import Callable
from typing import Any

from . import messages as wire
from .dma_map import DmaMap
from .errors import RemoteProtocolError
from .framing import Message, close_all
from .interrupts import Interrupts
from .messages import HEADER_SIZE, Command, Flags, Header
from .model import DeviceModel

_log = logging.getLogger(__name__)

_VERSION = struct.Struct("<HH")
_MAJOR, _MINOR = 0, 0
# QEMU's buffer for this reply is as long as its own request: 194 bytes of JSON with the NUL.
_CAPABILITIES = json.dumps(
    {
        "capabilities": {
            "max_msg_fds": wire.MAX_FDS,
            "max_data_xfer_size": wire.MAX_DATA_XFER,
            "pgsizes": wire.PAGE_SIZE,
            "write_multiple": True,
        }
    },
    separators=(",", ":"),
).encode() + b"\0"  # fmt: skip
_KNOWN_FLAGS = int(Flags.TYPE_MASK | Flags.NO_REPLY | Flags.ERROR)


class Connection:
    """The state of one client: negotiated or not, its DMA map, its interrupts.

    It is the ``Client`` that the model talks to.
    """

    def __init__(self, model: DeviceModel) -> None:
        self._model = model
        self._ready = False
        self.dma_map = DmaMap()
        self._interrupts = Interrupts(model)
        self._handlers: dict[int, Callable[[Message], bytes]] = {
            Command.DMA_MAP: self._dma_map,
            Command.DMA_UNMAP: self._dma_unmap,
            Command.DEVICE_GET_INFO: self._device_info,
            Command.DEVICE_GET_REGION_INFO: self._region_info,
            Command.DEVICE_GET_REGION_IO_FDS: self._region_io_fds,
            Command.DEVICE_GET_IRQ_INFO: self._irq_info,
            Command.DEVICE_SET_IRQS: self._set_irqs,
            Command.REGION_READ: self._region_read,
            Command.REGION_WRITE: self._region_write,
            Command.REGION_WRITE_MULTI: self._region_write_multi,
            Command.DEVICE_RESET: self._device_reset,
        }

    # What an endpoint may ask of its client.

    def memory(self, address: int, length: int, *, write: bool) -> list[memoryview]:
        """See ``model.Client.memory``."""
        return self.dma_map.views(address, length, write=write)

    def trigger(self, index: int, subindex: int) -> bool:
        """See ``model.Client.trigger``."""
        return self._interrupts.trigger(index, subindex)

    # Messages in, replies out.

    def handle(self, message: Message) -> bytes:
        """Return the reply to a message, or nothing when none is owed.

        Every descriptor that the message brought and nobody kept is closed. RemoteProtocolError
        with ``fatal`` set when the connection must be closed.
        """
        header = message.header
        quiet = bool(header.flags & Flags.NO_REPLY)
        try:
            payload = self._dispatch(message)
        except RemoteProtocolError as error:
            if error.fatal:
                raise
            _log.warning("command %d refused: %s", header.command, error)
            return b"" if quiet else _reply(header, b"", error.errno)
        except Exception:
            _log.exception("command %d: the device model failed", header.command)
            return b"" if quiet else _reply(header, b"", errno.EIO)
        finally:
            close_all(message.descriptors)
        return b"" if quiet else _reply(header, payload)

    def _dispatch(self, message: Message) -> bytes:
        header = message.header
        if header.flags & ~_KNOWN_FLAGS or header.flags & Flags.TYPE_MASK != Flags.COMMAND:
            raise RemoteProtocolError(f"header flags {header.flags:#x}")
        if header.command == Command.VERSION:
            return self._version(message)
        if not self._ready:
            raise RemoteProtocolError(f"command {header.command} before VERSION")
        handler = self._handlers.get(header.command)
        if handler is None:
            raise RemoteProtocolError(f"command {header.command} is not known", errno.ENOTSUP)
        if message.descriptors and header.command not in (
            Command.DMA_MAP,
            Command.DEVICE_SET_IRQS,
        ):
            raise RemoteProtocolError(f"command {header.command} takes no descriptors")
        return handler(message)

    def close(self) -> None:
        """Forget the client: detach the model, unmap everything, close every descriptor."""
        if self._ready:
            self._ready = False
            self._model.detach()
        self.dma_map.clear()
        self._interrupts.close()

    def _version(self, message: Message) -> bytes:
        if self._ready:
            raise RemoteProtocolError("VERSION twice")
        if len(message.payload) < _VERSION.size:
            raise RemoteProtocolError("VERSION is cut short")
        major, minor = _VERSION.unpack_from(message.payload)
        if major != _MAJOR:
            raise RemoteProtocolError(f"version {major}.{minor} is not spoken here", errno.ENOTSUP)
        text = message.payload[_VERSION.size :]
        if text:
            _check_capabilities(text)
        self._ready = True
        self._model.attach(self)
        return _VERSION.pack(_MAJOR, min(minor, _MINOR)) + _CAPABILITIES

    def _dma_map(self, message: Message) -> bytes:
        request = _exactly(wire.DmaMap, message)
        if len(message.descriptors) > 1:
            raise RemoteProtocolError(f"DMA_MAP with {len(message.descriptors)} descriptors")
        descriptor = message.descriptors[0] if message.descriptors else None
        self.dma_map.add(request.address, request.size, request.flags, request.offset, descriptor)
        return b""

    def _dma_unmap(self, message: Message) -> bytes:
        request = _exactly(wire.DmaUnmap, message)
        if request.flags & wire.DmaUnmapFlag.GET_DIRTY_BITMAP:
            raise RemoteProtocolError("DMA_UNMAP with a dirty bitmap", errno.ENOTSUP)
        if request.flags & ~int(wire.DmaUnmapFlag.ALL):
            raise RemoteProtocolError(f"DMA_UNMAP flags {request.flags:#x}")
        if request.flags & wire.DmaUnmapFlag.ALL:
            if request.address or request.size:
                raise RemoteProtocolError("DMA_UNMAP of all with an address or a size")
            self.dma_map.clear()
        else:
            self.dma_map.remove(request.address, request.size)
        return message.payload

    def _device_info(self, message: Message) -> bytes:
        _argsz(wire.DEVICE_INFO, message)
        flags = wire.DEVICE_FLAG_PCI | wire.DEVICE_FLAG_RESET
        return wire.DEVICE_INFO.pack(wire.DEVICE_INFO.size, flags, wire.NUM_REGIONS, wire.NUM_IRQS)

    def _region_info(self, message: Message) -> bytes:
        index = _argsz(wire.REGION_INFO, message)[2]
        if index >= wire.NUM_REGIONS:
            raise RemoteProtocolError(f"region {index} does not exist")
        size = self._model.region_size(index)
        # No region can be mapped: one that could would turn posted writes off for the device.
        flags = wire.REGION_FLAG_READ | wire.REGION_FLAG_WRITE if size else 0
        return wire.REGION_INFO.pack(wire.REGION_INFO.size, flags, index, 0, size, 0)

    def _region_io_fds(self, message: Message) -> bytes:
        index = _argsz(wire.REGION_IO_FDS, message)[2]
        if index >= wire.NUM_REGIONS or not self._model.region_size(index):
            raise RemoteProtocolError(f"region {index} does not exist")
        return wire.REGION_IO_FDS.pack(wire.REGION_IO_FDS.size, 0, index, 0)

    def _irq_info(self, message: Message) -> bytes:
        index = _argsz(wire.IRQ_INFO, message)[2]
        if index >= wire.NUM_IRQS:
            raise RemoteProtocolError(f"interrupt index {index} does not exist")
        flags = wire.IRQ_FLAG_EVENTFD
        intx = wire.IRQ_FLAG_MASKABLE | wire.IRQ_FLAG_AUTOMASKED
        flags |= intx if index == wire.Irq.INTX else wire.IRQ_FLAG_NORESIZE
        return wire.IRQ_INFO.pack(wire.IRQ_INFO.size, flags, index, self._model.irq_count(index))

    def _set_irqs(self, message: Message) -> bytes:
        if len(message.payload) < wire.SetIrqs.STRUCT.size:
            raise RemoteProtocolError("SET_IRQS is cut short")
        request = wire.SetIrqs.unpack(message.payload)
        if request.index >= wire.NUM_IRQS:
            raise RemoteProtocolError(f"interrupt index {request.index} does not exist")
        data = message.payload[wire.SetIrqs.STRUCT.size :]
        self._interrupts.set(request, data, message.descriptors)
        return b""

    def _region_read(self, message: Message) -> bytes:
        if len(message.payload) != 16:
            raise RemoteProtocolError("REGION_READ has the wrong size")
        offset, region, count = wire.RegionAccess.STRUCT.unpack(message.payload)
        self._check_range(region, offset, count)
        return message.payload + self._model.region_read(region, offset, count)

    def _region_write(self, message: Message) -> bytes:
        payload = message.payload
        if len(payload) < 16:
            raise RemoteProtocolError("REGION_WRITE is cut short")
        offset, region, count = wire.RegionAccess.STRUCT.unpack_from(payload)
        if len(payload) != 16 + count:
            raise RemoteProtocolError(f"REGION_WRITE of {count} bytes carries {len(payload) - 16}")
        self._check_range(region, offset, count)
        self._model.region_write(region, offset, payload[16:])
        return payload[:16]

    def _region_write_multi(self, message: Message) -> bytes:
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
            self._model.region_write(region, offset, data[:length])
        return payload[:8]

    def _check_range(self, region: int, offset: int, count: int) -> None:
        if region >= wire.NUM_REGIONS:
            raise RemoteProtocolError(f"region {region} does not exist")
        if not 0 < count <= wire.MAX_DATA_XFER or offset + count > self._model.region_size(region):
            raise RemoteProtocolError(f"region {region}: {count} bytes at {offset:#x}")

    def _device_reset(self, message: Message) -> bytes:
        if message.payload:
            raise RemoteProtocolError("DEVICE_RESET with a payload")
        self._model.device_reset()
        return b""


def _reply(header: Header, payload: bytes, error: int = 0) -> bytes:
    flags = Flags.REPLY | (Flags.ERROR if error else 0)
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


def _argsz(layout: struct.Struct, message: Message) -> tuple[int, ...]:
    """Return the fields of an information request; its argsz must have room for the answer."""
    if len(message.payload) < layout.size:
        raise RemoteProtocolError(f"{len(message.payload)} bytes where {layout.size} are needed")
    fields = layout.unpack_from(message.payload)
    if fields[0] < layout.size:
        raise RemoteProtocolError(f"argsz {fields[0]} has no room for {layout.size} bytes")
    return fields


def _check_capabilities(text: bytes) -> None:
    if not text.endswith(b"\0"):
        raise RemoteProtocolError("VERSION: the capabilities do not end with NUL")
    try:
        loaded = json.loads(text[:-1] or b"{}")
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"VERSION: the capabilities are no JSON: {error}") from error
    if not isinstance(loaded, dict) or not isinstance(loaded.get("capabilities", {}), dict):
        raise RemoteProtocolError("VERSION: the capabilities are no object")
