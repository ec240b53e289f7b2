# SPDX-License-Identifier: Apache-2.0
"""BarContent: everything that a BAR, or a part of one, can be asked."""

from __future__ import annotations

from dma_rehearsal.device.vfio_user.model import Mappable


class BarContent:
    """The content of a BAR, or of a part of one. Offsets are from its own start.

    A subclass overrides what it has. By itself, a content reads 0 and ignores writes.
    ``mappable``: the memory that the client may map, by the BAR's offsets.
    """

    mappable: Mappable | None = None

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes at ``offset``."""
        del offset
        return bytes(length)

    def peek(self, offset: int, length: int) -> bytes:
        """Return what is stored there, without side effects."""
        del offset
        return bytes(length)

    def write(self, offset: int, data: bytes) -> None:
        """Store ``data`` at ``offset``."""

    def acts(self, offset: int, length: int) -> bool:
        """Return whether a write of ``length`` bytes at ``offset`` has a side effect."""
        del offset, length
        return False

    def name(self, offset: int) -> str:
        """Return the name of the register that holds the byte at ``offset``, "" for none."""
        del offset
        return ""

    def view(self, offset: int, length: int) -> memoryview | None:
        """Return a view for the DMA of a peer; None where it reaches no memory."""
        del offset, length
        return None

    def has(self, offset: int, length: int) -> bool:
        """Return whether a migration can carry the range."""
        del offset, length
        return False

    def saved(self, offset: int, length: int) -> bytes:
        """Return what a migration carries of a range that it ``has``."""
        return self.peek(offset, length)

    def load(self, offset: int, data: bytes) -> None:
        """Store what ``saved`` returned, without side effects."""

    def reset(self) -> None:
        """Go back to the reset state."""
