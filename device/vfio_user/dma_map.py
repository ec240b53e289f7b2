"""The client's DMA map: bus addresses to shared memory.

Mappings are kept sorted and never overlap. Each backing file is mapped into this process once,
whatever the number of DMA mappings onto it (with an IOMMU QEMU sends one for every 4 KiB page), and
the descriptor that came is closed at once.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import NoDescriptor, ReadOnly, RemoteProtocolError, Unmapped
from .messages import PAGE_SIZE, DmaMapFlag
from .model import Place, Window

# The specification's default of max_dma_maps.
MAX_MAPPINGS = (1 << 16) - 1
# Each costs one descriptor, which mmap keeps, and one mapping of this process.
MAX_FILES = 128
MAX_FILE_BYTES = 1 << 42
_ADDRESS_END = 1 << 64


class _BackingFile:
    """One shared file, mapped whole and counted by the DMA mappings that use it."""

    def __init__(self, key: tuple[int, int]) -> None:
        self.key = key
        self.users = 0
        self.size = 0
        self.view = memoryview(b"")
        self.mapped: mmap.mmap | None = None
        self.sealed = False

    def grow(self, descriptor: int, size: int) -> None:
        """Map the file again when it became larger than what is mapped."""
        if size <= self.size:
            return
        new = mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self.close()
        self.mapped, self.view, self.size = new, memoryview(new), size
        self.sealed = _cannot_shrink(descriptor)

    def holds(self, end: int) -> bool:
        """Return whether the file still reaches up to ``end``.

        Behind the end of its file a mapping raises SIGBUS, not an exception, so a client that cuts
        its file must not be followed. QEMU's memory is sealed against that, and is not asked.
        """
        mapped = self.mapped  # another thread's close can come at any time
        try:
            return self.sealed or (mapped is not None and mapped.size() >= end)
        except ValueError:  # closed
            return False

    def close(self) -> None:
        self.view.release()
        if self.mapped is not None:
            # Where a view of it still lives, the mapping goes when that view does.
            with contextlib.suppress(BufferError):
                self.mapped.close()
            self.mapped = None


def _cannot_shrink(descriptor: int) -> bool:
    try:
        return bool(fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    except OSError:  # no file that can be sealed
        return False


@dataclass(frozen=True, slots=True)
class Mapping:
    """Bus addresses [address, address + size). ``file`` is None for memory without descriptor."""

    address: int
    size: int
    writable: bool
    file: _BackingFile | None
    file_offset: int

    @property
    def end(self) -> int:
        """Return the first address behind it."""
        return self.address + self.size


class DmaMap:
    """All mappings of one client."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._mappings: list[Mapping] = []
        self._files: dict[tuple[int, int], _BackingFile] = {}
        # The last window that stays good until the map changes, and whether it can be written.
        self._kept: tuple[Window, bool] | None = None

    def __len__(self) -> int:
        return len(self._mappings)

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield what is mapped, in order: (address, bytes)."""
        for mapping in self._mappings:
            yield mapping.address, mapping.size

    def add(
        self, address: int, size: int, flags: int, file_offset: int, descriptor: int | None
    ) -> None:
        """Add a mapping. ``descriptor`` stays the caller's, who closes it.

        RemoteProtocolError: EINVAL for a range that is empty, not page-aligned, wraps, lies past
        the file's end, or has unknown flags; EEXIST for an overlap; ENOSPC for too many mappings or
        files, or a file above 4 TiB.
        """
        if flags & ~int(DmaMapFlag.READ | DmaMapFlag.WRITE) or not flags & DmaMapFlag.READ:
            raise RemoteProtocolError(f"DMA_MAP flags {flags:#x}")
        if size == 0 or (address | size) % PAGE_SIZE or address + size > _ADDRESS_END:
            raise RemoteProtocolError(f"DMA_MAP of {size:#x} bytes at {address:#x}")
        position = bisect_right(self._starts, address)
        before = self._mappings[position - 1] if position else None
        after = self._mappings[position] if position < len(self._mappings) else None
        if (before and before.end > address) or (after and after.address < address + size):
            raise RemoteProtocolError(f"DMA_MAP overlaps at {address:#x}", errno.EEXIST)
        if len(self._mappings) >= MAX_MAPPINGS:
            raise RemoteProtocolError("too many DMA mappings", errno.ENOSPC)
        self._kept = None
        file = None
        if descriptor is not None:
            file = self._file(descriptor, file_offset, size)
            file.users += 1
        writable = bool(flags & DmaMapFlag.WRITE)
        self._starts.insert(position, address)
        self._mappings.insert(position, Mapping(address, size, writable, file, file_offset))

    def _file(self, descriptor: int, offset: int, size: int) -> _BackingFile:
        try:
            status = os.fstat(descriptor)
            # Beyond its end a mapping of a file would raise SIGBUS, not an exception.
            if offset % PAGE_SIZE or offset + size > status.st_size:
                raise RemoteProtocolError(
                    f"DMA_MAP of {size:#x} bytes at {offset:#x} of a file of {status.st_size:#x}"
                )
            key = (status.st_dev, status.st_ino)
            if status.st_size > MAX_FILE_BYTES:
                raise RemoteProtocolError(f"a file of {status.st_size} bytes", errno.ENOSPC)
            if key not in self._files and len(self._files) >= MAX_FILES:
                raise RemoteProtocolError("memory from too many files", errno.ENOSPC)
            file = self._files.get(key) or _BackingFile(key)
            file.grow(descriptor, status.st_size)
        except (OSError, BufferError, ValueError) as error:
            raise RemoteProtocolError(f"DMA_MAP: the file cannot be mapped: {error}") from error
        self._files[key] = file
        return file

    def remove(self, address: int, size: int) -> None:
        """Remove every mapping that lies in the range.

        QEMU's unmaps do not match its maps one to one, so finding none is no error. A mapping that
        the range cuts in two is: EINVAL.
        """
        if size == 0 or (address | size) % PAGE_SIZE or address + size > _ADDRESS_END:
            raise RemoteProtocolError(f"DMA_UNMAP of {size:#x} bytes at {address:#x}")
        first = bisect_right(self._starts, address) - 1
        if first >= 0 and address < self._mappings[first].end and self._starts[first] < address:
            raise RemoteProtocolError(f"DMA_UNMAP at {address:#x} cuts a mapping")
        first = first if first >= 0 and self._starts[first] == address else first + 1
        last = first
        while last < len(self._mappings) and self._starts[last] < address + size:
            if self._mappings[last].end > address + size:
                raise RemoteProtocolError(f"DMA_UNMAP at {address:#x} cuts a mapping")
            last += 1
        self._kept = None
        gone = self._mappings[first:last]
        del self._mappings[first:last], self._starts[first:last]
        for mapping in gone:
            self._drop(mapping.file)

    def _drop(self, file: _BackingFile | None) -> None:
        if file is None:
            return
        file.users -= 1
        if file.users == 0:
            del self._files[file.key]
            file.close()

    def clear(self) -> None:
        """Remove every mapping and unmap every file."""
        self._kept = None
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._starts.clear()
        self._mappings.clear()

    def views(self, address: int, length: int, *, write: bool) -> list[memoryview]:
        """Return views that cover the range, in order.

        Raises Unmapped or ReadOnly for a byte that the device may not reach; where it may reach
        all, NoDescriptor for one that only the client reaches.
        """
        return [
            file.view[start : start + part]
            for file, start, part in self._parts(address, length, write=write)
        ]

    def places(self, address: int, length: int, *, write: bool) -> list[Place]:
        """Return where the range lies, in order; errors as ``views``'."""
        found: list[Place] = []
        for file, start, part in self._parts(address, length, write=write):
            # A view of its own: it outlives the mapping, in whichever thread that ends.
            found.append(Place(file.key, start, part, address, file.view[:], file.holds))
            address += part
        return found

    def window(self, address: int, *, write: bool) -> Window | None:
        """Return the mapping around ``address`` where it can be used whole, as it is now."""
        if (last := self._kept) is not None:
            kept, writable = last
            if kept.address <= address < kept.end and (writable or not write):
                return kept
        position = bisect_right(self._starts, address) - 1
        if position < 0:
            return None
        found = self._mappings[position]
        file, start, size = found.file, found.address, found.size
        if address >= start + size or (write and not found.writable):
            return None
        if file is None or file.mapped is None or not file.holds(found.file_offset + size):
            return None
        window = Window(start, start + size, file.mapped, found.file_offset)
        if file.sealed:
            self._kept = window, found.writable
        return window

    def _parts(
        self, address: int, length: int, *, write: bool
    ) -> list[tuple[_BackingFile, int, int]]:
        """Return (file, offset in it, bytes) of each mapping that the range crosses."""
        found: list[tuple[_BackingFile, int, int]] = []
        missing: int | None = None
        position = bisect_right(self._starts, address) - 1
        end = address + length
        while address < end:
            if not 0 <= position < len(self._mappings):
                raise Unmapped(address)
            mapping = self._mappings[position]
            offset = address - mapping.address
            if not 0 <= offset < mapping.size:
                raise Unmapped(address)
            if write and not mapping.writable:
                raise ReadOnly(address)
            part, left = end - address, mapping.size - offset
            if part > left:
                part = left
            start = mapping.file_offset + offset
            if mapping.file is None:
                missing = address if missing is None else missing
            elif not mapping.file.holds(start + part):
                raise Unmapped(address)
            else:
                found.append((mapping.file, start, part))
            address += part
            position += 1
        if missing is not None:
            raise NoDescriptor(missing)
        return found
