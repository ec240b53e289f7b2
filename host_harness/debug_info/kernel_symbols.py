# SPDX-License-Identifier: Apache-2.0
"""The symbols of a kernel's own code, as /proc/kallsyms lists them."""

from __future__ import annotations

import re
from bisect import bisect_right

_LINE = re.compile(r"^([0-9a-f]{8,16}) [tTwW] (\S{1,512})$", re.MULTILINE)
_TEXT_MAX = 64 << 20
# A function of the kernel is not larger. Addresses behind the last one are of something else.
_FUNCTION_MAX = 1 << 20
# The functions between a driver and its DMA operations: the DMA API, its pools, and the page pools
# of the network stack.
_DMA_API = re.compile(
    r"(?:__)?(?:dmam?_(?:map|unmap|alloc|free|pool|sync|set|get|mmap|common|direct|vmap|need|"
    r"supported|coerce|max|opt|declare|release)\w*|swiotlb_\w+|iommu_dma_\w+|page_pool_\w+|"
    r"pool_alloc_page|pci_(?:alloc|free)_consistent|pci_unmap_\w+|device_release_driver\w*)"
    r"(?:\.\w+)*"
)


class KernelSymbols:
    """Functions by address; of a ``text`` that is not /proc/kallsyms, none."""

    def __init__(self, text: str) -> None:
        found = sorted(
            (int(address, 16), name) for address, name in _LINE.findall(text[:_TEXT_MAX])
        )
        self._starts = [address for address, _ in found]
        self._names = [name for _, name in found]

    def __len__(self) -> int:
        return len(self._names)

    def at(self, address: int) -> tuple[str, int] | None:
        """Return the function at ``address`` and the offset in it; None where there is none."""
        at = bisect_right(self._starts, address) - 1
        if at < 0 or address - self._starts[at] > _FUNCTION_MAX:
            return None
        return self._names[at], address - self._starts[at]


def is_dma_api(function: str) -> bool:
    """Return whether a function of the kernel is the DMA API's, and not a driver's."""
    return _DMA_API.fullmatch(function) is not None
