# SPDX-License-Identifier: Apache-2.0
"""Device files that a test has left open, which keep a driver's module loaded."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

DESCRIPTORS: Final = Path("/proc/self/fd")


def open_devices() -> dict[int, str]:
    """Return this process's descriptors of character and block devices, and their paths."""
    found = {}
    for each in DESCRIPTORS.iterdir():
        number = int(each.name)
        try:
            mode = os.fstat(number).st_mode
            if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                # The kernel adds that to the path of a device that is gone.
                found[number] = str(each.readlink()).removesuffix(" (deleted)")
        except OSError:  # it was that of the folder
            continue
    return found


def let_go(descriptors: dict[int, str]) -> list[str]:
    """Let go of devices that are still open; return their paths.

    Each descriptor then leads to /dev/null: its owner may still close it, and no other file takes
    its number meanwhile.
    """
    now = open_devices()
    left = {number: path for number, path in descriptors.items() if now.get(number) == path}
    if left:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for number in left:
            os.dup2(null, number, inheritable=False)
        os.close(null)
    return sorted(set(left.values()))
