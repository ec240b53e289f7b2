# SPDX-License-Identifier: Apache-2.0
"""A u-dma-buf's folder in sysfs: the cache mode of its mappings, and syncs of a range.

Facts of that driver, from its README and source (ikwzm/udmabuf, 1.4 to 5.5):

- sync_for_cpu and sync_for_device take 1, for the range of sync_offset, sync_size and
  sync_direction (0 both, 1 to the device, 2 from it); from 1.4 on also one number that has it all:
  offset 63:32, size 31:4 in multiples of 16, direction 3:2, and 1. Each write is done under the
  device's own lock.
- What O_SYNC does is sync_mode's: 1 uncached, 2 write-combining, 3 coherent for DMA; with 4 it is
  so without O_SYNC. It counts at mmap(2). On x86 the kernel keeps RAM's mappings write-back.
- With quirk_mmap_mode 1 the kernel's DMA API maps, and memory of a device that does not snoop
  (dma_coherent 0) is not cacheable whatever was asked. Versions without that file map as asked.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dma_rehearsal.guest.iobuffer.base.errors import IODeviceError, IOReturn
from dma_rehearsal.guest.iobuffer.base.options import CacheMode, IODirection

UNCACHED: Final = 1
WRITE_COMBINING: Final = 2
_COHERENT: Final = 3
_MODE: Final = 3
_ALWAYS: Final = 4
_QUIRK_OFF: Final = 1
_QUIRK_ON: Final = 2

_DIRECTIONS: Final = {
    IODirection.kIODirectionNone: 0,
    IODirection.kIODirectionIn: 2,
    IODirection.kIODirectionOut: 1,
    IODirection.kIODirectionInOut: 0,
}
_COMBINED_SINCE: Final = (1, 4)
_COMBINED_MAX: Final = 1 << 32
_COMBINED_UNIT: Final = 16
_LOCK_SECONDS: Final = 5.0
_LOCK_PAUSE: Final = 0.001


class Attributes:
    """The files of one device. All of it raises `IODeviceError`, with the file's name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._combined = self._version() >= _COMBINED_SINCE

    def number(self, name: str, missing: int | None = None) -> int:
        """Return a file's number; ``missing``: for a version without the file."""
        try:
            return int((self._folder / name).read_text(), 0)
        except FileNotFoundError as error:
            if missing is not None:
                return missing
            raise self._failed(name, error) from error
        except (OSError, ValueError) as error:
            raise self._failed(name, error) from error

    def mapped_as(self, machine: str, *, synchronous: bool) -> CacheMode | None:
        """Return the cache mode of a mapping made now, of a file with O_SYNC or without.

        ``machine`` as in uname(2). None where it is unknown.
        """
        if machine == "x86_64" or (machine.startswith("i") and machine.endswith("86")):
            return CacheMode.COPYBACK
        arm = machine.startswith(("arm", "aarch64"))
        asked = self.number("sync_mode", UNCACHED)
        snoops = self.number("dma_coherent", 0)
        if not snoops and self.number("quirk_mmap_mode", _QUIRK_ON) == _QUIRK_OFF:
            return CacheMode.WRITE_COMBINE if arm else None
        if not (synchronous or asked & _ALWAYS):
            return CacheMode.COPYBACK
        if not arm:
            return None
        return {
            UNCACHED: CacheMode.INHIBIT,
            WRITE_COMBINING: CacheMode.WRITE_COMBINE,
            _COHERENT: CacheMode.WRITE_COMBINE,
        }.get(asked & _MODE, CacheMode.COPYBACK)

    def set_sync_mode(self, mode: int) -> None:
        """Set the meaning of O_SYNC from now on."""
        self._write("sync_mode", mode | self.number("sync_mode", 0) & _ALWAYS)

    def sync(self, offset: int, length: int, direction: IODirection, *, for_cpu: bool) -> None:
        """Have the driver maintain the caches for a range of the device's buffer, and no other.

        In one write where the driver has that and the range fits; else in four, with every other
        thread and process that does so by this library kept out.
        """
        if not length:
            return
        command = "sync_for_cpu" if for_cpu else "sync_for_device"
        way = _DIRECTIONS[direction]
        if self._combined and max(offset, length) < _COMBINED_MAX and not length % _COMBINED_UNIT:
            self._write(command, offset << 32 | length | way << 2 | 1)
            return
        with self.alone():
            self._write("sync_offset", offset)
            self._write("sync_size", length)
            self._write("sync_direction", way)
            self._write(command, 1)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep out other callers for the device, in this process and in others.

        A lock of an open file (flock(2)): threads and forked children have each their own. Raises
        also when it is not free for 5 seconds (kIOReturnCannotLock).
        """
        try:
            fd = os.open(self._folder / "size", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._failed("size", error) from error
        try:
            self._lock(fd)
            yield
        finally:
            os.close(fd)

    def _lock(self, fd: int) -> None:
        last = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > last:
                    raise IODeviceError(
                        f"u-dma-buf {self._folder.name}: another thread or process has its sync "
                        f"files for over {_LOCK_SECONDS:.0f} s",
                        code=IOReturn.kIOReturnCannotLock,
                    ) from error
                time.sleep(_LOCK_PAUSE)
            else:
                return

    def _version(self) -> tuple[int, ...]:
        """Return the driver's version, () when it does not say: it was before 1.4."""
        try:
            text = (self._folder / "driver_version").read_text().strip()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise self._failed("driver_version", error) from error
        numbers = text.split("-")[0].split(".")[:2]
        return tuple(map(int, numbers)) if all(each.isdecimal() for each in numbers) else ()

    def _write(self, name: str, value: int) -> None:
        try:
            (self._folder / name).write_text(f"{value:#x}")
        except OSError as error:
            raise self._failed(f"{name}={value:#x}", error) from error

    def _failed(self, what: str, error: Exception) -> IODeviceError:
        return IODeviceError(f"u-dma-buf {self._folder.name}: {what}: {error}")
