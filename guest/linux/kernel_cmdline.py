# SPDX-License-Identifier: Apache-2.0
"""What the kernel's command line says of the device, so that a user's own is found and tested.

``rehearsal.device=vvvv:dddd`` is its PCI id, ``rehearsal.vectors=N`` its MSI-X vectors, and
``rehearsal.profile=0x...`` the checksum of its profile. ``rehearsal.coherent=1`` says that caches
follow its accesses, and ``rehearsal.limits=addresses,alignment,segments`` of what kinds its limits
are. On a board the boot loader can say it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dma_rehearsal.device.layout import EXERCISER_DEVICE_ID, EXERCISER_VENDOR_ID, VECTORS_DEFAULT

CMDLINE: Final = Path("/proc/cmdline")
LIMITS: Final = ("addresses", "alignment", "segments")
_PREFIX: Final = "rehearsal."


@dataclass(frozen=True, slots=True)
class Announced:
    """The device as it was announced; ``profile`` is None when no profile was.

    ``limits`` are kinds of limits, see `LIMITS`.
    """

    vendor: int = EXERCISER_VENDOR_ID
    device: int = EXERCISER_DEVICE_ID
    vectors: int = VECTORS_DEFAULT
    profile: int | None = None
    coherent: bool = True
    limits: frozenset[str] = frozenset()

    @property
    def is_plain(self) -> bool:
        """Whether it has the exerciser's own id, which the driver knows."""
        return (self.vendor, self.device) == (EXERCISER_VENDOR_ID, EXERCISER_DEVICE_ID)


def announced() -> Announced:
    """Return what the command line says, the plain exerciser where it says nothing.

    ValueError names a word that cannot be.
    """
    words = CMDLINE.read_text().split() if CMDLINE.exists() else []
    said = dict(
        word.removeprefix(_PREFIX).partition("=")[::2] for word in words if word.startswith(_PREFIX)
    )
    try:
        found = Announced()
        vendor, _, device = said.get("device", f"{found.vendor:x}:{found.device:x}").partition(":")
        return Announced(
            int(vendor, 16),
            int(device, 16),
            int(said.get("vectors", found.vectors)),
            int(said["profile"], 0) if "profile" in said else None,
            bool(int(said.get("coherent", "1"))),
            _kinds(said.get("limits", "")),
        )
    except ValueError as error:
        raise ValueError(
            f"{CMDLINE}: {_PREFIX}device, vectors, profile, coherent or limits: {error}; "
            f"write {_PREFIX}device=13b5:ed01 {_PREFIX}vectors=16 {_PREFIX}profile=0x1234 "
            f"{_PREFIX}coherent=1 {_PREFIX}limits={','.join(LIMITS)}"
        ) from error


def _kinds(text: str) -> frozenset[str]:
    kinds = frozenset(filter(None, text.split(",")))
    if unknown := sorted(kinds.difference(LIMITS)):
        raise ValueError(f"no limit is of kind {unknown[0]!r}")
    return kinds
