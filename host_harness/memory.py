"""Where the guest's memory lies: RAM below and above 4 GiB, and the carve-outs for DMA buffers."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20
GIB = 1 << 30

RAM_SIZE = 1 * GIB
# With 512 MiB below 4 GiB the rest stands above it, without a large guest.
RAM_BELOW_4G = 512 * MIB


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


def kernel_arguments() -> list[str]:
    """Return the words that reserve the carve-outs and tell the driver of them."""
    reserved = [f"memmap={c.size:#x}${c.base:#x}" for c in CARVE_OUTS]
    listed = ",".join(f"{c.name}:{c.base:#x}:{c.size:#x}" for c in CARVE_OUTS)
    return [*reserved, f"dma_rehearsal.carveouts={listed}"]
