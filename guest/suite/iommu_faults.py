"""Named faults of what maps memory for a device, put on from outside."""

from __future__ import annotations

from typing import Any

from vfio import Container, Iova

WRONG_PERMISSION = "iommu-wrong-permission"

_map = Container.map


def _map_all(
    container: Container, va: int, length: int, *, read: bool, write: bool, **rest: Any
) -> Iova:
    """Map for both directions where one was asked for."""
    allowed = read or write
    return _map(container, va, length, read=allowed, write=allowed, **rest)


def apply(name: str) -> None:
    """Put a fault on for the rest of this process; another part's does nothing here."""
    if name == WRONG_PERMISSION:
        patched: Any = Container
        patched.map = _map_all
