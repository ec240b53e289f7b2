# SPDX-License-Identifier: Apache-2.0
"""The table of faults: each breaks one promise on purpose, and a run must notice it.

A check that no fault can make fail is not a check. This is the only list of them: the device
process, the guest, the harness and docs/faults.md all read it. ``device.faults`` and
``guest.faults`` register an implementation for each name that is theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dma_rehearsal.device.layout.faults.allocator import ALLOCATOR
from dma_rehearsal.device.layout.faults.cache_model import CACHE_MODEL
from dma_rehearsal.device.layout.faults.channel import CHANNEL
from dma_rehearsal.device.layout.faults.device import DEVICE
from dma_rehearsal.device.layout.faults.driver import DRIVER
from dma_rehearsal.device.layout.faults.fault import Component, Fault
from dma_rehearsal.device.layout.faults.iommu import IOMMU, MAPPER
from dma_rehearsal.device.layout.faults.memory_types import MEMORY_TYPES
from dma_rehearsal.device.layout.faults.rehearsal import REHEARSAL

__all__ = ["BY_NAME", "FAULTS", "Component", "Fault"]

FAULTS = (
    *DEVICE,
    *CACHE_MODEL,
    *DRIVER,
    *ALLOCATOR,
    *IOMMU,
    *MAPPER,
    *MEMORY_TYPES,
    *REHEARSAL,
    *CHANNEL,
)
BY_NAME: Mapping[str, Fault] = MappingProxyType({fault.name: fault for fault in FAULTS})
