# SPDX-License-Identifier: Apache-2.0
"""Resizable BAR (PCI Express Base 5.0, section 7.8.6)."""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping

from dma_rehearsal.device.pci.config import ConfigSpace, ExtendedCapability

_MEBIBYTE = 1 << 20
_SIZES = 28  # that the capability register has bits for: 1 MiB to 128 TiB
_FIRST_SIZE = 4  # its bit for 1 MiB
_BARS_UNIT, _SIZE_UNIT = 1 << 5, 1 << 8  # of Number of Resizable BARs and BAR Size
_SIZE_MASK = 0x3F * _SIZE_UNIT
_ENTRY = struct.Struct("<II")  # capability and control, from the capability's start + 4 on


class ResizableBar(ExtendedCapability):
    """The sizes that software may choose from: bytes, by the BAR's number.

    The largest one is the size that the class declares for the BAR, and the one at reset. A size
    that is not among them leaves the BAR as it is.
    """

    id = 0x0015

    def __init__(self, sizes: Mapping[int, Collection[int]]) -> None:
        """Raise ValueError for a size that is not a power of two from 1 MiB to 128 TiB."""
        if not sizes:
            raise ValueError("ResizableBar({}): name a BAR, as in ResizableBar({2: (1 << 20,)})")
        for index, each in sizes.items():
            for size in each or (0,):
                if size & size - 1 or not _MEBIBYTE <= size < _MEBIBYTE << _SIZES:
                    raise ValueError(
                        f"ResizableBar: BAR{index} of {size:#x} bytes; give powers of two from "
                        "1 MiB to 128 TiB"
                    )
        self._sizes = {index: sorted(each) for index, each in sorted(sizes.items())}

    def largest(self) -> dict[int, int]:
        """Return the bytes of each BAR at reset."""
        return {index: each[-1] for index, each in self._sizes.items()}

    def smallest(self) -> dict[int, int]:
        """Return the fewest bytes that software can give each BAR."""
        return {index: each[0] for index, each in self._sizes.items()}

    def body(self) -> bytes:
        """Return the capability and control register of each BAR."""
        entries: list[bytes] = []
        for index, each in self._sizes.items():
            offered = sum(1 << _FIRST_SIZE + _encoded(size) for size in each)
            control = index | _encoded(each[-1]) * _SIZE_UNIT
            if not entries:  # in the others the field is reserved
                control |= len(self._sizes) * _BARS_UNIT
            entries.append(_ENTRY.pack(offered, control))
        return b"".join(entries)

    def write_mask(self) -> bytes:
        """Allow BAR Size."""
        return _ENTRY.pack(0, _SIZE_MASK) * len(self._sizes)

    def written(self, config: ConfigSpace, start: int) -> None:
        """Have the BARs take the sizes that software chose."""
        for place, (index, each) in enumerate(self._sizes.items()):
            at = start + 8 + place * _ENTRY.size
            control = config.dword(at)
            size = _MEBIBYTE << (control & _SIZE_MASK) // _SIZE_UNIT
            if size in each:
                config.resize_bar(index, size)
            in_force = _encoded(config.bar_size(index)) * _SIZE_UNIT
            config.set_dword(at, control & ~_SIZE_MASK | in_force)


def _encoded(size: int) -> int:
    """Return how BAR Size has a number of bytes: 0 is 1 MiB."""
    return (size // _MEBIBYTE).bit_length() - 1
