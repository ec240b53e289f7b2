# SPDX-License-Identifier: Apache-2.0
"""Answers a client's questions about the device: DEVICE_GET_INFO, _REGION_INFO, _REGION_IO_FDS,
_IRQ_INFO.

The specification's argsz ("Message sizes"): in a request the room for the reply, in the reply what
a whole one needs.
"""

from __future__ import annotations

import struct

from dma_rehearsal.device.vfio_user import messages as wire
from dma_rehearsal.device.vfio_user.errors import RemoteProtocolError
from dma_rehearsal.device.vfio_user.interrupts import MASKABLE
from dma_rehearsal.device.vfio_user.model import DeviceModel, Mappable


def fields_of(layout: struct.Struct, payload: bytes) -> tuple[int, ...]:
    """Return a request's fields. RemoteProtocolError when it or its argsz is too short."""
    if len(payload) < layout.size:
        raise RemoteProtocolError(f"{len(payload)} bytes where {layout.size} are needed")
    fields = layout.unpack_from(payload)
    if fields[0] < layout.size:
        raise RemoteProtocolError(f"argsz {fields[0]} has no room for {layout.size} bytes")
    return fields


def device_info(payload: bytes) -> bytes:
    """Return the reply to DEVICE_GET_INFO."""
    fields_of(wire.DEVICE_INFO, payload)
    flags = wire.DEVICE_FLAG_PCI | wire.DEVICE_FLAG_RESET
    return wire.DEVICE_INFO.pack(wire.DEVICE_INFO.size, flags, wire.NUM_REGIONS, wire.NUM_IRQS)


def region_info(model: DeviceModel, payload: bytes, max_fds: int) -> tuple[bytes, tuple[int, ...]]:
    """Return the reply to DEVICE_GET_REGION_INFO and the descriptors that go with it.

    A reply that does not fit into the request's argsz is cut behind its fixed part, and brings no
    descriptor: the client asks again with the room that argsz names. A client that takes no
    descriptor, ``max_fds`` being 0, is offered nothing to map.
    """
    argsz, _flags, index, *_ = fields_of(wire.REGION_INFO, payload)
    if index >= wire.NUM_REGIONS:
        raise RemoteProtocolError(f"region {index} does not exist")
    size = model.region_size(index)
    # QEMU quirk: one region that can be mapped turns posted writes off for the whole device, so
    # none can be unless its endpoint asks for it.
    mappable = model.region_mappable(index) if size and max_fds else None
    if mappable is not None and any(first + length > size for first, length in mappable.areas):
        mappable = None  # software has made the region smaller, as Resizable BAR can
    flags = wire.REGION_FLAG_READ if size else 0
    if size and index != wire.ROM_REGION:
        flags |= wire.REGION_FLAG_WRITE
    fixed = wire.REGION_INFO.size
    if mappable is None:
        return wire.REGION_INFO.pack(fixed, flags, index, 0, size, 0), ()
    capability = _sparse(mappable)
    needed = fixed + len(capability)
    flags |= wire.REGION_FLAG_MMAP | wire.REGION_FLAG_CAPS
    # QEMU quirk: cap_offset must lie within argsz, and be right, in a reply that is cut too.
    info = wire.REGION_INFO.pack(needed, flags, index, fixed, size, mappable.offset)
    if argsz < needed:
        return info, ()
    return info + capability, (mappable.descriptor,)


def _sparse(mappable: Mappable) -> bytes:
    header = wire.SPARSE_MMAP.pack(
        wire.SPARSE_MMAP_ID, wire.SPARSE_MMAP_VERSION, 0, len(mappable.areas), 0
    )
    return header + b"".join(wire.SPARSE_AREA.pack(*area) for area in mappable.areas)


def region_io_fds(model: DeviceModel, payload: bytes) -> bytes:
    """Return the reply to DEVICE_GET_REGION_IO_FDS: no sub-region has a descriptor of its own."""
    _argsz, flags, index, count = fields_of(wire.REGION_IO_FDS, payload)
    if flags or count:
        raise RemoteProtocolError(f"DEVICE_GET_REGION_IO_FDS: flags {flags:#x}, count {count}")
    if index >= wire.NUM_REGIONS or not model.region_size(index):
        raise RemoteProtocolError(f"region {index} does not exist")
    return wire.REGION_IO_FDS.pack(wire.REGION_IO_FDS.size, 0, index, 0)


def irq_info(model: DeviceModel, payload: bytes) -> bytes:
    """Return the reply to DEVICE_GET_IRQ_INFO."""
    index = fields_of(wire.IRQ_INFO, payload)[2]
    if index >= wire.NUM_IRQS:
        raise RemoteProtocolError(f"interrupt index {index} does not exist")
    flags = wire.IRQ_FLAG_EVENTFD
    flags |= wire.IRQ_FLAG_MASKABLE if index in MASKABLE else 0
    flags |= wire.IRQ_FLAG_AUTOMASKED if index == wire.Irq.INTX else wire.IRQ_FLAG_NORESIZE
    return wire.IRQ_INFO.pack(wire.IRQ_INFO.size, flags, index, model.irq_count(index))
