"""Named faults of what maps memory for a device, put on from outside."""

from __future__ import annotations

from typing import Any

from vfio import Container, Iova

WRONG_PERMISSION = "iommu-wrong-permission"
MASK_IGNORED = "iommu-mask-ignored"

_map = Container.map


def _map_all(
    container: Container, va: int, length: int, *, read: bool, write: bool, **rest: Any
) -> Iova:
    """Map for both directions where one was asked for."""
    allowed = read or write
    return _map(container, va, length, read=allowed, write=allowed, **rest)


def _no_mask(container: Container, bits: int) -> None:
    """Place mappings wherever the IOMMU translates."""


def apply(name: str) -> None:
    """Put a fault on for the rest of this process; another part's does nothing here."""
    patched: Any = Container
    if name == WRONG_PERMISSION:
        patched.map = _map_all
    elif name == MASK_IGNORED:
        patched.set_mask = _no_mask
