# SPDX-License-Identifier: Apache-2.0
"""The carve-outs that the kernel module shows through UIO, each cut into arenas."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dma_rehearsal.guest.iobuffer.base.ranges import PAGE

UIO: Final = Path("/sys/class/uio")
UIO_PREFIX: Final = "dma-rehearsal-"
ARENAS_PER_ZONE: Final = 64


@dataclass(frozen=True, slots=True)
class Zone:
    """One carve-out: its name, and its bus addresses in bytes."""

    name: str
    start: int
    size: int

    @property
    def arena_size(self) -> int:
        """Bytes an arena: whole pages, a power of two; the zone's last one may be shorter."""
        share = max(PAGE, self.size // ARENAS_PER_ZONE)
        return int(1 << share.bit_length() - 1)


def find_zones(uio: Path = UIO) -> list[Zone]:
    """List the carve-outs that the module shows through UIO, by ascending address."""
    zones = []
    for device in uio.glob("uio*") if uio.is_dir() else ():
        name = (device / "name").read_text().strip()
        if name.startswith(UIO_PREFIX):
            first = device / "maps" / "map0"
            zones.append(
                Zone(
                    name.removeprefix(UIO_PREFIX),
                    int((first / "addr").read_text(), 0),
                    int((first / "size").read_text(), 0),
                )
            )
    return sorted(zones, key=lambda zone: zone.start)
