# SPDX-License-Identifier: Apache-2.0
"""The named faults: each breaks one promise on purpose, and the run must notice.

``make faults`` prints them. A check that no fault can make fail is not a check.
"""

from __future__ import annotations

import difflib

from dma_rehearsal.device.layout.faults.allocator import ALLOCATOR, DRIVER, MAPPER
from dma_rehearsal.device.layout.faults.cache_model import CACHE
from dma_rehearsal.device.layout.faults.channel import CHANNEL
from dma_rehearsal.device.layout.faults.device import DEVICE
from dma_rehearsal.device.layout.faults.fault import Fault, Place
from dma_rehearsal.device.layout.faults.iommu import BEHIND_IOMMU
from dma_rehearsal.host_harness.process.errors import UsageError

__all__ = ["FAULTS", "Fault", "Place", "find", "listing"]

FAULTS = (*DEVICE, *CACHE, *DRIVER, *ALLOCATOR, *BEHIND_IOMMU, *MAPPER, *CHANNEL)


def find(name: str) -> Fault:
    """Return the fault of that name; UsageError says which are like it when there is none."""
    for fault in FAULTS:
        if fault.name == name:
            return fault
    names = [fault.name for fault in FAULTS]
    alike = difflib.get_close_matches(name, names, 5)
    choice = "".join(f"\n    {each}" for each in alike or names)
    raise UsageError(
        f"there is no fault {name!r}",
        f"choose one of these (make faults says what each does):{choice}",
    )


def listing() -> str:
    """Return one line for each fault: name, status, description."""
    width = max(len(fault.name) for fault in FAULTS)
    return "\n".join(f"{f.name:{width}}  {f.status.value}  {f.description}" for f in FAULTS)
