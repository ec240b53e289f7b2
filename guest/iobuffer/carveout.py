"""The carve-outs of the kernel module as pools, shared by the processes of a guest.

Each zone is cut into arenas. A process locks the arenas that it allocates from, by byte ranges of
the zone's lock file (one byte an arena), and gives back those that are empty. The locks belong to
the open file (fcntl(2), "Open file description locks"), so those of a dead process are gone, and
only after its mappings: nobody else can be given memory that it still sees.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .driver import Driver
from .errors import IODeviceError, IONoMemoryError, IOReturn
from .options import CacheMode
from .pool import PAGE, Extent
from .ranges import RangeAllocator, align_down, align_up
from .vm import Mapping

UIO: Final = Path("/sys/class/uio")
LOCKS: Final = Path("/run/dma-rehearsal")
UIO_PREFIX: Final = "dma-rehearsal-"
ARENAS_PER_ZONE: Final = 64

_F_OFD_GETLK: Final = 36
_F_OFD_SETLK: Final = 37
_FLOCK: Final = struct.Struct("@hhqqi0q")  # type, whence, start, length, pid: pid must be 0


@dataclass(frozen=True, slots=True)
class Zone:
    """One carve-out: its name, and its bus addresses in bytes."""

    name: str
    start: int
    size: int

    @property
    def arena_size(self) -> int:
        """Bytes an arena: whole pages, a power of two; the zone's last one may be shorter."""
        share = max(PAGE, self.size // ARENAS_PER_ZONE)
        return int(1 << share.bit_length() - 1)


def find_zones(uio: Path = UIO) -> list[Zone]:
    """List the carve-outs that the module shows through UIO, by ascending address."""
    zones = []
    for device in uio.glob("uio*") if uio.is_dir() else ():
        name = (device / "name").read_text().strip()
        if name.startswith(UIO_PREFIX):
            first = device / "maps" / "map0"
            zones.append(
                Zone(
                    name.removeprefix(UIO_PREFIX),
                    int((first / "addr").read_text(), 0),
                    int((first / "size").read_text(), 0),
                )
            )
    return sorted(zones, key=lambda zone: zone.start)


class ArenaLocks:
    """Exclusive locks on the arenas 0 to ``count`` - 1, held by this open file.

    Raises `IODeviceError` (kIOReturnCannotLock) when the lock file cannot be used.
    """

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        self._count = count
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._failed(error) from error
        self._finalizer = weakref.finalize(self, os.close, self._fd)

    def acquire(self, first: int, count: int) -> bool:
        """Lock ``count`` arenas; False, and none of them, when another process has one."""
        try:
            self._fcntl(_F_OFD_SETLK, fcntl.F_WRLCK, first, count)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise self._failed(error) from error
        return True

    def release(self, first: int, count: int) -> None:
        """Unlock ``count`` arenas."""
        try:
            self._fcntl(_F_OFD_SETLK, fcntl.F_UNLCK, first, count)
        except OSError as error:
            raise self._failed(error) from error

    def available(self) -> Iterator[tuple[int, int]]:
        """Yield runs (first, count) of arenas that nobody else has locked; ours are among them."""
        at = 0
        while at < self._count:
            # The kernel names the first conflicting lock, not the lowest: look for the lowest.
            end = self._count
            blocked = self._conflict(at, end - at)
            past = end
            while blocked is not None:
                end, length = blocked
                past = end + length if length else self._count
                blocked = self._conflict(at, end - at) if end > at else None
            if end > at:
                yield at, end - at
            at = past

    def close(self) -> None:
        """Close the file. The locks go with the last descriptor of this open file."""
        self._fd = -1
        self._finalizer()

    def _conflict(self, first: int, count: int) -> tuple[int, int] | None:
        try:
            kind, start, length = self._fcntl(_F_OFD_GETLK, fcntl.F_WRLCK, first, count)
        except OSError as error:
            raise self._failed(error) from error
        if kind == fcntl.F_UNLCK:
            return None
        # A lock can start before what was asked about.
        return max(start, first), length - max(0, first - start) if length else 0

    def _fcntl(self, command: int, kind: int, first: int, count: int) -> tuple[int, int, int]:
        request = _FLOCK.pack(kind, os.SEEK_SET, first, count, 0)
        kind, _, start, length, _ = _FLOCK.unpack(fcntl.fcntl(self._fd, command, request))
        return kind, start, length

    def _failed(self, error: OSError) -> IODeviceError:
        return IODeviceError(
            f"lock file {self._path}: {error.strerror}", code=IOReturn.kIOReturnCannotLock
        )


class CarveoutPool:
    """One carve-out as a `Pool`. Not locked against threads: its heap is."""

    def __init__(self, zone: Zone, driver: Driver | None = None, locks: Path = LOCKS) -> None:
        self.zone = zone
        self._driver = driver
        self._arena = zone.arena_size
        self._count = -(-zone.size // self._arena)
        self._locks = ArenaLocks(locks / f"{zone.name}.lock", self._count)
        self._held: set[int] = set()
        self._ranges = RangeAllocator()  # over the arenas held, in bus addresses

    @property
    def name(self) -> str:
        """The zone's name."""
        return self.zone.name

    @property
    def size(self) -> int:
        """The zone's size in bytes."""
        return self.zone.size

    def allocate(self, length: int, alignment: int) -> Extent:
        """Take whole pages, from arenas held if possible, else from further ones."""
        # Another process can lock an arena between the look and the lock; each time that happens
        # somebody makes progress, and there are only so many arenas.
        for _ in range(2 * ARENAS_PER_ZONE):
            start = self._ranges.allocate(length, alignment)
            if start is not None:
                return Extent(start, length)
            place = self._place(length, alignment)
            if place is None:
                break
            if self._grow(place, length) and self._ranges.allocate_at(place, length):
                return Extent(place, length)
        largest = max((size for _, size in self._candidates()), default=0)
        raise IONoMemoryError(
            f"pool {self.name}: {length} bytes at alignment {alignment} asked, "
            f"the largest free run is {largest} of {self.size} bytes",
            asked=length,
            largest=largest,
        )

    def free(self, extent: Extent) -> None:
        """Give back an extent, and the arenas that are empty then."""
        length = self._ranges.free(extent.address)
        empty = [
            index
            for index in self._arenas(extent.address, length)
            if self._ranges.discard(*self._bounds(index))
        ]
        for index in empty:
            self._held.discard(index)
            self._locks.release(index, 1)

    def map(self, extent: Extent, mode: CacheMode) -> Mapping:
        """Map an extent through the driver, see `Driver.map`."""
        if self._driver is None:
            raise IODeviceError(
                f"pool {self.name} has no driver", code=IOReturn.kIOReturnNotAttached
            )
        return self._driver.map(extent.address, extent.length, mode)

    def free_size(self) -> int:
        """Bytes free in the arenas held and in those that nobody holds."""
        return sum(size for _, size in self._candidates())

    def close(self) -> None:
        """Let go of the lock file."""
        self._locks.close()

    def _arenas(self, address: int, length: int) -> range:
        offset = address - self.zone.start
        return range(offset // self._arena, -(-(offset + length) // self._arena))

    def _bounds(self, index: int) -> tuple[int, int]:
        offset = index * self._arena
        return self.zone.start + offset, min(self._arena, self.zone.size - offset)

    def _candidates(self) -> Iterator[tuple[int, int]]:
        """Yield the runs (address, size) that are free here, or could be once locked."""
        merged = RangeAllocator()
        for start, size in self._ranges.runs():
            merged.add(start, size)
        for first, count in self._locks.available():
            index = first
            for stop in [
                *sorted(i for i in self._held if first <= i < first + count),
                first + count,
            ]:
                if stop > index:
                    start, end = self._bounds(index)[0], sum(self._bounds(stop - 1))
                    merged.add(start, end - start)
                index = stop + 1
        yield from merged.runs()

    def _place(self, length: int, alignment: int) -> int | None:
        """Find the address that needs the fewest further arenas."""
        best: tuple[int, int, int] | None = None
        for start, size in self._candidates():
            last = align_down(start + size - length, alignment)
            # At the run's end an arena less may be needed, when the held part is there.
            for place in {align_up(start, alignment), last}:
                if start <= place and place + length <= start + size:
                    new = sum(i not in self._held for i in self._arenas(place, length))
                    best = min(best or (new, size, place), (new, size, place))
        return None if best is None else best[2]

    def _grow(self, place: int, length: int) -> bool:
        taken: list[int] = []
        for index in self._arenas(place, length):
            if index in self._held:
                continue
            if not self._locks.acquire(index, 1):
                for other in taken:
                    self._locks.release(other, 1)
                return False
            taken.append(index)
        for index in taken:
            self._held.add(index)
            self._ranges.add(*self._bounds(index))
        return True
