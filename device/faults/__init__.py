# SPDX-License-Identifier: Apache-2.0
"""Implementations of the faults of the device process, by the names of `device.layout.faults`."""

from __future__ import annotations

from dma_rehearsal.device.faults import (
    bus,
    cache_model,
    hold,
    interrupts,
    limits,
    mailbox,
    protection,
    requests,
    ring,
    transfers,
    witness,
)
from dma_rehearsal.device.faults.fault import DeviceFault

__all__ = ["IMPLEMENTATIONS", "SOUND", "DeviceFault"]

_SUBJECTS = (
    *(transfers, requests, interrupts, limits),
    *(ring, bus, witness, protection, cache_model, hold, mailbox),
)

IMPLEMENTATIONS: dict[str, DeviceFault] = {
    name: fault for subject in _SUBJECTS for name, fault in subject.IMPLEMENTATIONS.items()
}
SOUND = DeviceFault()
