# SPDX-License-Identifier: Apache-2.0
"""DmaChecker: moves data with the exerciser, and compares it on both sides."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Protocol

from dma_rehearsal.device.layout import PRP_PAGE, DmaCtl, DmaDirection, DmaReason, DmaRule
from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.guest.drivers.exerciser import DmaRecord, Exerciser
from dma_rehearsal.guest.iobuffer import IOMemoryDescriptor
from dma_rehearsal.guest.testkit.attestation import CheckFailed, is_verdict
from dma_rehearsal.guest.testkit.board import NO_EXERCISER, Board
from dma_rehearsal.guest.testkit.patterns import difference, inverted, joined_crc32

__tracebackhide__ = is_verdict

DMAS_MAX = 64  # for one buffer
_PLAIN = DmaCtl(0)


class CheckedMemory(Protocol):
    """Memory that the device reaches: a descriptor, or a type with these members."""

    @property
    def address(self) -> int:
        """Where it is mapped in this process."""

    def getLength(self) -> int:
        """Return its bytes."""

    def getPhysicalAddress(self) -> int:
        """Return where the device finds the first byte."""

    def segments(self, offset: int = 0, length: int | None = None) -> list[tuple[int, int]]:
        """Return (bus address, bytes) of a part, in order."""

    def readBytes(self, offset: int, length: int) -> bytes:
        """Return what the CPU finds there."""

    def writeBytes(self, offset: int, data: bytes) -> int:
        """Store bytes as the CPU does."""


def _span(address: int, length: int, direction: DmaDirection) -> str:
    return f"{direction.name} of {length} bytes at {address:#x}"


@dataclass(frozen=True, slots=True)
class Transferred:
    """A transfer in several DMAs as the device recorded it, or a range as the witness saw it."""

    address: int
    length: int
    dmas: int
    crc32: int

    def __str__(self) -> str:
        dmas = "1 DMA" if self.dmas == 1 else f"{self.dmas} DMAs"
        return f"{self.length} bytes at {self.address:#x} in {dmas}, CRC {self.crc32:08x}"


@dataclass(slots=True, kw_only=True)
class DmaChecker(Board):
    """A board with the built-in exerciser: moves data with it and compares on both sides."""

    device: Exerciser
    staging: CheckedMemory

    def fits(self, length: int) -> int:
        """Return the length, or the next one that the device can move.

        For a device with short DMAs it cuts a long length to a limited number of DMAs.
        """
        most = DMAS_MAX * self.limits.largest
        return self.limits.rounded(length if length <= most else most + length % 2)

    def one_dma(self, length: int) -> int:
        """Return the length, or the most that one DMA moves from an address aligned to it."""
        return min(length, self.limits.largest, self.device.buffer_size)

    def scattered(self, count: int) -> list[int]:
        """Return lengths of up to ``count`` segments of one transfer, at the starts of pages."""
        count = min(count, self.limits.max_segments)
        if self.limits.rule is DmaRule.PRP:
            room = min(self.device.buffer_size, self.limits.max_transfer) // PRP_PAGE
            return [PRP_PAGE] * (min(count, room) - 1) + [self.fits(200)]
        lengths = [self.fits(200 - index) for index in range(count)]
        while sum(lengths) > min(self.device.buffer_size, self.limits.max_transfer):
            lengths.pop()
        return lengths

    def parts(
        self, address: int, length: int, cuts: Iterable[int] | None = None
    ) -> Iterator[tuple[int, int]]:
        """Yield offset and length of the DMAs that move a range, one segment and buffer each.

        They end at least at the ``cuts``, which are lengths, if the device's alignment allows that.
        """
        position = wanted = 0
        for cut in cuts if cuts is not None else (length,):
            wanted += cut
            end = wanted if wanted == length else wanted - wanted % self.limits.step
            largest = self.device.buffer_size
            for part in self.limits.split(address + position, end - position, largest):
                yield position, part
                position += part

    def pieces(
        self,
        buffer: CheckedMemory | IOMemoryDescriptor,
        length: int,
        parts: Iterable[int] | None = None,
    ) -> Iterator[tuple[int, int]]:
        """Yield (bus address, length) of DMAs over the buffer's segments, in order.

        Each of ``parts`` is one DMA, unless the end of a segment or the device's limits cut
        it.
        """
        ends = [*accumulate(parts)] if parts is not None else [length]
        done = 0
        for address, size in buffer.segments(0, length):
            within = sorted({min(max(end - done, 0), size) for end in ends})
            cuts = [end - start for start, end in pairwise([0, *within])]
            for start, part in self.parts(address, size, cuts):
                yield address + start, part
            done += size

    def dma(
        self,
        address: int,
        length: int,
        *,
        write_memory: bool,
        offset: int = 0,
        no_snoop: bool = False,
    ) -> DmaRecord:
        """Run one DMA that must succeed, and compare the device's record with what was asked."""
        record = self.device.dma(
            address, length, write_memory=write_memory, offset=offset, no_snoop=no_snoop
        )
        self._as_asked(record, address, length, write_memory=write_memory, offset=offset)
        return record

    def refused_dma(
        self,
        reason: DmaReason,
        address: int,
        length: int,
        *,
        write_memory: bool,
        offset: int = 0,
        no_snoop: bool = False,
        control: DmaCtl = _PLAIN,
    ) -> DmaRecord:
        """Run one DMA that must be refused for this reason, and announce that; return its record.

        `CheckFailed` when it is not refused, or for another reason. NONE: it must be done.
        """
        with nullcontext() if reason is DmaReason.NONE else self.device.expects(reason):
            return self.device.dma(
                address,
                length,
                write_memory=write_memory,
                offset=offset,
                no_snoop=no_snoop,
                control=control,
            )

    def _as_asked(
        self, record: DmaRecord, address: int, length: int, *, write_memory: bool, offset: int
    ) -> None:
        """Compare a record with what was asked; it must be a success."""
        asked = DmaDirection.WRITE_MEMORY if write_memory else DmaDirection.READ_MEMORY
        used = record.address, record.length, record.direction, record.offset
        same = used == (address, length, asked, offset) and record.used in (None, address)
        if same and record.ok:
            return
        wrong = [
            f"{name}: asked {want}, the device used {found}"
            for name, want, found in (
                ("address", hex(address), hex(record.address)),
                ("length", length, record.length),
                ("direction", asked.name, record.direction.name),
                ("offset", offset, record.offset),
            )
            if want != found
        ]
        if record.ok and record.used not in (None, address):
            wrong.append(f"the address on the bus was {record.used:#x}")
        if not record.ok:
            wrong.append(f"status {record.status.name}, reason {record.reason.name}")
        raise CheckFailed(f"DMA {_span(address, length, asked)}: {'; '.join(wrong)}")

    def device_reads(
        self,
        buffer: CheckedMemory | IOMemoryDescriptor,
        data: bytes,
        parts: Iterable[int] | None = None,
    ) -> Transferred:
        """Store ``data`` in the buffer; the device reads it and must see exactly these bytes."""
        buffer.writeBytes(0, data)
        return self.device_sees(buffer, data, parts)

    def device_sees(
        self,
        buffer: CheckedMemory | IOMemoryDescriptor,
        data: bytes,
        parts: Iterable[int] | None = None,
    ) -> Transferred:
        """Have the device read the buffer; its checksum must be that of ``data``.

        Before each DMA the device's own buffer holds other bytes at every place, so that
        old bytes cannot give the right checksum.
        """
        base = buffer.getPhysicalAddress()
        position, dmas, total = 0, 0, 0
        for address, part in self.pieces(buffer, len(data), parts):
            chunk = data[position : position + part]
            self.load(inverted(chunk))
            record = self.dma(address, part, write_memory=False)
            due = zlib.crc32(chunk)
            if record.crc32 != due:
                span = _span(address, part, DmaDirection.READ_MEMORY)
                raise CheckFailed(
                    f"{span} (offset {position:#x} of {len(data)}): the device's CRC is "
                    f"{record.crc32:08x}, that of the bytes there {due:08x}; "
                    f"{self._in_device(chunk)}"
                )
            total = due if position == 0 else zlib.crc32(chunk, total)
            position += part
            dmas += 1
        whole = _span(base, len(data), DmaDirection.READ_MEMORY)
        if position != len(data):
            raise CheckFailed(f"{whole}: {position} bytes were read")
        found = difference(data, buffer.readBytes(0, len(data)))
        if found:
            raise CheckFailed(f"{whole}: a read changed memory: {found}")
        return Transferred(base, position, dmas, total)

    def load(self, data: bytes) -> None:
        """Bring ``data`` into the start of the device's buffer: the device reads it.

        Up to the next length that the device can move it also reads the bytes that were
        staged before.
        """
        self.staging.writeBytes(0, data)
        length = self.fits(len(data))
        staged = data if length == len(data) else self.staging.readBytes(0, length)
        address = self.staging.getPhysicalAddress()
        for start, part in self.parts(address, length):
            due = zlib.crc32(staged[start : start + part])
            record = self.move(address + start, part, due, write_memory=False, offset=start)
            if record is not None and record.crc32 != due:
                raise CheckFailed(
                    f"{_span(address + start, part, DmaDirection.READ_MEMORY)}, to load the "
                    f"device's buffer: the device's CRC is {record.crc32:08x}, that of the bytes "
                    f"there {due:08x}; {self._in_device(data)}"
                )

    def move(
        self,
        address: int,
        length: int,
        due: int | Callable[[], bytes],
        *,
        write_memory: bool,
        offset: int = 0,
    ) -> DmaRecord | None:
        """Run one DMA; None when the device counts it, and its CRC is ``due``.

        ``due`` may also be a function that returns the bytes afterwards. Otherwise the
        record, which takes some ten more register reads, is compared with what was asked,
        and returned.
        """
        device = self.device
        before = device.dma_count
        device.start_dma(address, length, write_memory=write_memory, offset=offset)
        count, crc32 = device.last_dma
        done = count == (before + 1) & 0xFFFF_FFFF
        if done and crc32 == (due if isinstance(due, int) else zlib.crc32(due())):
            return None
        record = device.end_dma(before)
        self._as_asked(record, address, length, write_memory=write_memory, offset=offset)
        return record

    def stored(self, length: int) -> bytes:
        """Return the first bytes of the device's buffer: the device writes them to memory."""
        staging = self.staging
        address = staging.getPhysicalAddress()
        # The bytes loaded from here may still be here; they must not pass for the DMA's.
        staging.writeBytes(0, inverted(staging.readBytes(0, length)))
        for start, part in self.parts(address, self.fits(length)):
            here = partial(staging.readBytes, start, part)
            self.move(address + start, part, here, write_memory=True, offset=start)
        return staging.readBytes(0, length)

    def device_writes(
        self,
        buffer: CheckedMemory | IOMemoryDescriptor,
        data: bytes,
        parts: Iterable[int] | None = None,
    ) -> Transferred:
        """Have the device write ``data`` to the buffer; the CPU must then find exactly these bytes.

        Before that, the buffer holds other bytes at every place.
        """
        base = buffer.getPhysicalAddress()
        buffer.writeBytes(0, inverted(data))
        position, dmas, total = 0, 0, 0
        for address, part in self.pieces(buffer, len(data), parts):
            self.load(data[position : position + part])
            record = self.dma(address, part, write_memory=True)
            total = joined_crc32(total, record.crc32, part)
            position += part
            dmas += 1
        found = difference(data, buffer.readBytes(0, len(data)))
        whole = _span(base, len(data), DmaDirection.WRITE_MEMORY)
        if found:
            raise CheckFailed(f"{whole}: the CPU finds other bytes: {found}")
        if position != len(data) or total != zlib.crc32(data):
            raise CheckFailed(
                f"{whole}: {position} bytes were written, the device's CRC over all {total:08x}, "
                f"that of the bytes there {zlib.crc32(data):08x}"
            )
        return Transferred(base, position, dmas, total)

    def device_writes_by_page(
        self, buffer: CheckedMemory | IOMemoryDescriptor, data: bytes
    ) -> Transferred:
        """As `device_writes`, with a DMA for each page by its bus address, in order."""
        return self.device_writes(buffer, data, [PAGE] * (len(data) // PAGE + 1))

    def _in_device(self, data: bytes) -> str:
        """Describe where the start of the device's buffer differs from ``data``."""
        try:
            found = difference(data, self.stored(len(data)))
        except CheckFailed as error:
            found = str(error)
        return f"what the device writes back: {found or 'the right bytes'}"


def dma_checker_of(board: Board, what: str) -> DmaChecker:
    """Return the board as a `DmaChecker`; `CheckFailed` says that ``what`` needs the exerciser."""
    if not isinstance(board, DmaChecker):
        raise CheckFailed(NO_EXERCISER.format(f"{what} need"))
    return board
