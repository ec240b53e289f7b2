# SPDX-License-Identifier: Apache-2.0
"""Archives in cpio's newc format, from and to memory (Linux, driver-api/early-userspace/
buffer-format.rst).

The same members give the same bytes: owner root, time 0, names in order.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass

_MAGIC = b"070701"
_FIELDS = 13  # after the magic, eight hexadecimal digits each
_MODE, _SIZE, _NAME_SIZE = 1, 6, 11  # of the fields
_HEADER_SIZE = len(_MAGIC) + 8 * _FIELDS
_MOST = 0xFFFFFFFF  # bytes of a file
_LAST = b"TRAILER!!!"
_BLOCK = 512  # bytes; the archive ends with one, as cpio writes it


@dataclass(frozen=True, slots=True)
class Member:
    """A file, a folder or a symbolic link, with its mode as in ``st_mode``.

    The data of a link is its target.
    """

    mode: int
    data: bytes = b""

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return stat.S_ISDIR(self.mode)


def file(data: bytes, permissions: int = 0o644) -> Member:
    """Return a member that is a file."""
    return Member(stat.S_IFREG | permissions, data)


def folder(permissions: int = 0o755) -> Member:
    """Return a member that is a folder."""
    return Member(stat.S_IFDIR | permissions)


def link(target: str) -> Member:
    """Return a member that is a symbolic link to ``target``."""
    return Member(stat.S_IFLNK | 0o777, os.fsencode(target))


def with_folders(files: Mapping[str, Member]) -> dict[str, Member]:
    """Return the files and the folders that they are in."""
    found = dict(files)
    for path in files:
        while path := path.rpartition("/")[0]:
            found.setdefault(path, folder())
    return found


def pack(members: Mapping[str, Member]) -> bytes:
    """Return the archive of ``members``: paths below the root, folders before what is in them.

    ValueError for a file of 4 GiB or more.
    """
    archive = bytearray()
    for number, (name, member) in enumerate(sorted(members.items()), 1):
        _append(archive, number, os.fsencode(name), member)
    _append(archive, 0, _LAST, Member(0))
    archive += bytes(-len(archive) % _BLOCK)
    return bytes(archive)


def unpack(archive: bytes) -> dict[str, Member]:
    """Return the members of an archive; ValueError when it is not one, or is cut off."""
    members: dict[str, Member] = {}
    start = 0
    while True:
        header = archive[start : start + _HEADER_SIZE]
        if len(header) != _HEADER_SIZE or not header.startswith(_MAGIC):
            raise ValueError(f"no header of a newc archive at byte {start}")
        fields = [int(header[at : at + 8], 16) for at in range(len(_MAGIC), _HEADER_SIZE, 8)]
        name_start = start + _HEADER_SIZE
        name_end = name_start + fields[_NAME_SIZE]
        name = archive[name_start : name_end - 1]
        if name == _LAST:
            return members
        data_start = _aligned(name_end)
        data_end = data_start + fields[_SIZE]
        if data_end > len(archive):
            raise ValueError(f"the archive ends within {os.fsdecode(name)}")
        members[os.fsdecode(name)] = Member(fields[_MODE], archive[data_start:data_end])
        start = _aligned(data_end)


def _append(archive: bytearray, number: int, name: bytes, member: Member) -> None:
    if len(member.data) > _MOST:
        raise ValueError(f"{os.fsdecode(name)} is too large for a newc archive")
    links = 2 if member.is_folder else 1
    # Inode, mode, owner, group, links, time, size, four numbers of devices, name's size, checksum.
    fields = (number, member.mode, 0, 0, links, 0, len(member.data), 0, 0, 0, 0, len(name) + 1, 0)
    archive += _MAGIC + b"".join(b"%08X" % field for field in fields) + name + b"\0"
    archive += bytes(-len(archive) % 4)
    archive += member.data
    archive += bytes(-len(archive) % 4)


def _aligned(offset: int) -> int:
    return -(-offset // 4) * 4
