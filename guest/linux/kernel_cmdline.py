# SPDX-License-Identifier: Apache-2.0
"""Words that describe the device under test, and the run.

``rehearsal.device=vvvv:dddd`` is the device's PCI id, ``rehearsal.vectors=N`` the number of its
MSI-X vectors, and ``rehearsal.profile=0x...`` the checksum of its profile.
``rehearsal.coherent=1``: the device's accesses are snooped.
``rehearsal.limits=addresses,alignment,segments``: the kinds of its limits.
``rehearsal.soak=1``: tests that repeat do so many times. On a board, put these words into the boot
loader's configuration. In a guest of the harness the agent has written them to `PARAMETERS`, and
those win.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dma_rehearsal.device.layout import (
    EXERCISER_DEVICE_ID,
    EXERCISER_VENDOR_ID,
    VECTORS_DEFAULT,
)

CMDLINE: Final = Path("/proc/cmdline")
PARAMETERS: Final = Path("/run/dma-rehearsal/parameters")
"""What the host told the agent of this run (``guest/agent/saved_state.py``)."""
LIMITS: Final = ("addresses", "alignment", "segments")
"""The kinds of limits of a device's DMA."""
_PREFIX: Final = "rehearsal."


@dataclass(frozen=True, slots=True)
class DeviceParameters:
    """The device under test. ``profile`` is a profile's checksum, None without a profile.

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
        """Whether it has the exerciser's own PCI id, which the driver knows."""
        return (self.vendor, self.device) == (EXERCISER_VENDOR_ID, EXERCISER_DEVICE_ID)


def device_parameters() -> DeviceParameters:
    """Return the device that the words describe; without such words, the exerciser.

    ValueError names a word whose value is wrong.
    """
    values = _values()
    try:
        default = DeviceParameters()
        pci_id = values.get("device", f"{default.vendor:x}:{default.device:x}")
        vendor, _, device = pci_id.partition(":")
        return DeviceParameters(
            int(vendor, 16),
            int(device, 16),
            int(values.get("vectors", default.vectors)),
            int(values["profile"], 0) if "profile" in values else None,
            bool(int(values.get("coherent", "1"))),
            _kinds(values.get("limits", "")),
        )
    except ValueError as error:
        raise ValueError(
            f"{PARAMETERS} or {CMDLINE}: {_PREFIX}device, vectors, profile, coherent or limits: "
            f"{error}; write {_PREFIX}device=13b5:ed01 {_PREFIX}vectors=16 {_PREFIX}profile=0x1234 "
            f"{_PREFIX}coherent=1 {_PREFIX}limits={','.join(LIMITS)}"
        ) from error


def repeat_count(usual: int, soak: int) -> int:
    """Return how many times a test repeats: ``soak`` in a soak run (make soak), else ``usual``."""
    return soak if _values().get("soak") == "1" else usual


def _values() -> dict[str, str]:
    """Return the values by the words without their prefix; the last one of a name wins."""
    words = [
        word for path in (CMDLINE, PARAMETERS) if path.exists() for word in path.read_text().split()
    ]
    return {
        name.removeprefix(_PREFIX): value
        for name, _, value in (word.partition("=") for word in words)
        if name.startswith(_PREFIX)
    }


def _kinds(text: str) -> frozenset[str]:
    kinds = frozenset(filter(None, text.split(",")))
    if unknown := sorted(kinds.difference(LIMITS)):
        raise ValueError(f"unknown kind of limit {unknown[0]!r}")
    return kinds
