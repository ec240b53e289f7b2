"""Limits that a real device's DMA engine has, set in BAR3 to rehearse a driver against them."""

from __future__ import annotations

from collections.abc import Sequence

from device.endpoints.bus import DmaRefused
from device.endpoints.registers import Access, Register, RegisterFile
from device.layout import DmaReason, Ext

from .transfer import Segment

CONSTRAINTS = (
    *(Ext.ADDRESS_BITS, Ext.ALIGNMENT, Ext.MAX_SEGMENT),
    *(Ext.BOUNDARY, Ext.MAX_SEGMENTS),
)
_ADDRESS_BITS = 64


class Constraints:
    """0 in a register is no limit. Any other number is one, powers of two or not.

    ADDRESS_BITS: the last byte's address has at most so many bits. ALIGNMENT: an address is a
    multiple of it. MAX_SEGMENT: bytes of a segment. BOUNDARY: no segment crosses a multiple of it.
    MAX_SEGMENTS: of one transfer.
    """

    def __init__(self, extension: RegisterFile) -> None:
        self._extension = extension
        extension.add((Register(each, Access.RW) for each in CONSTRAINTS), self)

    def check(self, segments: Sequence[Segment]) -> None:
        """Refuse a transfer that breaks a limit: DmaRefused names the first one."""
        bits, alignment, largest, boundary, count = (self._extension[each] for each in CONSTRAINTS)
        if count and len(segments) > count:
            raise DmaRefused(DmaReason.MAX_SEGMENTS, segments[0].address)
        for segment in segments:
            address, last = segment.address, segment.address + max(segment.length, 1) - 1
            if bits and last >> min(bits, _ADDRESS_BITS):
                raise DmaRefused(DmaReason.ADDRESS_BITS, address)
            if alignment and address % alignment:
                raise DmaRefused(DmaReason.ALIGNMENT, address)
            if largest and segment.length > largest:
                raise DmaRefused(DmaReason.MAX_SEGMENT, address)
            if boundary and address // boundary != last // boundary:
                raise DmaRefused(DmaReason.BOUNDARY, address)
