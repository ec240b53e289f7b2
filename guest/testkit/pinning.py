# SPDX-License-Identifier: Apache-2.0
"""Memory to pin, checks of its segments by the device, and refusals of the driver."""

from __future__ import annotations

import ctypes
import mmap
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dma_rehearsal.guest.iobuffer import IOBusyError, IOCannotWireError, IODeviceError, IOReturn
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.linux.page_frames import HUGE, MAP_HUGETLB
from dma_rehearsal.guest.testkit.attestation import Attest, CheckFailed
from dma_rehearsal.guest.testkit.dma_checker import DmaChecker
from dma_rehearsal.guest.testkit.patterns import Patterns, inverted

PINNED = "pinned pages"
Segments = list[tuple[int, int]]


def pieces(bench: DmaChecker, segments: Segments) -> Iterator[tuple[int, int, int]]:
    """Yield (offset, address, length) of DMAs that cover the segments in order."""
    offset = 0
    for start, length in segments:
        for at, part in bench.parts(start, length):
            yield offset + at, start + at, part
        offset += length


def device_sees(bench: DmaChecker, segments: Segments, data: bytes) -> None:
    """Let the device read the segments; they must hold ``data``."""
    total = 0
    for offset, address, part in pieces(bench, segments):
        chunk = data[offset : offset + part]
        bench.load(inverted(chunk))
        due = zlib.crc32(chunk)
        record = bench.move(address, part, due, write_memory=False)
        if record is not None and record.crc32 != due:
            raise CheckFailed(
                f"{part} bytes at {address:#x}, offset {offset:#x} of {len(data)}: the device's "
                f"CRC is {record.crc32:08x}, that of the bytes there {due:08x}"
            )
        total += part
    if total != len(data):
        raise CheckFailed(f"the segments hold {total} bytes of {len(data)}")


def device_stores(bench: DmaChecker, segments: Segments, data: bytes) -> None:
    """Let the device write ``data`` to the segments."""
    for offset, address, part in pieces(bench, segments):
        chunk = data[offset : offset + part]
        bench.load(chunk)
        bench.move(address, part, zlib.crc32(chunk), write_memory=True)


@contextmanager
def mapped(kind: str, length: int) -> Iterator[mmap.mmap]:
    """Map memory of a kind within the ``with``; small pages are scattered."""
    hugepages = Path("/proc/sys/vm/nr_hugepages")
    if kind == "hugetlb":
        hugepages.write_text("4\n")
        length = (length + HUGE - 1) // HUGE * HUGE
        made = mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_HUGETLB)
    elif kind == "memfd":
        fd = os.memfd_create("pinned")
        os.ftruncate(fd, length)
        made = mmap.mmap(fd, length, mmap.MAP_SHARED)
        os.close(fd)
    else:
        made = mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if kind != "hugetlb":
        made.madvise(mmap.MADV_NOHUGEPAGE)
        for page in (*range(0, length, 2 * PAGE), *range(PAGE, length, 2 * PAGE)):
            made[page] = 1
    try:
        yield made
    finally:
        made.close()
        if kind == "hugetlb":
            hugepages.write_text("0\n")


def attest_soundness(
    bench: DmaChecker, data: Patterns, attest: Attest, promise: str, asked: str
) -> None:
    """Attest after refusals that pinning still works, as the device sees it."""
    content = data.take(PAGE)
    with mapped("anonymous", PAGE) as memory:
        memory[:] = content
        with bench.driver.pin(address_of(memory), PAGE) as pin:
            device_sees(bench, pin.segments(), content)
            place = pin.segments()[0][0]
    attest(promise, asked=asked, attested=f"then {PAGE} bytes at {place:#x}", kept=True)


def used_hugepages() -> int:
    """Return the number of huge pages in use: where none is free, the kernel makes some."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["HugePages_Total"]) - int(lines["HugePages_Free"])


def address_of(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def refusal(action: Callable[..., object], *arguments: object) -> IOReturn:
    """Return the code with which a call is refused."""
    with pytest.raises((IODeviceError, IOCannotWireError, IOBusyError)) as caught:
        action(*arguments)
    return caught.value.code
