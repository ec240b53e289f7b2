# SPDX-License-Identifier: Apache-2.0
"""Drivers in user space, in Python: the built-in exerciser, QEMU's edu, the platform, VFIO.

A driver of your own device needs `PciFunction` (its BARs and configuration space), `DriverFunction`
(bus mastering and interrupts, by the kernel module) and `Interrupt`.
"""

from dma_rehearsal.guest.drivers.device_limits import UNLIMITED, Limits
from dma_rehearsal.guest.drivers.edu import Edu
from dma_rehearsal.guest.drivers.exerciser import (
    DmaRecord,
    Exerciser,
    ExerciserError,
    IntxInterrupt,
)
from dma_rehearsal.guest.drivers.interrupts import Interrupt
from dma_rehearsal.guest.drivers.pci_bars import Bar, PciError, Ports
from dma_rehearsal.guest.drivers.pci_sysfs import PciFunction
from dma_rehearsal.guest.drivers.platform.device import PlatformDevice
from dma_rehearsal.guest.drivers.platform.refusals import Announce
from dma_rehearsal.guest.iobuffer.os.driver import Driver, DriverFunction

__all__ = [
    "UNLIMITED",
    "Announce",
    "Bar",
    "DmaRecord",
    "Driver",
    "DriverFunction",
    "Edu",
    "Exerciser",
    "ExerciserError",
    "Interrupt",
    "IntxInterrupt",
    "Limits",
    "PciError",
    "PciFunction",
    "PlatformDevice",
    "Ports",
]
