# SPDX-License-Identifier: Apache-2.0
"""Pytest as on a kernel with larger pages.

``python -m tests.unit.guest.page_size BYTES ARGUMENTS``.

The allocator takes the page size from mmap.PAGESIZE; mappings get the alignment of such a page.
"""

from __future__ import annotations

import importlib
import mmap
import sys

import pytest


class LargerPages:
    """A plugin: this kernel's mmap(2) as one with larger pages has it."""

    def pytest_configure(self) -> None:
        """Wrap the one place that calls mmap(2)."""
        vm = importlib.import_module("dma_rehearsal.guest.iobuffer.os.virtual_memory")
        page = importlib.import_module("dma_rehearsal.guest.iobuffer.base.ranges").PAGE
        page = importlib.import_module("dma_rehearsal.guest.iobuffer.base.ranges").PAGE
        page = importlib.import_module("dma_rehearsal.guest.iobuffer.base.ranges").PAGE
        plain = vm._map

        def aligned(
            address: int, length: int, protection: int, flags: int, fd: int, offset: int
        ) -> int:
            assert not (address | offset) % page, "such a kernel answers EINVAL"
            if not address:
                nothing = vm._PRIVATE | vm.MAP_NORESERVE
                room = plain(0, length + page, vm.PROT_NONE, nothing, -1, 0)
                address = -(-room // page) * page
                if room < address:
                    vm._munmap(room, address - room)
                vm._munmap(address + length, room + page - address)
                flags |= vm.MAP_FIXED
            return int(plain(address, length, protection, flags, fd, offset))

        setattr(vm, "_map", aligned)  # noqa: B010


if __name__ == "__main__":
    mmap.PAGESIZE = int(sys.argv[1])  # type: ignore[misc]
    sys.exit(pytest.main(sys.argv[2:], plugins=[LargerPages()]))
