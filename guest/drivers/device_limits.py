# SPDX-License-Identifier: Apache-2.0
"""The limits of a device's DMA, as its BAR3 states them, applied to ranges of memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from dma_rehearsal.device.layout import PRP_PAGE, DmaReason, DmaRule, Ext, ExtFeature, ProfileFlag
from dma_rehearsal.guest.drivers.pci_bars import Bar
from dma_rehearsal.guest.iobuffer.dma.specification import Specification

NONE: Final = 1 << 80  # above the end of any range: no limit


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of DMA, sizes in bytes. The defaults describe a device without limits."""

    address_bits: int = 64
    alignment: int = 1
    length_alignment: int = 1
    max_segment: int = NONE
    boundary: int = NONE
    max_segments: int = NONE
    max_transfer: int = NONE
    rule: DmaRule = DmaRule.NONE
    coherent: bool = True
    sloppy: bool = False
    line_size: int = 64

    @classmethod
    def read(cls, extension: Bar) -> Self:
        """Read the limits in force. ValueError for an unknown rule."""

        def limit(register: Ext, without: int) -> int:
            return extension[register] or without

        features = ExtFeature(extension[Ext.FEATURES])
        if ExtFeature.CONSTRAINTS not in features:
            return cls()
        if ExtFeature.PROFILE not in features:  # limits of devices without a profile
            return cls(
                address_bits=limit(Ext.ADDRESS_BITS, 64),
                alignment=limit(Ext.ALIGNMENT, 1),
                max_segment=limit(Ext.MAX_SEGMENT, NONE),
                boundary=limit(Ext.BOUNDARY, NONE),
                max_segments=limit(Ext.MAX_SEGMENTS, NONE),
            )
        flags = ProfileFlag(extension[Ext.PROFILE])
        boundary = extension[Ext.BOUNDARY] | extension[Ext.BOUNDARY_HI] << 32
        return cls(
            address_bits=limit(Ext.ADDRESS_BITS, 64),
            alignment=limit(Ext.ALIGNMENT, 1),
            length_alignment=limit(Ext.LENGTH_ALIGNMENT, 1),
            max_segment=limit(Ext.MAX_SEGMENT, NONE),
            boundary=boundary or NONE,
            max_segments=limit(Ext.MAX_SEGMENTS, NONE),
            max_transfer=limit(Ext.MAX_TRANSFER, NONE),
            rule=DmaRule(extension[Ext.PROFILE_RULE]),
            coherent=ProfileFlag.COHERENT in flags,
            sloppy=ProfileFlag.SLOPPY in flags,
            line_size=limit(Ext.LINE_SIZE, 64),
        )

    @property
    def end(self) -> int:
        """The first address that the device cannot reach."""
        return 1 << self.address_bits

    @property
    def step(self) -> int:
        """Multiples of this are aligned as addresses and as lengths."""
        return max(self.alignment, self.length_alignment)

    @property
    def largest(self) -> int:
        """The most bytes that one DMA of one segment moves, at the best place for the boundary."""
        largest = min(self.max_segment, self.max_transfer, self.boundary)
        return largest - largest % self.step

    def specification(self) -> Specification:
        """Return the specification that an `IODMACommand` for this device has to keep to."""

        def limit(size: int) -> int:
            return 0 if size >= NONE else size

        return Specification.of_device(
            address_bits=self.address_bits,
            alignment=self.alignment,
            length_alignment=self.length_alignment,
            max_segment=limit(self.max_segment),
            boundary=limit(self.boundary),
            max_segments=limit(self.max_segments),
            max_transfer=limit(self.max_transfer),
        )

    def rounded(self, length: int) -> int:
        """Return the length, or the next one that the device can move."""
        return -(-length // self.length_alignment) * self.length_alignment

    def split(self, address: int, length: int, largest: int = NONE) -> list[int]:
        """Return the lengths of DMAs of one segment each that move a range in order.

        Each has up to ``largest`` bytes. ValueError when the address is not aligned, the
        length is not rounded, or no DMA is small enough.
        """
        most = min(largest - largest % self.step, self.largest)
        if most <= 0 or address % self.alignment or length % self.length_alignment:
            raise ValueError(
                f"{length} bytes at {address:#x} in parts of up to {largest}: the device moves "
                f"multiples of {self.length_alignment} from multiples of {self.alignment}"
            )
        lengths = []
        while length:
            part = min(length, most, self.boundary - address % self.boundary)
            lengths.append(part)
            address += part
            length -= part
        return lengths

    def refusal(self, *segments: tuple[int, int]) -> DmaReason:
        """Return the reason for which the device refuses a transfer of segments (address, length).

        NONE when no limit forbids it. A device with sloppy limits takes any address.
        """
        if len(segments) > self.max_segments:
            return DmaReason.MAX_SEGMENTS
        if sum(length for _, length in segments) > self.max_transfer:
            return DmaReason.MAX_TRANSFER
        reasons = (reason for segment in segments if (reason := self._refusal(*segment)))
        prp = self.rule is DmaRule.PRP and not self.sloppy
        return next(reasons, DmaReason.PRP if prp and _breaks_prp(segments) else DmaReason.NONE)

    def _refusal(self, address: int, length: int) -> DmaReason:
        last = address + max(length, 1) - 1
        if length > self.max_segment:
            return DmaReason.MAX_SEGMENT
        if length % self.length_alignment:
            return DmaReason.LENGTH_ALIGNMENT
        if self.sloppy:
            return DmaReason.NONE
        if self.address_bits < 64 and last >= self.end:
            return DmaReason.ADDRESS_BITS
        if address % self.alignment:
            return DmaReason.ALIGNMENT
        if address // self.boundary != last // self.boundary:
            return DmaReason.BOUNDARY
        return DmaReason.NONE


def _breaks_prp(segments: Sequence[tuple[int, int]]) -> bool:
    """Whether the segments cannot be a list of PRPs (NVM Express Base 2.0, 4.1.1)."""
    (first, _), *others = segments
    ends = [(address + length) % PRP_PAGE for address, length in segments[:-1]]
    return bool(first % 4 or any(address % PRP_PAGE for address, _ in others) or any(ends))


UNLIMITED: Final = Limits()
