# SPDX-License-Identifier: Apache-2.0
"""u-dma-buf on a board: a contiguous buffer of its kernel module as a pool, and its syncs.

`udmabuf_sysfs` describes the files of that driver.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from dma_rehearsal.guest.iobuffer.base.coherence import nothing
from dma_rehearsal.guest.iobuffer.base.errors import (
    IOBusyError,
    IODeviceError,
    IONoMemoryError,
    IOReturn,
    IOUnsupportedError,
)
from dma_rehearsal.guest.iobuffer.base.interfaces import BufferDescriptor, Descriptor
from dma_rehearsal.guest.iobuffer.base.options import CacheMode, IODirection
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE, align_down
from dma_rehearsal.guest.iobuffer.memory.pool import Extent
from dma_rehearsal.guest.iobuffer.memory.quarantine import RestingRanges
from dma_rehearsal.guest.iobuffer.os.udmabuf_sysfs import UNCACHED, WRITE_COMBINING, Attributes
from dma_rehearsal.guest.iobuffer.os.virtual_memory import ANYWHERE, Mapping, MapPlacement

SYSFS: Final = Path("/sys/class/u-dma-buf")
DEVICES: Final = Path("/dev")

# The modes that a mapping of a file with O_SYNC can have here.
_SYNC_MODES: Final = {
    CacheMode.INHIBIT: UNCACHED,
    CacheMode.WRITE_COMBINE: WRITE_COMBINING,
}


class UDmaBufPool:
    """One /dev/udmabufN as an `ExtentPool`, of this process alone.

    ``mode`` is the cache mode of all of it: COPYBACK, INHIBIT or WRITE_COMBINE. Raises
    `IOUnsupportedError` when a mapping here would have another one (on x86 all are COPYBACK), and
    `IODeviceError` when the device is missing or gives impossible values. ``machine``: as in
    uname(2).
    """

    def __init__(
        self,
        name: str,
        mode: CacheMode = CacheMode.COPYBACK,
        *,
        sysfs: Path = SYSFS,
        devices: Path = DEVICES,
        machine: str = os.uname().machine,
    ) -> None:
        self._name = name
        self._mode = mode
        self._machine = machine
        synchronous = mode is not CacheMode.COPYBACK
        if synchronous and mode not in _SYNC_MODES:
            raise IOUnsupportedError(f"{name}: u-dma-buf has no {mode.name} mapping")
        try:
            self._files = Attributes(sysfs / name)
            self.start = self._files.number("phys_addr")
            self._size = align_down(self._files.number("size"), PAGE)
            with self._files.alone():
                self._set_sync_mode()
                really = self._really()
            if really is not mode:
                raise IOUnsupportedError(
                    f"{name}: a mapping on {machine} would not be {mode.name}, but "
                    f"{'of a mode that is not known' if really is None else really.name}"
                )
            flags = os.O_RDWR | os.O_CLOEXEC | (os.O_SYNC if synchronous else 0)
            self._fd = os.open(devices / name, flags)
        except (OSError, IODeviceError) as error:
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

    @property
    def highest(self) -> int:
        """The buffer's last bus address."""
        return self.start + self._size - 1

    @property
    def mode(self) -> CacheMode:
        """The cache mode that every mapping of it has."""
        return self._mode

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

    def held_anyway(self, extents: Sequence[Extent]) -> list[bool]:
        """Say so of all of it: the device is this process's alone."""
        return [True] * len(extents)

    def wake(self) -> None:
        """End the rest of all that was given back."""
        self._ranges.wake()

    def map(self, extent: Extent, mode: CacheMode, placement: MapPlacement = ANYWHERE) -> Mapping:
        """Map a part; there is the pool's cache mode only.

        `IOBusyError` when another program has changed the device's sync_mode meanwhile.
        """
        if mode is not self._mode:
            raise IOUnsupportedError(f"pool {self._name} is mapped {self._mode.name}")
        uncached = mode is CacheMode.INHIBIT
        with self._files.alone():
            self._set_sync_mode()
            offset = extent.address - self.start
            mapping = Mapping(self._fd, extent.length, offset, placement, uncached=uncached)
            if (really := self._really()) is mode:
                return mapping
        mapping.close()
        raise IOBusyError(
            f"pool {self._name}: its sync_mode was changed, and the mapping may be "
            f"{'of any mode' if really is None else really.name}, not {mode.name}; let no other "
            "program write it"
        )

    def free_size(self) -> int:
        """Bytes that are free."""
        return self._ranges.free_size

    def close(self) -> None:
        """Close the device; every mapping must be gone."""
        os.close(self._fd)

    def sync(self, segment: tuple[int, int], direction: IODirection, *, for_cpu: bool) -> None:
        """Have the driver maintain the caches for (bus address, length) within this buffer."""
        address, length = segment
        self._files.sync(address - self.start, length, direction, for_cpu=for_cpu)

    def _set_sync_mode(self) -> None:
        """Set the meaning of O_SYNC, where it is used; the kernel reads it at each mmap(2)."""
        if self._mode is not CacheMode.COPYBACK:
            self._files.set_sync_mode(_SYNC_MODES[self._mode])

    def _really(self) -> CacheMode | None:
        return self._files.mapped_as(
            self._machine, synchronous=self._mode is not CacheMode.COPYBACK
        )


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

    def track(self, buffer: BufferDescriptor) -> Callable[[], None]:  # noqa: ARG002
        """Do nothing: the driver looks at addresses alone."""
        return nothing

    def track_existing(
        self,
        memory: Descriptor,  # noqa: ARG002
        address: int,  # noqa: ARG002
        length: int,  # noqa: ARG002
    ) -> Callable[[], None]:
        """Do nothing, as `track`."""
        return nothing

    def sync_for_device(
        self, memory: Descriptor, offset: int, length: int, direction: IODirection
    ) -> None:
        """Write back for the device."""
        self._sync(memory, offset, length, direction, for_cpu=False)

    def sync_for_cpu(
        self, memory: Descriptor, offset: int, length: int, direction: IODirection
    ) -> None:
        """Invalidate for the CPU."""
        self._sync(memory, offset, length, direction, for_cpu=True)

    def clean(self, memory: Descriptor, offset: int, length: int) -> None:
        """Write back."""
        self._sync(memory, offset, length, IODirection.kIODirectionOut, for_cpu=False)

    def clean_and_invalidate(self, memory: Descriptor, offset: int, length: int) -> None:
        """Write back, then invalidate."""
        self._sync(memory, offset, length, IODirection.kIODirectionInOut, for_cpu=False)
        self._sync(memory, offset, length, IODirection.kIODirectionInOut, for_cpu=True)

    def completed(self, memory: Descriptor, offset: int, length: int) -> None:
        """Do nothing: the driver knows no owners."""

    def _sync(
        self,
        memory: Descriptor,
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
                    f"{memory!r}: {size} bytes at {address:#x} are not in a u-dma-buf",
                    address=address,
                    length=size,
                )
