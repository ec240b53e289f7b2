# SPDX-License-Identifier: Apache-2.0
"""The guest's memory as the harness sees it: by the descriptor that QEMU was given it by."""

from __future__ import annotations

import os

from dma_rehearsal.host_harness.machine.memory_layout import GIB, RAM_BELOW_4G, RAM_SIZE

# Where RAM lies in the guest's physical addresses, and where that is in the file: first address,
# first offset, bytes. q35 puts what does not fit below 4 GiB above it.
_PARTS = (
    (0, 0, RAM_BELOW_4G),
    (4 * GIB, RAM_BELOW_4G, RAM_SIZE - RAM_BELOW_4G),
)


class NoMemory(Exception):
    """There is no RAM at a physical address."""


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
