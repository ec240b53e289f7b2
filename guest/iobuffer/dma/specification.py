# SPDX-License-Identifier: Apache-2.0
"""The specification of a DMA engine: the format of its addresses, and the limits of a segment."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final, Self

from dma_rehearsal.guest.iobuffer.base.errors import IOBadArgumentError, IONotReadyError
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE, Segment, align_down

_PAGE_BITS: Final = PAGE.bit_length() - 1


class MappingOptions(IntEnum):
    """The use that a command makes of the mapper (the IOMMU), where there is one.

    Mapped: through it. Bypassed: around it, refused where there is one. NonCoherent: as Mapped, for
    a device that does not see the CPU's caches. Unmapped: around it, allowed where there is one:
    segments are physical then, and only memory with kIOMemoryMapperNone lies there on the bus.
    """

    kMapped = 0
    kBypassed = 1
    kNonCoherent = 2
    kUnmapped = 3


class SegmentFunction(Enum):
    """The format of a segment for a device, as xnu's functions of that name write it.

    Each is (format of one address-length pair, bits of each of the two).
    """

    OutputHost32 = "=II", 32
    OutputBig32 = ">II", 32
    OutputLittle32 = "<II", 32
    OutputHost64 = "=QQ", 64
    OutputBig64 = ">QQ", 64
    OutputLittle64 = "<QQ", 64

    @property
    def bits(self) -> int:
        """Bits of an address, and of a length: 32 or 64."""
        return self.value[1]

    def pack(self, segments: Iterable[Segment]) -> bytes:
        """Return the segments' addresses and lengths in turn, as the device reads them."""
        return b"".join(struct.pack(self.value[0], *segment) for segment in segments)


@dataclass(frozen=True, slots=True)
class Specification:
    """Limits of one DMA engine. Lengths in bytes; 0 means without limit, or without alignment.

    ``address_bits``: bits of a bus address, 12 to 64. ``max_segment``, ``max_transfer``: bytes of a
    segment, and of one prepare(). ``max_segments``: the most segments of one prepare().
    ``boundary``: no segment crosses a multiple of it. ``alignment``: of the first segment's
    address; ``internal_alignment``: of every other's (0: ``alignment``). ``length_alignment``: of
    the length, of every segment as of the whole. Alignments and the boundary are powers of two.

    ``mapper``: the IOMMU that the device is behind, None without.

    Raises `IOBadArgumentError` for values out of range, or that contradict each other.
    """

    output: SegmentFunction = SegmentFunction.OutputHost64
    address_bits: int = 0
    max_segment: int = 0
    mapping: MappingOptions = MappingOptions.kMapped
    max_transfer: int = 0
    alignment: int = 0
    length_alignment: int = 0
    internal_alignment: int = 0
    boundary: int = 0
    max_segments: int = 0
    mapper: object | None = None

    def __post_init__(self) -> None:
        """Replace the zeros by their meaning, and check."""
        self._check_numbers()
        self._set("address_bits", self.address_bits or self.output.bits)
        self._set("alignment", self.alignment or 1)
        self._set("length_alignment", self.length_alignment or 1)
        self._set("internal_alignment", self.internal_alignment or self.alignment)
        if self.output.bits < self.address_bits:
            raise IOBadArgumentError(
                f"{self.output.name} has no room for {self.address_bits} address bits"
            )
        if not _PAGE_BITS <= self.address_bits <= 64:
            raise IOBadArgumentError(f"{self.address_bits} address bits: {_PAGE_BITS} to 64")
        if self.mapping is MappingOptions.kBypassed and self.mapper is not None:
            raise IOBadArgumentError(f"kBypassed: the device is behind {self.mapper}")
        if self.granule >> self.address_bits:
            raise IOBadArgumentError(
                f"alignment {self.granule} with {self.address_bits} address bits"
            )
        for name in "max_segment", "boundary":
            limit = getattr(self, name)
            if 0 < limit < self.granule:
                raise IOBadArgumentError(f"{name} {limit} is below the alignment {self.granule}")
        if 0 < self.max_transfer < self.length_alignment:
            raise IOBadArgumentError(
                f"max_transfer {self.max_transfer} is below the length's alignment "
                f"{self.length_alignment}"
            )

    @classmethod
    def of_device(
        cls,
        *,
        address_bits: int = 64,
        alignment: int = 1,
        length_alignment: int = 1,
        max_segment: int = 0,
        boundary: int = 0,
        max_segments: int = 0,
        max_transfer: int = 0,
        mapping: MappingOptions = MappingOptions.kMapped,
        mapper: object | None = None,
    ) -> Self:
        """Return the specification of a device's constraints, which hold for each segment.

        0 means without limit. Errors as for the class.
        """
        return cls(
            address_bits=address_bits,
            max_segment=max_segment,
            mapping=mapping,
            max_transfer=max_transfer,
            alignment=alignment,
            length_alignment=length_alignment,
            boundary=boundary,
            max_segments=max_segments,
            mapper=mapper,
        )

    @property
    def address_limit(self) -> int:
        """The first address that is too high."""
        return 1 << self.address_bits

    @property
    def granule(self) -> int:
        """An alignment with which memory and its pieces satisfy all of the others."""
        return max(self.alignment, self.internal_alignment, self.length_alignment)

    @property
    def mapped(self) -> bool:
        """Whether a mapper translates; then memory is within the device's reach by its doing."""
        return self.mapper is not None and self.mapping is not MappingOptions.kUnmapped

    def reaches(self, segment: Segment) -> bool:
        """Whether the device has address bits enough for all of a segment."""
        return sum(segment) <= self.address_limit

    def cut(self, memory: Iterable[Segment]) -> list[Segment] | None:
        """Return memory in segments that the device can do; None: alignment forbids.

        Addresses above the limit are not looked at.
        """
        pieces: list[Segment] = []
        for start, size in memory:
            address, left = start, size
            while left:
                piece = self._piece(address, left)
                if not piece:
                    return None
                pieces.append((address, piece))
                address += piece
                left -= piece
        return pieces if self._is_aligned(pieces) else None

    def _piece(self, address: int, length: int) -> int:
        """Return the longest segment that can begin there, 0 when none of its ends would do."""
        room = min(length, self.max_segment or length)
        if self.boundary:
            room = min(room, self.boundary - address % self.boundary)
        if room == length:
            return length
        # A cut piece must end where another one may begin, and have an allowed length.
        if self.length_alignment >= self.internal_alignment:
            return align_down(room, self.length_alignment)
        return max(0, align_down(address + room, self.internal_alignment) - address)

    def _is_aligned(self, pieces: list[Segment]) -> bool:
        wanted = self.alignment
        for number, (address, length) in enumerate(pieces, 1):
            last = number == len(pieces)  # its length's alignment is that of the whole
            if address % wanted or (length % self.length_alignment and not last):
                return False
            wanted = self.internal_alignment
        return True

    def _check_numbers(self) -> None:
        for name in (
            "address_bits",
            "max_segment",
            "max_transfer",
            "max_segments",
            "alignment",
            "length_alignment",
            "internal_alignment",
            "boundary",
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 64:
                raise IOBadArgumentError(f"{name} {value!r}: an int from 0 to 2^64 - 1")
            if value & (value - 1) and ("alignment" in name or name == "boundary"):
                raise IOBadArgumentError(f"{name} {value}: a power of two")
        for name, kind in ("output", SegmentFunction), ("mapping", MappingOptions):
            try:
                self._set(name, kind(getattr(self, name)))
            except ValueError:
                names = ", ".join(each.name for each in kind)
                raise IOBadArgumentError(f"{name} {getattr(self, name)!r}: {names}") from None

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


class Specified:
    """The base of objects that are made for one DMA engine, and name it."""

    def __init__(self, specification: Specification | None) -> None:
        self._specification = specification

    @property
    def specification(self) -> Specification | None:
        """The device's limits, None before there are any."""
        return self._specification

    def getNumAddressBits(self) -> int:
        """Return the bits of a bus address."""
        return self._specified().address_bits

    def getAlignment(self) -> int:
        """Return the alignment of the first segment's address, in bytes."""
        return self._specified().alignment

    def getAlignmentLength(self) -> int:
        """Return the alignment of lengths, in bytes."""
        return self._specified().length_alignment

    def getAlignmentInternalSegments(self) -> int:
        """Return the alignment of the other segments' addresses, in bytes."""
        return self._specified().internal_alignment

    def getMaximumSegmentSize(self) -> int:
        """Return the bytes of the longest segment, 0 for no limit."""
        return self._specified().max_segment

    def getMaximumTransferSize(self) -> int:
        """Return the bytes of the longest transfer, 0 for no limit."""
        return self._specified().max_transfer

    def _specified(self) -> Specification:
        if self._specification is None:
            raise IONotReadyError(f"{self!r} has no specification")
        return self._specification
