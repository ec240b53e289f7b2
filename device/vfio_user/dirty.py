# SPDX-License-Identifier: Apache-2.0
"""Which pages the device wrote: VFIO_DEVICE_FEATURE_DMA_LOGGING_*.

One bit for each 4 KiB page, in chunks of 128 MiB that exist while they have a dirty page.
"""

from __future__ import annotations

from bisect import bisect_right

from dma_rehearsal.device.vfio_user.errors import RemoteProtocolError
from dma_rehearsal.device.vfio_user.messages import MAX_DATA_XFER, PAGE_SIZE

MAX_RANGES = 1024
_ADDRESS_END = 1 << 64
_CHUNK_BYTES = 4096
_CHUNK_PAGES = 8 * _CHUNK_BYTES
_NONE, _ALL = bytes(_CHUNK_BYTES), b"\xff" * _CHUNK_BYTES
# 64 MiB of bits, for 2 TiB of written memory: a client can map what was written elsewhere, anew.
MAX_CHUNKS = 1 << 14
# As many pages as a bitmap of the largest transfer has bits.
MAX_REPORT_PAGES = 8 * MAX_DATA_XFER

# Two neighbouring bits into one (in the low half of the byte), and one bit into two.
_HALVE = bytes(sum(((byte >> 2 * i & 3) != 0) << i for i in range(4)) for byte in range(256))
_DOUBLE = [sum((nibble >> i & 1) * 3 << 2 * i for i in range(4)) for nibble in range(16)]
_DOUBLE_LOW = bytes(_DOUBLE[byte & 15] for byte in range(256))
_DOUBLE_HIGH = bytes(_DOUBLE[byte >> 4] for byte in range(256))


def _halved(bits: bytes) -> bytes:
    nibbles = bits.translate(_HALVE)
    if len(nibbles) % 2:
        nibbles += b"\0"
    low, high = nibbles[0::2], nibbles[1::2]
    both = int.from_bytes(low, "little") | int.from_bytes(high, "little") << 4
    return both.to_bytes(len(low), "little")


def _doubled(bits: bytes) -> bytes:
    found = bytearray(2 * len(bits))
    found[0::2] = bits.translate(_DOUBLE_LOW)
    found[1::2] = bits.translate(_DOUBLE_HIGH)
    return bytes(found)


def _in_pages(ranges: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Return the pages of ranges (address, length), those that touch joined: beginnings, ends."""
    starts: list[int] = []
    ends: list[int] = []
    for address, length in sorted(ranges):
        start, end = address // PAGE_SIZE, (address + length - 1) // PAGE_SIZE + 1
        if ends and start <= ends[-1]:
            ends[-1] = max(ends[-1], end)
        else:
            starts.append(start)
            ends.append(end)
    return starts, ends


class DmaLog:
    """The dirty pages of one client's memory."""

    def __init__(self) -> None:
        self.active = False
        # Numbers of pages: where each range begins, and the first one behind it; in order, apart.
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._chunks: dict[int, bytearray] = {}
        self._lost = False  # a page, for want of a chunk

    def start(self, page_size: int, ranges: list[tuple[int, int]]) -> int:
        """Log writes to ``ranges`` (address, length), all when there are none.

        Each page that a range has a byte of is logged whole.
        ``page_size`` is a hint, a power of two; return the size that is used. RemoteProtocolError
        (EINVAL) for a size or a range that cannot be, and when logging is on already.
        """
        if self.active:
            raise RemoteProtocolError("DMA logging is on already")
        if page_size <= 0 or page_size & (page_size - 1):
            raise RemoteProtocolError(f"DMA logging of pages of {page_size} bytes")
        if any(length == 0 or start + length > _ADDRESS_END for start, length in ranges):
            raise RemoteProtocolError("DMA logging of a range that is empty or wraps")
        self.active = True
        self._starts, self._ends = _in_pages(ranges)
        return PAGE_SIZE

    def stop(self) -> None:
        """Be off, and forget everything. Off already: not an error, as in Linux's drivers."""
        self.active = False
        self._starts.clear()
        self._ends.clear()
        self._chunks.clear()
        self._lost = False

    def wrote(self, address: int, length: int) -> None:
        """Note that the device wrote, or is about to write, a range that is mapped."""
        if not self.active or length <= 0:
            return
        first, end = address // PAGE_SIZE, (address + length - 1) // PAGE_SIZE + 1
        if not self._starts:
            self._mark(first, end)
            return
        position = bisect_right(self._ends, first)
        while position < len(self._starts) and self._starts[position] < end:
            self._mark(max(first, self._starts[position]), min(end, self._ends[position]))
            position += 1

    def _mark(self, page: int, end: int) -> None:
        while page < end:
            number, first = divmod(page, _CHUNK_PAGES)
            count = min(end - page, _CHUNK_PAGES - first)
            page += count
            chunk = self._chunks.get(number)
            if chunk is None:
                if len(self._chunks) >= MAX_CHUNKS:
                    self._lost = True
                    continue
                chunk = self._chunks[number] = bytearray(_CHUNK_BYTES)
            low, high = first // 8, (first + count - 1) // 8 + 1
            bits = int.from_bytes(chunk[low:high], "little")
            bits |= ((1 << count) - 1) << first % 8
            chunk[low:high] = bits.to_bytes(high - low, "little")

    def report(self, address: int, length: int, page_size: int) -> bytes:
        """Return the bitmap of a range, whole 64-bit words, and forget what it says.

        A client that had more of its memory written than there are chunks for is told that all of
        the rest was. RemoteProtocolError (EINVAL) when logging is off, for a page size that is not
        a power of two, a range that is empty, not aligned or wraps, or one with more pages than a
        reply has bits.
        """
        if not self.active:
            raise RemoteProtocolError("DMA logging is off")
        if page_size <= 0 or page_size & (page_size - 1):
            raise RemoteProtocolError(f"a report of pages of {page_size} bytes")
        whole = max(page_size, PAGE_SIZE)
        if length == 0 or address % whole or address + length > _ADDRESS_END:
            raise RemoteProtocolError(f"a report of {length:#x} bytes at {address:#x}")
        pages = -(-length // PAGE_SIZE)
        if max(pages, -(-length // page_size)) > MAX_REPORT_PAGES:
            raise RemoteProtocolError(f"a report of {length:#x} bytes is too long")
        bits = self._take(address // PAGE_SIZE, pages)
        size = PAGE_SIZE
        while size < page_size and any(bits):
            bits, size = _halved(bits), 2 * size
        while size > page_size:
            bits, size = _doubled(bits), size // 2
        count = -(-length // page_size)
        wanted = int.from_bytes(bits, "little") & ((1 << count) - 1)
        return wanted.to_bytes(8 * -(-count // 64), "little")

    def _take(self, page: int, count: int) -> bytes:
        """Return the bits of ``count`` pages, and clear them."""
        end, parts = page + count, []
        for number in range(page // _CHUNK_PAGES, (end - 1) // _CHUNK_PAGES + 1):
            start = number * _CHUNK_PAGES
            first, last = max(page - start, 0), min(end - start, _CHUNK_PAGES)
            chunk = self._chunks.get(number)
            if chunk is None:
                parts.append(_ALL if self._lost else _NONE)
                continue
            bits = int.from_bytes(chunk, "little")
            taken = bits & (1 << last) - (1 << first)
            if bits == taken:
                del self._chunks[number]
            else:
                chunk[:] = (bits ^ taken).to_bytes(_CHUNK_BYTES, "little")
            parts.append(taken.to_bytes(_CHUNK_BYTES, "little"))
        found = int.from_bytes(b"".join(parts), "little") >> page % _CHUNK_PAGES
        found &= (1 << count) - 1
        return found.to_bytes(-(-count // 8), "little")
