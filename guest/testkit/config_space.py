# SPDX-License-Identifier: Apache-2.0
"""Configuration space as hostile software writes it, and how to restore it."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dma_rehearsal.guest.drivers.pci_sysfs import PciFunction

# PCI Local Bus 3.0, 6.1; PCI Express Base 5.0, 7.5.3
COMMAND = 0x04
_BARS = range(0x10, 0x28, 4)
_INTERRUPT_LINE = 0x3C
POWER, MSIX, PCI_EXPRESS = 0x01, 0x11, 0x10
POWER_CONTROL = 0x04
_POWER_STATE, _D0, _D3HOT = 0x3, 0, 3
_RECOVERY_S = 0.01
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


def sleep_and_wake(function: PciFunction) -> None:
    """Send the function to D3hot and back, 10 ms each (PCI PM 1.2, 5.6.1)."""
    place = function.capability(POWER) + POWER_CONTROL
    control = word(function, place) & ~_POWER_STATE
    for state in _D3HOT, _D0:
        function.config_write(place, struct.pack("<H", control | state))
        time.sleep(_RECOVERY_S)


@contextmanager
def restored(function: PciFunction) -> Iterator[None]:
    """Restore the registers that firmware and kernel have written, at the end of the ``with``."""
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
    """Initiate a function level reset as no kernel would: at any moment."""
    place = function.capability(PCI_EXPRESS) + DEVICE_CONTROL
    with restored(function):
        function.config_write(place, struct.pack("<H", word(function, place) | _INITIATE_FLR))
