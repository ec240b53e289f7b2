# SPDX-License-Identifier: Apache-2.0
"""The platform's cache model from user space: a model of a board without coherent I/O.

While it is on, a no-snoop DMA meets the DRAM image of tracked lines, and the commands here move
lines between that image and the CPU's view. It reports wrong calls of a driver.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dma_rehearsal.device.layout import (
    CACHE_REPORTS_MAX,
    CacheCommand,
    CacheDirection,
    CacheMissingCall,
    CacheModelMode,
    CacheOperation,
    CacheReport,
    CacheReportKind,
    CacheStatus,
    Plat,
)
from dma_rehearsal.guest.drivers.pci_bars import Bar
from dma_rehearsal.guest.drivers.platform.command import CommandLock, PlatformDeviceError

__all__ = [
    "CacheDirection",
    "CacheError",
    "CacheMissingCall",
    "CacheModelMode",
    "CacheOperation",
    "CacheReport",
    "CacheReportKind",
    "CacheStatus",
    "CacheUnit",
]

_U32: Final = 1 << 32
_U64: Final = 1 << 64
_WORD: Final = 8  # bytes of one access to BAR1


class CacheError(PlatformDeviceError):
    """The model refused a command, which changed nothing; ``status`` is its reason.

    ``address``: for BUSY the physical, for WALK_NOT_PRESENT the virtual address at fault, else 0.
    """

    def __init__(self, status: CacheStatus, what: str, address: int = 0) -> None:
        super().__init__(f"{what}: {status.name}" + (f" at {address:#x}" if address else ""))
        self.status, self.address = status, address


@dataclass(slots=True)
class CacheUnit:
    """Commands to the model. Offsets and lengths are bytes of a buffer, which ``tag`` names.

    Each raises `CacheError` when it is refused.
    """

    control: Bar
    results: Bar
    lock: CommandLock
    address: str

    def configure(self, mode: CacheModelMode, line: int = 64, seed: int = 0) -> None:
        """Start again with a line size in bytes (32 to 256), or turn the model off.

        This drops every track, of all processes, and leaves memory as the CPU sees it.
        """
        self._check(mode=(mode, _U32), line=(line, _U32), seed=(seed, _U64))
        with self.lock.held():
            self.control[Plat.CACHE_MODE] = mode
            self.control[Plat.CACHE_LINE] = line
            self.control.set64(Plat.CACHE_SEED_LO, seed)
            self._do(CacheCommand.CONFIGURE, f"{mode!r}, lines of {line} bytes")

    @property
    def mode(self) -> CacheModelMode:
        """The mode that was configured last; off after a reset."""
        return CacheModelMode(self.control[Plat.CACHE_MODE])

    @property
    def line(self) -> int:
        """The line size that was configured last, in bytes."""
        return self.control[Plat.CACHE_LINE]

    def track(
        self, tag: int, direction: CacheDirection, root: int, va: int, length: int, levels: int = 4
    ) -> None:
        """Track a buffer at [va, va + length) under the page tables at physical ``root``.

        The witness says where each page is and of what type; it must have been told the memory
        types (`PlatformDevice.read_memory_types`). A write-back line that nothing tracked yet
        reads as garbage without a snoop until it is cleaned.
        """
        self._check(tag=(tag, _U32), root=(root, _U64), va=(va, _U64), length=(length, _U64))
        with self.lock.held():
            self.control.set64(Plat.WITNESS_ROOT_LO, root)
            self.control.set64(Plat.WITNESS_VA_LO, va)
            self.control.set64(Plat.WITNESS_LENGTH_LO, length)
            self.control[Plat.WITNESS_LEVELS] = levels
            self.control[Plat.CACHE_TAG] = tag
            self.control[Plat.CACHE_DIRECTION] = direction
            self._do(CacheCommand.TRACK, f"tracking {length} bytes at {va:#x}")

    def untrack(self, tag: int) -> None:
        """Stop tracking a buffer; damage by a missing sync is reported."""
        self._check(tag=(tag, _U32))
        with self.lock.held():
            self.control[Plat.CACHE_TAG] = tag
            self._do(CacheCommand.UNTRACK, f"untracking buffer {tag:#x}")

    def clean(self, tag: int, offset: int, length: int) -> None:
        """Write dirty lines back."""
        self._range(CacheCommand.CLEAN, tag, offset, length)

    def invalidate(self, tag: int, offset: int, length: int) -> None:
        """Show the CPU the bytes in DRAM; its own stores that nobody cleaned are lost."""
        self._range(CacheCommand.INVALIDATE, tag, offset, length)

    def clean_and_invalidate(self, tag: int, offset: int, length: int) -> None:
        """Clean, then invalidate."""
        self._range(CacheCommand.CLEAN_INVALIDATE, tag, offset, length)

    def sync_for_device(self, tag: int, offset: int, length: int, direction: int = 0) -> None:
        """Give bytes to the device. ``direction`` 0 is the buffer's own, here and below."""
        self._range(CacheCommand.SYNC_FOR_DEVICE, tag, offset, length, direction)

    def sync_for_cpu(self, tag: int, offset: int, length: int, direction: int = 0) -> None:
        """Take bytes back from the device."""
        self._range(CacheCommand.SYNC_FOR_CPU, tag, offset, length, direction)

    def complete(self, tag: int, offset: int, length: int) -> None:
        """State that the DMA is over: the CPU owns the bytes, and no line changes."""
        self._range(CacheCommand.COMPLETE, tag, offset, length)

    def announce_begin(self, tag: int, offset: int, length: int) -> None:
        """Expect a writer that the model does not see, such as another device model.

        Do not store to these bytes until `announce_end`: the model could not tell the
        stores apart.
        """
        self._range(CacheCommand.ANNOUNCE_BEGIN, tag, offset, length)

    def announce_end(self, tag: int, offset: int, length: int) -> None:
        """The foreign writer is done."""
        self._range(CacheCommand.ANNOUNCE_END, tag, offset, length)

    def take_reports(self) -> list[CacheReport]:
        """Return the reports, oldest first, and have the model forget them.

        `PlatformDeviceError` when reports were lost for lack of room, or one is malformed.
        """
        found: list[CacheReport] = []
        with self.lock.held():
            while count := self._take():
                found += [self._report(index * CacheReport.SIZE) for index in range(count)]
            lost = self.control[Plat.CACHE_REPORTS_LOST]
        if lost:
            raise PlatformDeviceError(f"{self.address}: {lost} cache reports are lost: {found}")
        return found

    def _take(self) -> int:
        self._do(CacheCommand.TAKE_REPORTS, "reports")
        count = self.control[Plat.CACHE_REPORTS]
        if count > CACHE_REPORTS_MAX:
            raise PlatformDeviceError(f"{self.address}: {count} reports, more than BAR1 holds")
        return count

    def _report(self, start: int) -> CacheReport:
        """Read one report, and no more of its bytes than count: each access is a message."""
        size, full = CacheReport.STRUCT.size, CacheReport.BYTES
        with self.results.data.cast("Q") as words:

            def load(first: int, length: int) -> bytes:
                end = (first + length + _WORD - 1) // _WORD
                data = b"".join(
                    word.to_bytes(_WORD, "little") for word in words[first // _WORD : end]
                )
                return data[:length]

            head = load(start, size)
            expected, seen = CacheReport.STRUCT.unpack(head)[-2:]
            try:
                return CacheReport.unpack(
                    head
                    + load(start + size, min(expected, full)).ljust(full, b"\0")
                    + load(start + size + full, min(seen, full)).ljust(full, b"\0")
                )
            except ValueError as error:
                raise PlatformDeviceError(f"{self.address}: no report: {error}") from error

    def _range(
        self, command: CacheCommand, tag: int, offset: int, length: int, direction: int = 0
    ) -> None:
        self._check(tag=(tag, _U32), offset=(offset, _U64), length=(length, _U64))
        with self.lock.held():
            self.control[Plat.CACHE_TAG] = tag
            self.control[Plat.CACHE_DIRECTION] = direction
            self.control.set64(Plat.CACHE_OFFSET_LO, offset)
            self.control.set64(Plat.CACHE_LENGTH_LO, length)
            self._do(command, f"{command.name} of {length} bytes from {offset} on, {tag:#x}")

    def _check(self, **values: tuple[int, int]) -> None:
        """Refuse a value that does not fit its register, which would become another number."""
        for name, (value, end) in values.items():
            if not 0 <= value < end:
                raise CacheError(CacheStatus.BAD_RANGE, f"{self.address}: {name} {value}")

    def _do(self, command: CacheCommand, what: str) -> None:
        """Give a command and wait for its end; the lock is held."""
        self.control[Plat.CACHE_CTL] = command
        value = self.control[Plat.CACHE_STATUS]
        try:
            status = CacheStatus(value)
        except ValueError as error:
            raise PlatformDeviceError(f"{self.address}: CACHE_STATUS reads {value:#x}") from error
        if status is not CacheStatus.OK:
            address = self.control.get64(Plat.CACHE_FAULT_LO)
            raise CacheError(status, f"{self.address}: {what}", address)
