# SPDX-License-Identifier: Apache-2.0
"""What a module and a kernel image say of themselves: release, and modules that are needed."""

from __future__ import annotations

import mmap
import re
import struct
from pathlib import Path

from dma_rehearsal.host_harness.process import advice
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure

# ELF64, little endian (elf(5)): the header's e_shoff, e_shentsize, e_shnum, e_shstrndx.
_HEADER = struct.Struct("<40xQ10xHHH")
# A section header's sh_name, sh_offset, sh_size.
_SECTION = struct.Struct("<I20xQQ")
_BANNER = re.compile(rb"Linux version (\S+) \(")


def vermagic(module: Path) -> str:
    """Return the kernel release that a ``.ko`` was built for: the first word of its vermagic.

    EnvironmentFailure when it is not an ELF module or has no vermagic.
    """
    words = (_modinfo(module, module.read_bytes(), b"vermagic") or "").split()
    if not words:
        raise _no_module(module, "it has no vermagic")
    return words[0]


def depends(module: Path, data: bytes) -> list[str]:
    """Return the names of the modules that a module needs; ``data`` is the file, unpacked.

    EnvironmentFailure when it is not an ELF module.
    """
    return [name for name in (_modinfo(module, data, b"depends") or "").split(",") if name]


def _modinfo(module: Path, data: bytes, wanted: bytes) -> str | None:
    """Return the value of the first ``wanted=`` in a module's .modinfo; None without one."""
    try:
        information = section(data, b".modinfo")
    except (ValueError, struct.error, IndexError) as error:
        raise _no_module(module, str(error)) from error
    for item in information.split(b"\0"):
        key, _, value = item.partition(b"=")
        if key == wanted:
            return value.decode(errors="replace")
    return None


def release_of(kernel: Path) -> str:
    """Return the release that an uncompressed kernel calls itself, as ``uname -r`` would.

    EnvironmentFailure when the file is not a kernel.
    """
    with kernel.open("rb") as file:
        if kernel.stat().st_size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                start = data.find(b"Linux version ")
                found = _BANNER.match(data[start : start + 200]) if start >= 0 else None
                if found:
                    return found.group(1).decode(errors="replace")
    raise EnvironmentFailure(
        f"{kernel} is not a Linux kernel", f"{advice.command('clean-cache')}, then run again"
    )


def check(kernel: Path, module: Path) -> str:
    """Return the release that both are of; EnvironmentFailure naming both when they differ."""
    release, built_for = release_of(kernel), vermagic(module)
    if release != built_for:
        raise EnvironmentFailure(
            f"kernel and module do not match: the image's kernel is {release}, "
            f"{module.name} was built for {built_for}",
            f"{advice.command('clean-cache')}, then run again, to make both from one set of "
            "packages",
        )
    return release


def section(data: bytes, wanted: bytes) -> bytes:
    """Return a section of a 64-bit ELF file; ValueError, struct.error or IndexError without it."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit ELF file")
    table, entry_size, count, names_index = _HEADER.unpack_from(data)
    if table + count * entry_size > len(data):
        raise ValueError("it is cut off")
    headers = [_SECTION.unpack_from(data, table + i * entry_size) for i in range(count)]
    names = headers[names_index][1]
    for name, offset, size in headers:
        end = data.index(b"\0", names + name)
        if data[names + name : end] == wanted:
            if offset + size > len(data):
                raise ValueError("it is cut off")
            return data[offset : offset + size]
    raise ValueError(f"it has no section {wanted.decode()}")


def _no_module(module: Path, reason: str) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"{module} is not a kernel module: {reason}",
        f"{advice.command('clean-cache')}, then run again",
    )
