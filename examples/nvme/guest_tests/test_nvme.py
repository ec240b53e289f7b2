# SPDX-License-Identifier: Apache-2.0
"""The kernel's own NVMe driver, unmodified: it binds to the model, reads and writes blocks."""

from __future__ import annotations

import os
import time
from pathlib import Path

DISK_LIMIT_S = 30.0
BLOCK = 4096


def disk(function: str) -> Path:
    """Return the block device of the controller's namespace, which comes after the probe."""
    controllers = Path(f"/sys/bus/pci/devices/{function}/nvme")
    deadline = time.monotonic() + DISK_LIMIT_S
    while time.monotonic() < deadline:
        for found in controllers.glob("nvme*/nvme*n1"):
            path = Path("/dev") / found.name
            if path.exists():
                return path
        time.sleep(0.02)
    raise TimeoutError(f"{function}: nvme has made no disk in {DISK_LIMIT_S} s")


def test_blocks_read_as_they_were_written(driver):
    with driver("nvme") as bound:
        path = disk(bound.function)
        written = os.urandom(8 * BLOCK)
        fd = os.open(path, os.O_RDWR)
        try:
            os.pwrite(fd, written, 16 * BLOCK)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.pread(fd, len(written), 16 * BLOCK) == written
        finally:
            os.close(fd)
