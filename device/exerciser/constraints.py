# SPDX-License-Identifier: Apache-2.0
"""Limits that a real device's DMA engine has: those of its profile, and tighter ones set in BAR3.

A strict device refuses a transfer beyond a limit; nothing of it moves. A sloppy one has counters
and address lines that are too short, and does what these do: see ``Constraints.used``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.endpoints.registers import Access, Register, RegisterFile
from dma_rehearsal.device.exerciser.profile import Profile
from dma_rehearsal.device.exerciser.transfer import Segment
from dma_rehearsal.device.layout import PRP_PAGE, DmaReason, DmaRule, Ext, ProfileFlag

CONSTRAINTS = (
    *(Ext.ADDRESS_BITS, Ext.ALIGNMENT, Ext.MAX_SEGMENT, Ext.BOUNDARY, Ext.MAX_SEGMENTS),
    *(Ext.LENGTH_ALIGNMENT, Ext.MAX_TRANSFER),
)
_ADDRESS_BITS = 64
_WORD = 0xFFFF_FFFF


def _at_most(own: int, value: int) -> bool:
    return value <= own


def _multiple(own: int, value: int) -> bool:
    return value % own == 0


def _divisor(own: int, value: int) -> bool:
    return own % value == 0


# Whether a value that is not 0 keeps the device's own limit.
_KEEPS: dict[Ext, Callable[[int, int], bool]] = {
    Ext.ADDRESS_BITS: _at_most,
    Ext.ALIGNMENT: _multiple,
    Ext.MAX_SEGMENT: _at_most,
    Ext.BOUNDARY: _divisor,
    Ext.MAX_SEGMENTS: _at_most,
    Ext.LENGTH_ALIGNMENT: _multiple,
    Ext.MAX_TRANSFER: _at_most,
}


class Constraints:
    """Registers of limits. 0 means no limit; any other number is one, a power of two or not.

    ADDRESS_BITS: the last byte's address has at most so many bits. ALIGNMENT: an address is a
    multiple of it; LENGTH_ALIGNMENT: the length is. MAX_SEGMENT: bytes of a segment. BOUNDARY: no
    segment crosses a multiple of it. MAX_SEGMENTS, MAX_TRANSFER (bytes): of one transfer.

    At reset the registers hold the profile's limits. Software may tighten them; a write that would
    loosen one (0 does) puts it back to the profile's. A limit that software has tightened is
    strict, also in a sloppy device.
    """

    def __init__(self, extension: RegisterFile, profile: Profile) -> None:
        self._extension = extension
        self._profile = profile
        self._own = {each: getattr(profile, each.name.lower()) for each in CONSTRAINTS}
        # A rule, or a bound of more than 32 bits, holds whatever the registers say.
        self._always = profile.rule is DmaRule.PRP or self._own[Ext.BOUNDARY] > _WORD
        flags = ProfileFlag.COHERENT * profile.coherent | ProfileFlag.SLOPPY * profile.sloppy
        extension.add(
            (
                *(self._limit(each, own) for each, own in self._own.items()),
                Register(Ext.BOUNDARY_HI, read=self._boundary_hi),
                Register(Ext.PROFILE, reset=int(flags)),
                Register(Ext.PROFILE_CRC32, reset=profile.crc32),
                Register(Ext.PROFILE_RULE, reset=profile.rule),
                Register(Ext.LINE_SIZE, reset=profile.line_size),
                Register(Ext.LATENCY_NS, reset=profile.latency_ns),
                Register(Ext.BANDWIDTH_MB_S, reset=profile.bandwidth_mb_s),
            ),
            self,
        )

    def _limit(self, register: Ext, own: int) -> Register:
        return Register(register, Access.RW, own & _WORD, write=partial(self._tighten, register))

    def _tighten(self, register: Ext, value: int) -> None:
        """Put a limit back that a write of ``value`` would loosen."""
        own = self._own[register]
        if own and not (value and _KEEPS[register](own, value)):
            self._extension[register] = own

    def _boundary_hi(self) -> int:
        return 0 if self._extension[Ext.BOUNDARY] else self._own[Ext.BOUNDARY] >> 32

    def _strict(self, register: Ext) -> int:
        """Return the limit that an address is refused by; 0 without one."""
        value, own = self._extension[register], self._own[register]
        if register is Ext.BOUNDARY:
            value |= self._boundary_hi() << 32
        return 0 if self._profile.sloppy and value == own else value

    def _lines(self) -> int:
        return min(self._strict(Ext.ADDRESS_BITS) or _ADDRESS_BITS, _ADDRESS_BITS)

    def check(self, segments: Sequence[Segment]) -> None:
        """Refuse a transfer that breaks a limit: DmaRefused names the first one."""
        limits = self._extension
        if not (self._always or any(map(limits.values.__getitem__, CONSTRAINTS))):
            return
        first = segments[0].address
        if limits[Ext.MAX_SEGMENTS] and len(segments) > limits[Ext.MAX_SEGMENTS]:
            raise DmaRefused(DmaReason.MAX_SEGMENTS, first)
        total = sum(segment.length for segment in segments)
        if limits[Ext.MAX_TRANSFER] and total > limits[Ext.MAX_TRANSFER]:
            raise DmaRefused(DmaReason.MAX_TRANSFER, first)
        self._check_each(segments)
        if self._profile.rule is DmaRule.PRP and not self._profile.sloppy:
            check_prp(segments)

    def _check_each(self, segments: Sequence[Segment]) -> None:
        """Look the limits up once: segments come by the thousand, and mostly there are none."""
        largest, step = self._extension[Ext.MAX_SEGMENT], self._extension[Ext.LENGTH_ALIGNMENT]
        alignment, boundary = self._strict(Ext.ALIGNMENT), self._strict(Ext.BOUNDARY)
        lines = self._lines()
        if not (largest or step or alignment or boundary or lines < _ADDRESS_BITS):
            return
        for segment in segments:
            address, length = segment.address, segment.length
            last = address + max(length, 1) - 1
            if largest and length > largest:
                raise DmaRefused(DmaReason.MAX_SEGMENT, address)
            if step and length % step:
                raise DmaRefused(DmaReason.LENGTH_ALIGNMENT, address)
            _check_lines(lines, address, last)
            if alignment and address % alignment:
                raise DmaRefused(DmaReason.ALIGNMENT, address)
            if boundary and address // boundary != last // boundary:
                raise DmaRefused(DmaReason.BOUNDARY, address)

    def reach(self, address: int, length: int) -> None:
        """Refuse an address that the device has no lines for."""
        _check_lines(self._lines(), address, address + max(length, 1) - 1)

    def used(self, segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
        """Return the places that the device uses for the ``segments`` that ``check`` let through.

        A strict one uses just these. In a sloppy one the address bits above ``address_bits`` and
        those below ``alignment`` go nowhere, and the counter wraps at a multiple of ``boundary``.
        """
        if not self._profile.sloppy:
            return segments
        bits = self._profile.address_bits or _ADDRESS_BITS
        alignment = self._profile.alignment or 1
        boundary = min(self._profile.boundary or 1 << bits, 1 << bits)
        found: list[Segment] = []
        for segment in segments:
            address = segment.address % (1 << bits)
            found += _wrapped(segment, address - address % alignment, boundary)
        return tuple(found)


def _check_lines(lines: int, address: int, last: int) -> None:
    """Refuse a segment whose ``last`` byte needs more address lines than there are."""
    if lines < _ADDRESS_BITS and last >> lines:
        raise DmaRefused(DmaReason.ADDRESS_BITS, address)


def _wrapped(segment: Segment, address: int, block: int) -> list[Segment]:
    """Return the places of a segment by a counter that wraps within its block of ``block`` bytes.

    The device's buffer and the least boundary of a profile bound their number.
    """
    start = address - address % block
    first = min(segment.length, start + block - address)
    pieces = [Segment(address, first, segment.offset)]
    done = first
    while done < segment.length:
        length = min(segment.length - done, block)
        pieces.append(Segment(start, length, segment.offset + done))
        done += length
    return pieces


def check_prp(segments: Sequence[Segment]) -> None:
    """Refuse what no list of PRPs can say (NVM Express Base 2.0, 4.1.1): DmaRefused.

    The first begins at any dword of a page, the others at offset 0; all but the last go to the end
    of their page, and none beyond.
    """
    last = len(segments) - 1
    for index, segment in enumerate(segments):
        offset = segment.address % PRP_PAGE
        end = offset + segment.length
        aligned = not offset if index else not offset % 4
        if not aligned or end > PRP_PAGE or (index < last and end != PRP_PAGE):
            raise DmaRefused(DmaReason.PRP, segment.address)
