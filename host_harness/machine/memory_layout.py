# SPDX-License-Identifier: Apache-2.0
"""Where the guest's memory lies: RAM below and above 4 GiB, and the carve-outs for DMA buffers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
GIB = 1 << 30

RAM_SIZE = 1 * GIB
# With 512 MiB below 4 GiB the rest stands above it, without a large guest.
RAM_BELOW_4G = 512 * MIB
# What a VM takes: its RAM, and what QEMU and the device process need beside it.
VM_SIZE = RAM_SIZE + 300 * MIB


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
    """Return how many bytes of the host's memory programs can still take; 0 when it is not told.

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


def kernel_arguments() -> list[str]:
    """Return the words that reserve the carve-outs and tell the driver of them."""
    reserved = [f"memmap={c.size:#x}${c.base:#x}" for c in CARVE_OUTS]
    listed = ",".join(f"{c.name}:{c.base:#x}:{c.size:#x}" for c in CARVE_OUTS)
    return [*reserved, f"dma_rehearsal.carveouts={listed}"]
