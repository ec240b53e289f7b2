# SPDX-License-Identifier: Apache-2.0
"""AtomicOps (PCI Express Base 5.0, section 6.15): bits of the PCI Express capability."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from dma_rehearsal.device.pci.config import Capability, ConfigSpace, ExpressBits
from dma_rehearsal.device.pci.pcie import (
    DeviceCapabilities2,
    DeviceControl2,
    Offset,
    PciExpress,
)

_COMPLETERS = {
    4: DeviceCapabilities2.ATOMIC_COMPLETER_32,
    8: DeviceCapabilities2.ATOMIC_COMPLETER_64,
    16: DeviceCapabilities2.CAS_COMPLETER_128,
}


class AtomicOps(Capability):
    """A function that sends AtomicOps; ``completes`` are the bytes of those that its BARs take.

    It makes AtomicOp Requester Enable of Device Control 2 writable, which is 0 at reset. 16 bytes
    are for compare and swap only.
    """

    id = PciExpress.id
    listed: ClassVar[bool] = False

    def __init__(self, *, completes: Collection[int] = ()) -> None:
        """Raise ValueError for sizes other than 4, 8 and 16."""
        if not set(completes) <= _COMPLETERS.keys():
            raise ValueError(f"AtomicOps(completes={tuple(completes)}): declare 4, 8 or 16 bytes")
        bits = DeviceCapabilities2(0)
        for size in completes:
            bits |= _COMPLETERS[size]
        self.express = ExpressBits(bits, DeviceControl2.ATOMIC_REQUESTER_ENABLE)

    def body(self) -> bytes:
        """Return nothing: it is not in the list."""
        return b""


def requester_enabled(config: ConfigSpace) -> bool:
    """Return AtomicOp Requester Enable; False where the function has no AtomicOps."""
    start = config.start_of(PciExpress)
    if start is None:
        return False
    control = config.word(start + Offset.DEVICE_CONTROL_2)
    return bool(control & DeviceControl2.ATOMIC_REQUESTER_ENABLE)


def completes(config: ConfigSpace, size: int) -> bool:
    """Return whether the function's BARs take AtomicOps of ``size`` bytes (4, 8 or 16)."""
    start = config.start_of(PciExpress)
    if start is None:
        return False
    return bool(config.dword(start + Offset.DEVICE_CAPABILITIES_2) & _COMPLETERS[size])
