"""What moves bytes between the CPU's caches and memory, behind one interface.

On a coherent bus nothing has to be done, and `CoherentBus` does nothing; it is what is used until
`use` gives another one (a board's own means, or a model of such a board).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .options import IODirection

Segments = Sequence[tuple[int, int]]


class Coherence(Protocol):
    """Maintenance of the CPU's caches over bus segments, (address, length) in bytes.

    ``owner`` is the buffer's name in reports. Each returns when the maintenance is done.
    """

    def sync_for_device(self, owner: str, segments: Segments, direction: IODirection) -> None:
        """Give the bytes to the device: what the CPU has stored is in memory afterwards."""

    def sync_for_cpu(self, owner: str, segments: Segments, direction: IODirection) -> None:
        """Take the bytes back: the CPU loads what the device has written afterwards."""

    def clean(self, owner: str, segments: Segments) -> None:
        """Write back: kIOMemoryIncoherentIOStore."""

    def clean_and_invalidate(self, owner: str, segments: Segments) -> None:
        """Write back, then forget: kIOMemoryIncoherentIOFlush."""


class CoherentBus:
    """A bus on which every device access sees what the CPU sees, and the other way round."""

    def sync_for_device(self, owner: str, segments: Segments, direction: IODirection) -> None:
        """Do nothing."""

    def sync_for_cpu(self, owner: str, segments: Segments, direction: IODirection) -> None:
        """Do nothing."""

    def clean(self, owner: str, segments: Segments) -> None:
        """Do nothing."""

    def clean_and_invalidate(self, owner: str, segments: Segments) -> None:
        """Do nothing."""


_backend: Coherence = CoherentBus()


def backend() -> Coherence:
    """Return what maintains the caches here."""
    return _backend


def use(coherence: Coherence) -> Coherence:
    """Take another one from now on; return the one before."""
    global _backend
    before, _backend = _backend, coherence
    return before
