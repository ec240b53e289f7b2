# SPDX-License-Identifier: Apache-2.0
"""PAT decoding and the reading of the address width."""

from __future__ import annotations

from pathlib import Path

import pytest

from dma_rehearsal.device.layout import MemoryType
from dma_rehearsal.guest.linux.memory_types import (
    MemoryTypesError,
    entry_type,
    read_pat,
    read_physical_bits,
)

LINUX_PAT = 0x0407_0506_0007_0106
NOPAT = 0x0007_0406_0007_0406


@pytest.mark.parametrize(
    ("entry", "level", "pat", "expected"),
    [
        (0x8000_0000_0C00_0227, 1, LINUX_PAT, MemoryType.WB),
        (0x8000_0000_0C00_022F, 1, LINUX_PAT, MemoryType.WC),
        (0x8000_0000_0C00_0237, 1, LINUX_PAT, MemoryType.UC_MINUS),
        (0x8000_0000_0C00_023F, 1, LINUX_PAT, MemoryType.UC),
        (0x8000_0000_0C00_02BF, 1, LINUX_PAT, MemoryType.WT),
        (0x8000_0000_0C00_02E7, 2, LINUX_PAT, MemoryType.WB),  # bit 7: page size
        (0x8000_0000_0C00_10FF, 2, LINUX_PAT, MemoryType.WT),
        (0x8000_0000_0C00_022F, 1, NOPAT, MemoryType.WT),
    ],
)
def test_entry_type(entry: int, level: int, pat: int, expected: MemoryType) -> None:
    assert entry_type(entry, pat, level) is expected


def test_physical_bits(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\naddress sizes\t: 40 bits physical, 48 bits virtual\n")
    assert read_physical_bits(cpuinfo) == 40
    cpuinfo.write_text("processor\t: 0\n")
    with pytest.raises(MemoryTypesError):
        read_physical_bits(cpuinfo)


def test_without_the_msr_module() -> None:
    with pytest.raises(MemoryTypesError, match="/dev/cpu/9999/msr"):
        read_pat(9999)
