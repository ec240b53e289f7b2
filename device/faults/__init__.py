# SPDX-License-Identifier: Apache-2.0
"""Named faults of the device: each breaks one promise on purpose, in one overridden method.

Their classes stand in for the sound ones while a device runs (`device.switch`), so none of them
makes anything when it is made.
"""

from __future__ import annotations

from dma_rehearsal.device.faults import (
    bus,
    cache,
    configuration,
    in_flight,
    interrupts,
    limits,
    protection,
    requests,
    ring,
    transfers,
    witness,
)
from dma_rehearsal.device.faults.fault import Fault

__all__ = ["FAULTS", "SOUND", "Fault"]

_SUBJECTS = (
    *(transfers, requests, configuration, interrupts, limits, in_flight),
    *(ring, bus, witness, protection, cache),
)

FAULTS: dict[str, Fault] = {
    name: fault for subject in _SUBJECTS for name, fault in subject.FAULTS.items()
}
SOUND = Fault("no fault")
