# SPDX-License-Identifier: Apache-2.0
"""The guest's memory: RAM below and above 4 GiB, the carve-outs, and how the harness reads it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
GIB = 1 << 30

RAM_SIZE = 1 * GIB
# 512 MiB are below 4 GiB and the rest is above it, without a large guest.
RAM_BELOW_4G = 512 * MIB
# A VM's memory on the host: its RAM, and that of QEMU and the device process.
VM_SIZE = RAM_SIZE + 300 * MIB
# The parts of RAM: first physical address, offset in the file, bytes. The rest is above 4 GiB.
_PARTS = (
    (0, 0, RAM_BELOW_4G),
    (4 * GIB, RAM_BELOW_4G, RAM_SIZE - RAM_BELOW_4G),
)


@dataclass(frozen=True, slots=True)
class CarveOut:
    """A range of physical memory that the kernel leaves alone: bytes, page-aligned."""

    name: str
    base: int
    size: int


CARVE_OUTS = (
    CarveOut("low", 0x00A0_0000, 6 * MIB),  # below 16 MiB, for 24-bit devices
    CarveOut("main", 0x0C00_0000, 64 * MIB),  # below 256 MiB, QEMU's edu has 28 bits
    CarveOut("high", 0x1_1000_0000, 64 * MIB),  # above 4 GiB
)


def available(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many bytes of the host's memory programs can still take; 0 when it is unknown.

    It is MemAvailable (proc_meminfo(5)), or what the limit of a container leaves (Linux, "Control
    Group v2": memory.max, memory.current).
    """
    told = 0
    for line in meminfo.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable" and value.split():
            told = int(value.split()[0]) * 1024
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
    except (OSError, ValueError):
        return told
    return min(told, max(0, int(limit) - used)) if limit.isdecimal() else told


class NoMemory(Exception):
    """A physical address has no RAM."""


class GuestMemory:
    """Reads RAM by physical address. ``fd`` is the memory's, shared with QEMU; it stays ours."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def create(cls) -> GuestMemory:
        """Make the memory of one VM: RAM_SIZE bytes of zeros. Close it."""
        fd = os.memfd_create("guest-ram")
        os.ftruncate(fd, RAM_SIZE)
        return cls(fd)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)

    def read(self, address: int, length: int) -> bytes:
        """Return bytes of RAM; NoMemory when not all of them are there."""
        for start, offset, size in _PARTS:
            if start <= address and address + length <= start + size:
                data = os.pread(self._fd, length, offset + address - start)
                if len(data) == length:
                    return data
        raise NoMemory(f"no RAM for {length} bytes at {address:#x}")
