"""Configuration space as hostile software handles it, and back again."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from pci_sysfs import PciFunction

# PCI Local Bus 3.0, 6.1; PCI Express Base 5.0, 7.5.3
COMMAND = 0x04
_BARS = range(0x10, 0x28, 4)
_INTERRUPT_LINE = 0x3C
POWER, MSIX, PCI_EXPRESS = 0x01, 0x11, 0x10
POWER_CONTROL = 0x04
_MSIX_CONTROL = 0x02
DEVICE_CONTROL, _DEVICE_STATUS = 0x08, 0x0A
_INITIATE_FLR = 1 << 15
_TRANSACTIONS_PENDING = 1 << 5


def transactions_pending(function: PciFunction) -> bool:
    """Whether Device Status says that a DMA is in flight (7.5.3.5)."""
    place = function.capability(PCI_EXPRESS) + _DEVICE_STATUS
    return bool(word(function, place) & _TRANSACTIONS_PENDING)


def word(function: PciFunction, offset: int) -> int:
    """Read 16 bits."""
    return int.from_bytes(function.config_read(offset, 2), "little")


@contextmanager
def restored(function: PciFunction) -> Iterator[None]:
    """Write back what firmware and kernel had put into configuration space."""
    words = [
        *(_INTERRUPT_LINE, function.capability(PCI_EXPRESS) + DEVICE_CONTROL),
        *(function.capability(POWER) + POWER_CONTROL, function.capability(MSIX) + _MSIX_CONTROL),
        COMMAND,
    ]
    saved = [(offset, function.config_read(offset, 2)) for offset in words]
    bars = [(offset, function.config_read(offset, 4)) for offset in _BARS]
    try:
        yield
    finally:
        for offset, data in (*bars, *saved):
            function.config_write(offset, data)


def flr(function: PciFunction) -> None:
    """Initiate a function level reset as no kernel would: in the middle of anything."""
    place = function.capability(PCI_EXPRESS) + DEVICE_CONTROL
    with restored(function):
        function.config_write(place, struct.pack("<H", word(function, place) | _INITIATE_FLR))
