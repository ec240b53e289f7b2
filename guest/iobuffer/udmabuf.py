"""u-dma-buf on a board: a contiguous buffer of its kernel module as a pool, and its syncs.

Facts from that driver's README (ikwzm/udmabuf): /sys/class/u-dma-buf/<name>/ has phys_addr, size,
sync_mode, sync_offset, sync_size, sync_direction (0 both, 1 to the device, 2 from it),
sync_for_cpu and sync_for_device; /dev/<name> is mapped whole or in part, cached unless it is opened
with O_SYNC, and what O_SYNC means is sync_mode's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .coherence import nothing
from .errors import IODeviceError, IONoMemoryError, IOReturn, IOUnsupportedError
from .options import CacheMode, IODirection
from .pool import PAGE, Extent
from .quarantine import RestingRanges
from .ranges import align_down
from .vm import ANYWHERE, Mapping, Placement

if TYPE_CHECKING:
    from .buffer import IOBufferMemoryDescriptor
    from .memory import IOMemoryDescriptor

SYSFS: Final = Path("/sys/class/u-dma-buf")
DEVICES: Final = Path("/dev")

# What a mapping of a file with O_SYNC is in each sync_mode, of those that we can name.
_SYNC_MODES: Final = {
    CacheMode.INHIBIT: 1,
    CacheMode.WRITE_COMBINE: 2,
}
_SYNC_DIRECTIONS: Final = {
    IODirection.kIODirectionNone: 0,
    IODirection.kIODirectionIn: 2,
    IODirection.kIODirectionOut: 1,
    IODirection.kIODirectionInOut: 0,
}


class UDmaBufPool:
    """One /dev/udmabufN as an `ExtentPool`, of this process alone.

    ``mode`` is the cache mode of all of it: COPYBACK, INHIBIT or WRITE_COMBINE. Raises
    `IODeviceError` when the device is not there or says what cannot be.
    """

    def __init__(
        self,
        name: str,
        mode: CacheMode = CacheMode.COPYBACK,
        *,
        sysfs: Path = SYSFS,
        devices: Path = DEVICES,
    ) -> None:
        self._name = name
        self._mode = mode
        self._folder = sysfs / name
        try:
            self.start = int((self._folder / "phys_addr").read_text(), 0)
            self._size = align_down(int((self._folder / "size").read_text(), 0), PAGE)
            flags = os.O_RDWR | os.O_CLOEXEC
            if mode is not CacheMode.COPYBACK:
                if mode not in _SYNC_MODES:
                    raise IOUnsupportedError(f"{name}: u-dma-buf has no {mode.name} mapping")
                (self._folder / "sync_mode").write_text(str(_SYNC_MODES[mode]))
                flags |= os.O_SYNC
            self._fd = os.open(devices / name, flags)
        except (OSError, ValueError) as error:
            raise IODeviceError(
                f"u-dma-buf {name}: {error}; is the module loaded, and the device of this name?",
                code=IOReturn.kIOReturnNotAttached,
            ) from error
        self._ranges = RestingRanges()
        if self._size:
            self._ranges.add(self.start, self._size)

    @property
    def name(self) -> str:
        """The device's name."""
        return self._name

    @property
    def size(self) -> int:
        """Bytes of the device's buffer, whole pages."""
        return self._size

    def allocate(self, length: int, alignment: int) -> Extent:
        """Take whole pages; `IONoMemoryError` says how long the longest free run is."""
        start = self._ranges.allocate(length, alignment)
        if start is None:
            raise IONoMemoryError(
                f"pool {self._name}: {length} bytes at alignment {alignment} asked, the largest "
                f"free run is {self._ranges.largest} of {self._size} bytes",
                asked=length,
                largest=self._ranges.largest,
            )
        return Extent(start, length)

    def free(self, extent: Extent) -> None:
        """Give an extent back, to rest."""
        self._ranges.free(extent.address)

    def wake(self) -> None:
        """End the rest of all that was given back."""
        self._ranges.wake()

    def map(self, extent: Extent, mode: CacheMode, placement: Placement = ANYWHERE) -> Mapping:
        """Map a part; there is the pool's cache mode only."""
        if mode is not self._mode:
            raise IOUnsupportedError(f"pool {self._name} is mapped {self._mode.name}")
        return Mapping(self._fd, extent.length, extent.address - self.start, placement)

    def free_size(self) -> int:
        """Bytes that are free."""
        return self._ranges.free_size

    def close(self) -> None:
        """Close the device; every mapping must be gone."""
        os.close(self._fd)

    def sync(self, segment: tuple[int, int], direction: IODirection, *, for_cpu: bool) -> None:
        """Have the driver maintain the caches for (bus address, length) within this buffer."""
        address, length = segment
        values = {
            "sync_offset": str(address - self.start),
            "sync_size": str(length),
            "sync_direction": str(_SYNC_DIRECTIONS[direction]),
            "sync_for_cpu" if for_cpu else "sync_for_device": "1",
        }
        for name, value in values.items():
            try:
                (self._folder / name).write_text(value)
            except OSError as error:
                raise IODeviceError(f"u-dma-buf {self._name}: {name}={value}: {error}") from error


class UDmaBufCoherence:
    """`Coherence` by u-dma-buf's sync files, for memory of the given pools.

    ``line`` is the processor's, in bytes (ARMv8's CTR_EL0.CWG; 64 on most of its cores).
    """

    def __init__(self, *pools: UDmaBufPool, line: int = 64) -> None:
        self._pools = pools
        self._line = line

    @property
    def line(self) -> int:
        """Bytes of a cache line."""
        return self._line

    def track(self, buffer: IOBufferMemoryDescriptor) -> Callable[[], None]:  # noqa: ARG002
        """Do nothing: the driver looks at addresses alone."""
        return nothing

    def track_existing(
        self,
        memory: IOMemoryDescriptor,  # noqa: ARG002
        address: int,  # noqa: ARG002
        length: int,  # noqa: ARG002
    ) -> Callable[[], None]:
        """Do nothing, as `track`."""
        return nothing

    def sync_for_device(
        self, memory: IOMemoryDescriptor, offset: int, length: int, direction: IODirection
    ) -> None:
        """Write back for the device."""
        self._sync(memory, offset, length, direction, for_cpu=False)

    def sync_for_cpu(
        self, memory: IOMemoryDescriptor, offset: int, length: int, direction: IODirection
    ) -> None:
        """Invalidate for the CPU."""
        self._sync(memory, offset, length, direction, for_cpu=True)

    def clean(self, memory: IOMemoryDescriptor, offset: int, length: int) -> None:
        """Write back."""
        self._sync(memory, offset, length, IODirection.kIODirectionOut, for_cpu=False)

    def clean_and_invalidate(self, memory: IOMemoryDescriptor, offset: int, length: int) -> None:
        """Write back, then invalidate."""
        self._sync(memory, offset, length, IODirection.kIODirectionInOut, for_cpu=False)
        self._sync(memory, offset, length, IODirection.kIODirectionInOut, for_cpu=True)

    def completed(self, memory: IOMemoryDescriptor, offset: int, length: int) -> None:
        """Do nothing: the driver knows no owners."""

    def _sync(
        self,
        memory: IOMemoryDescriptor,
        offset: int,
        length: int,
        direction: IODirection,
        *,
        for_cpu: bool,
    ) -> None:
        for address, size in memory.segments(offset, length):
            for pool in self._pools:
                if pool.start <= address and address + size <= pool.start + pool.size:
                    pool.sync((address, size), direction, for_cpu=for_cpu)
                    break
            else:
                raise IODeviceError(
                    f"{memory!r}: {size} bytes at {address:#x} are in no u-dma-buf",
                    address=address,
                    length=size,
                )
