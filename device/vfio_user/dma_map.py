# SPDX-License-Identifier: Apache-2.0
"""The client's DMA map: bus addresses to shared memory.

Mappings are kept sorted and never overlap. Each backing file is opened here once for each way in
which its descriptors were open, whatever the number of DMA mappings onto it (with an IOMMU QEMU
sends one for every 4 KiB page), and the descriptor that came is closed at once.
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from dma_rehearsal.device.vfio_user.client_memory import (
    ClientFile,
    Descriptor,
    MappedFile,
    Name,
    View,
    inspect,
)
from dma_rehearsal.device.vfio_user.errors import (
    NoDescriptor,
    ReadOnly,
    RemoteProtocolError,
    Unmapped,
    WriteOnly,
)
from dma_rehearsal.device.vfio_user.messages import PAGE_SIZE, DmaMapFlag
from dma_rehearsal.device.vfio_user.model import FileRange, MappedRange

# The specification's default of max_dma_maps.
MAX_MAPPINGS = (1 << 16) - 1
# Each costs a descriptor of this process, or two, and a mapping.
MAX_FILES = 128
MAX_FILE_BYTES = 1 << 42
_ADDRESS_END = 1 << 64


@dataclass(frozen=True, slots=True)
class Mapping:
    """Bus addresses [address, address + size). ``file`` is None for memory without descriptor."""

    address: int
    size: int
    readable: bool
    writable: bool
    file: ClientFile | None
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
        self._files: dict[tuple[Name, int], ClientFile] = {}
        # The last mapped, which is good until the map changes, and its mapping.
        self._kept: tuple[MappedRange, Mapping] | None = None

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
        the file's end, or has unknown flags or none, and for a descriptor that does not allow what
        they do, or does not lead to a file that can be reached (``client_memory``); EEXIST for an
        overlap; ENOSPC for too many mappings or files, or a file above 4 TiB.
        """
        if flags & ~int(DmaMapFlag.READ | DmaMapFlag.WRITE) or not flags:
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
        readable, writable = bool(flags & DmaMapFlag.READ), bool(flags & DmaMapFlag.WRITE)
        file = None
        if descriptor is not None:
            try:
                found = inspect(descriptor)
                if (readable and not found.readable) or (writable and not found.writable):
                    raise RemoteProtocolError(
                        f"DMA_MAP flags {flags:#x} of a file that its descriptor gives less of"
                    )
                file = self._file(found, file_offset, size)
            except (OSError, ValueError) as error:
                raise RemoteProtocolError(
                    f"DMA_MAP: the file cannot be reached: {error}"
                ) from error
            file.users += 1
        mapping = Mapping(address, size, readable, writable, file, file_offset)
        self._starts.insert(position, address)
        self._mappings.insert(position, mapping)

    def _file(self, found: Descriptor, offset: int, size: int) -> ClientFile:
        if offset % PAGE_SIZE or offset + size > found.size:
            raise RemoteProtocolError(
                f"DMA_MAP of {size:#x} bytes at {offset:#x} of a file of {found.size:#x}"
            )
        if found.size > MAX_FILE_BYTES:
            raise RemoteProtocolError(f"a file of {found.size} bytes", errno.ENOSPC)
        if found.key not in self._files and len(self._files) >= MAX_FILES:
            raise RemoteProtocolError("memory from too many files", errno.ENOSPC)
        file = self._files.get(found.key) or found.open()
        file.grow(found.descriptor, found.size)
        self._files[found.key] = file
        return file

    def remove(self, address: int, size: int) -> None:
        """Remove every mapping that lies in the range.

        QEMU's unmaps do not match its maps one to one, so finding none is not an error. A mapping
        that the range cuts in two is: EINVAL.
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

    def _drop(self, file: ClientFile | None) -> None:
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

    def views(self, address: int, length: int, *, write: bool) -> list[View]:
        """Return views that cover the range, in order.

        Raises Unmapped, WriteOnly or ReadOnly for a byte that the device may not reach; where it
        may reach all, NoDescriptor for one that only the client reaches.
        """
        views: list[View] = []
        for file, start, part in self._parts(address, length, write=write):
            views.append(file.part(start, part, address))
            address += part
        return views

    def file_ranges(self, address: int, length: int, *, write: bool) -> list[FileRange]:
        """Return where the range lies, in order; errors as ``views``'."""
        found: list[FileRange] = []
        for file, start, part in self._parts(address, length, write=write):
            # A view of its own: it outlives the mapping, in whichever thread that ends.
            whole = file.part(0, MAX_FILE_BYTES, address - start)
            found.append(FileRange(file.name, start, part, address, whole, file.holds))
            address += part
        return found

    def mapped_range(self, address: int, *, write: bool) -> MappedRange | None:
        """Return the mapping around ``address`` where it can be used whole, as it is now."""
        if (last := self._kept) is not None:
            mapped, found = last
            if mapped.address <= address < mapped.end:
                return mapped if (found.writable if write else found.readable) else None
        position = bisect_right(self._starts, address) - 1
        if position < 0:
            return None
        found = self._mappings[position]
        file, start, size = found.file, found.address, found.size
        if address >= start + size or not (found.writable if write else found.readable):
            return None
        if not isinstance(file, MappedFile) or file.memory is None:
            return None
        mapped = MappedRange(start, start + size, file.memory, found.file_offset)
        self._kept = mapped, found
        return mapped

    def _parts(
        self, address: int, length: int, *, write: bool
    ) -> list[tuple[ClientFile, int, int]]:
        """Return (file, offset in it, bytes) of each mapping that the range crosses."""
        found: list[tuple[ClientFile, int, int]] = []
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
            if not write and not mapping.readable:
                raise WriteOnly(address)
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
