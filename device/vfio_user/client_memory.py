# SPDX-License-Identifier: Apache-2.0
"""The files of a client's memory, reached so that no client can end this process.

Theory of operation. Where a mapping of a file cannot have its page, the access raises SIGBUS, which
ends a Python process: the client has cut its file or punched a hole into it, the file system or the
pool of huge pages is full, a disk fails. A question before the access is answered for a moment that
is over. A memfd that is sealed against shrinking, as QEMU seals its memory, can have each of its
pages, for it lies on no file system that can be full. It alone is mapped. The bytes of any other
file move by pread(2) and pwrite(2), which tell by an error what a mapping tells by the signal.

Huge pages cannot be written to by pwrite(2). They are mapped, and the kernel copies into them: it
answers EFAULT. So it does where many runs of bytes are stored at once: a call for each would take
seconds for what one DMA behind the cache model can need.

The client may also be what a file's bytes come from, and then never answer (FUSE). Nothing asks a
file anything, its size included, before it is known to be in memory, or on a mount of this machine.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
import weakref
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

from dma_rehearsal.device.vfio_user.errors import RemoteProtocolError, Unmapped

_SHRINK = fcntl.F_SEAL_SHRINK
_WRITE_SEALS = fcntl.F_SEAL_WRITE | 0x10  # F_SEAL_FUTURE_WRITE of include/uapi/linux/fcntl.h
# Of mounts that have regular files, and neither a process nor another machine behind them.
_LOCAL = (
    *("bcachefs", "btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "iso9660"),
    *("overlay", "ramfs", "rootfs", "squashfs", "vfat", "xfs", "zfs"),
)
_OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
_NEVER = "2"  # where a memfd's page can be refused, too
_RUNS = 1024  # that one call of the kernel takes: IOV_MAX
_PART = 1 << 20  # bytes that are copied into huge pages at a time

Name = tuple[int, int]  # of a file: device and inode


class FileView:
    """Bytes of a file that is not mapped; as of a memoryview, its slices are views.

    ``bytes`` copies, and a slice can be assigned to. Both raise Unmapped for the first byte that
    cannot be had, by the bus address that the view was made for.
    """

    __slots__ = ("_address", "_file", "_length", "_start")

    def __init__(self, file: _CopiedFile, start: int, length: int, address: int) -> None:
        self._file, self._start, self._length, self._address = file, start, length, address

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> FileView:
        start, end, _ = part.indices(self._length)
        length = max(end - start, 0)
        return FileView(self._file, self._start + start, length, self._address + start)

    def __setitem__(self, part: slice, data: bytes | bytearray | memoryview) -> None:
        view = self[part]
        if len(data) != len(view):
            raise ValueError(f"{len(data)} bytes for {len(view)}")
        done = self._file.write(view._start, data)
        if done < len(view):
            raise Unmapped(view._address + done)

    def write_runs(self, data: bytes, runs: Iterable[tuple[int, int]]) -> None:
        """Store the runs [first, last) of ``data`` in their places, and nothing between them.

        Many go by one call of the kernel. Unmapped: as above, by a run before the first byte.
        """
        places = iter(runs)
        while some := list(islice(places, _RUNS)):
            if not self._file.write_runs(self._start, data, some):
                raise Unmapped(self._address + some[0][0])

    def __bytes__(self) -> bytes:
        found = self._file.read(self._start, self._length)
        if len(found) < self._length:
            raise Unmapped(self._address + len(found))
        return found


View = memoryview | FileView


class ClientFile(Protocol):
    """One file, reached as one way to open it allows. ``users`` are the DMA mappings of it."""

    name: Name
    key: tuple[Name, int]
    users: int

    def grow(self, descriptor: int, size: int) -> None:
        """Reach up to ``size``. OSError when it cannot be."""

    def holds(self, end: int) -> bool:
        """Return whether the file reaches up to ``end``, as far as anybody can know."""

    def part(self, start: int, length: int, address: int) -> View:
        """Return a view, which may outlive the DMA mappings. ``address``: its first byte's."""

    def close(self) -> None:
        """Give the file back, once no view of it is left."""


class MappedFile:
    """A memfd that cannot shrink, mapped whole."""

    def __init__(self, found: Descriptor) -> None:
        self.name, self.key, self.users = found.name, found.key, 0
        self._size = 0
        self._view = memoryview(b"")
        self.memory: mmap.mmap | None = None

    def grow(self, descriptor: int, size: int) -> None:
        """Map the file again when it became larger than what is mapped."""
        if size <= self._size:
            return
        new = mmap.mmap(descriptor, size)
        self.close()
        self.memory, self._view, self._size = new, memoryview(new), size

    def holds(self, end: int) -> bool:
        """See ``ClientFile.holds``."""
        return end <= self._size

    def part(self, start: int, length: int, address: int) -> memoryview:
        """See ``ClientFile.part``."""
        del address
        return self._view[start : start + length]

    def close(self) -> None:
        """See ``ClientFile.close``."""
        self._view.release()
        if self.memory is not None:
            # Where a view of it still lives, the mapping goes when that view does.
            with suppress(BufferError):
                self.memory.close()
            self.memory = None


class _CopiedFile:
    """A file whose bytes are copied by the kernel. It is closed when its last view is gone."""

    def __init__(self, found: Descriptor) -> None:
        self.name, self.key, self.users = found.name, found.key, 0
        self._descriptor = fcntl.fcntl(found.descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
        weakref.finalize(self, os.close, self._descriptor)
        self._mapped: mmap.mmap | None = None  # the kernel alone copies into it
        self._source = -1

    def grow(self, descriptor: int, size: int) -> None:
        """See ``ClientFile.grow``."""

    def holds(self, end: int) -> bool:
        """See ``ClientFile.holds``."""
        return os.fstat(self._descriptor).st_size >= end

    def part(self, start: int, length: int, address: int) -> FileView:
        """See ``ClientFile.part``."""
        return FileView(self, start, length, address)

    def close(self) -> None:
        """See ``ClientFile.close``."""

    def read(self, start: int, length: int) -> bytes:
        """Return bytes; fewer, where the file ends or its bytes cannot be had."""
        found: list[bytes] = []
        with suppress(OSError):
            while length and (part := os.pread(self._descriptor, length, start)):
                found.append(part)
                start, length = start + len(part), length - len(part)
        return b"".join(found)

    def write(self, start: int, data: bytes | bytearray | memoryview) -> int:
        """Store bytes; return how many could be."""
        done = 0
        with memoryview(data) as rest, suppress(OSError):
            while done < len(rest) and (part := self._put(start + done, rest[done:])):
                done += part
        return done

    def write_runs(self, start: int, data: bytes, runs: list[tuple[int, int]]) -> bool:
        """Store runs of ``data``, at most IOV_MAX; return whether all could be."""
        if not self._mapped or len(self._mapped) < start + len(data):
            try:
                self._mapped = mmap.mmap(self._descriptor, 0)
            except (OSError, ValueError):  # it can be written to, and no more
                return all(
                    self.write(start + first, data[first:last]) == last - first
                    for first, last in runs
                )
        with suppress(OSError), memoryview(self._mapped) as view:
            os.pwrite(self._copied(), b"".join(data[first:last] for first, last in runs), 0)
            targets = [view[start + first : start + last] for first, last in runs]
            return os.preadv(self._copied(), targets, 0) == sum(map(len, targets))
        return False

    def _copied(self) -> int:
        """Return a file of ours, from which the kernel copies."""
        if self._source < 0:
            self._source = os.memfd_create("copied", os.MFD_CLOEXEC)
            weakref.finalize(self, os.close, self._source)
        return self._source

    def _put(self, start: int, data: memoryview) -> int:
        return os.pwrite(self._descriptor, data, start)


class _HugeFile(_CopiedFile):
    """A file of huge pages."""

    def __init__(self, found: Descriptor) -> None:
        super().__init__(found)
        self._pages = mmap.mmap(found.descriptor, found.size)

    def grow(self, descriptor: int, size: int) -> None:
        """Map the file again when it became larger than what is mapped."""
        if size > len(self._pages):
            self._pages = mmap.mmap(descriptor, size)

    def _put(self, start: int, data: memoryview) -> int:
        length = os.pwrite(self._copied(), data[:_PART], 0)
        with memoryview(self._pages) as mapped, mapped[start : start + length] as target:
            return os.preadv(self._copied(), [target], 0)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """The file that a client's descriptor leads to. ``access``: O_RDONLY, O_WRONLY or O_RDWR."""

    descriptor: int
    name: Name
    access: int
    size: int
    seals: int | None  # None: not in memory

    @property
    def key(self) -> tuple[Name, int]:
        """Return what files are told apart by, that need descriptors of their own."""
        return self.name, self.access

    @property
    def readable(self) -> bool:
        """Return whether its bytes can be read."""
        return self.access != os.O_WRONLY

    @property
    def writable(self) -> bool:
        """Return whether its bytes can be written."""
        return self.access != os.O_RDONLY and not (self.seals or 0) & _WRITE_SEALS

    def open(self) -> ClientFile:
        """Return the file, reached in the way that is safe. OSError or ValueError: in none."""
        if self.seals is None or not self.writable:
            return _CopiedFile(self)
        if self._huge():
            return _HugeFile(self)
        if self.access == os.O_RDWR and self.seals & _SHRINK and not _may_lack_pages():
            return MappedFile(self)
        return _CopiedFile(self)

    def _huge(self) -> bool:
        """Return whether write(2) has no way to it, also of no bytes."""
        try:
            os.pwrite(self.descriptor, b"", 0)
        except OSError:
            return True
        return False


def inspect(descriptor: int) -> Descriptor:
    """Return the file that a client's descriptor leads to, and never wait for the client.

    RemoteProtocolError (EINVAL) unless it is a file, and not one that the client may serve;
    OSError for what cannot be asked.
    """
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    if flags & os.O_PATH:
        raise RemoteProtocolError("DMA_MAP: a descriptor that was opened with O_PATH")
    seals = _seals(descriptor)
    if seals is None and (kind := _mounted(descriptor)) not in _LOCAL:
        raise RemoteProtocolError(
            f"DMA_MAP: a file on {kind or 'no mount that is seen here'}; use memory (memfd, tmpfs, "
            "huge pages) or a disk of this machine"
        )
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise RemoteProtocolError("DMA_MAP: a descriptor that is not a file's")
    name = status.st_dev, status.st_ino
    return Descriptor(descriptor, name, flags & os.O_ACCMODE, status.st_size, seals)


def _seals(descriptor: int) -> int | None:
    """Return a file's seals; None for one that is not in memory. Both are known without a wait."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        return None


def _mounted(descriptor: int) -> str | None:
    """Return the type of a file's mount, by what this process knows without asking it."""
    _, found, rest = Path(f"/proc/self/fdinfo/{descriptor}").read_text().partition("mnt_id:")
    mount = rest.split()[0] if found else ""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[0] == mount:
            return fields[fields.index("-") + 1]
    return None


def _may_lack_pages() -> bool:
    """Return whether a page of any memory may be refused: vm.overcommit_memory is 2."""
    try:
        return _OVERCOMMIT.read_text().strip() == _NEVER
    except OSError:
        return False
