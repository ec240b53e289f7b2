# SPDX-License-Identifier: Apache-2.0
"""Temporary swap space in compressed RAM (zram), so that the kernel can page memory out.

The image has the kernel's modules for it, in a list. The first use loads them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import PAGESIZE
from pathlib import Path
from typing import Final

from dma_rehearsal.guest.linux.kernel_modules import MODULES, load

ORDER: Final = "order-swap"
CONTROL: Final = Path("/sys/class/zram-control")
# Linux, include/linux/swap.h, union swap_header: version, last_page, nr_badpages after 1024 bytes;
# the magic ends the page.
_HEADER: Final = struct.Struct("<1024xIII")
_MAGIC: Final = b"SWAPSPACE2"

_libc: Final = ctypes.CDLL(None, use_errno=True)


@contextmanager
def zram_swap(mebibytes: int) -> Iterator[Path]:
    """Turn on swap space of that size within the ``with``; yield the block device's path.

    The end brings the paged-out memory back. OSError when a module, the device or swapon(2)
    fails.
    """
    _load_modules()
    number = int((CONTROL / "hot_add").read_text())  # reading makes a device
    device = Path(f"/dev/zram{number}")
    try:
        settings = Path(f"/sys/block/{device.name}")
        (settings / "disksize").write_text(f"{mebibytes << 20}\n")
        device.write_bytes(_header(mebibytes << 20))
        _check(_libc.swapon(os.fsencode(device), 0), f"swapon {device}")
        try:
            yield device
        finally:
            _check(_libc.swapoff(os.fsencode(device)), f"swapoff {device}")
    finally:
        (CONTROL / "hot_remove").write_text(f"{number}\n")


def _load_modules() -> None:
    for module in (MODULES / ORDER).read_text().split():
        try:
            load(module, "num_devices=0" * (module == "zram"))
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise


def _header(size: int) -> bytes:
    start = _HEADER.pack(1, size // PAGESIZE - 1, 0)
    return start.ljust(PAGESIZE - len(_MAGIC), b"\0") + _MAGIC


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
