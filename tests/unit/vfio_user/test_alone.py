# SPDX-License-Identifier: Apache-2.0
"""`vfio_user` is usable alone: a server without this project's devices."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

from examples.vfio_user_server import BAR0, BAR0_SIZE, CONFIG, Scratchpad
from tests.unit.vfio_user.client import RawClient
from tests.unit.vfio_user.serving import serving

ROOT = Path(__file__).parents[3]
OTHERS = """
import sys
import examples.vfio_user_server
ours = [name for name in sys.modules if name.startswith("dma_rehearsal.")]
print(*(name for name in ours if not name.startswith("dma_rehearsal.device.vfio_user")))
"""


def test_a_client_reads_and_writes_memory(tmp_path: Path) -> None:
    with serving(tmp_path / "socket", Scratchpad()) as path, RawClient(path, decode=False) as raw:
        assert raw.region_read(CONFIG, 0, 4) == struct.pack("<HH", 0x1234, 0x5678)
        raw.region_write(BAR0, 8, b"scratch")
        assert raw.region_read(BAR0, 8, 7) == b"scratch"


def test_software_finds_the_size_of_bar0(tmp_path: Path) -> None:
    with serving(tmp_path / "socket", Scratchpad()) as path, RawClient(path, decode=False) as raw:
        raw.region_write(CONFIG, 0x10, b"\xff" * 4)
        (mask,) = struct.unpack("<I", raw.region_read(CONFIG, 0x10, 4))
        assert -mask & 0xFFFF_FFFF == BAR0_SIZE
        raw.region_write(CONFIG, 0, b"\xff" * 4)
        assert raw.region_read(CONFIG, 0, 4) == struct.pack("<HH", 0x1234, 0x5678), "read-only"


def test_a_reset_clears_memory() -> None:
    device = Scratchpad()
    device.region_write(BAR0, 0, b"old")
    device.device_reset()
    assert device.region_read(BAR0, 0, 3) == bytes(3)


def test_it_imports_no_other_part_of_this_project() -> None:
    found = subprocess.run(
        [sys.executable, "-c", OTHERS],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.stdout.split() == ["dma_rehearsal.device"]
