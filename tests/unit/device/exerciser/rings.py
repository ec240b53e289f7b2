# SPDX-License-Identifier: Apache-2.0
"""A descriptor ring in the memory of a fake client."""

from __future__ import annotations

from collections.abc import Iterable

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import (
    Ext,
    RingDescriptor,
)
from tests.unit.device.fakes import (
    BASE,
    FakeClient,
    read32,
    write32,
)

RING = BASE + 0x2_0000  # the upper half of memory


def enable(exerciser: Exerciser, size: int, base: int = RING, vector: int = 3) -> None:
    write32(exerciser, 3, Ext.RING_CONTROL, 0)
    write32(exerciser, 3, Ext.RING_BASE_LO, base)
    write32(exerciser, 3, Ext.RING_BASE_HI, base >> 32)
    write32(exerciser, 3, Ext.RING_SIZE, size)
    write32(exerciser, 3, Ext.RING_VECTOR, vector)
    write32(exerciser, 3, Ext.RING_CONTROL, 1)


def lay(client: FakeClient, descriptors: Iterable[RingDescriptor], index: int = 0) -> None:
    """Store descriptors from ``index`` on, without a wrap."""
    data = b"".join(each.pack() for each in descriptors)
    start = RING - BASE + index * 32
    client.ram[start : start + len(data)] = data


def ring(exerciser: Exerciser, tail: int) -> tuple[int, int]:
    """Ring the doorbell; return status and completion index."""
    write32(exerciser, 3, Ext.RING_DOORBELL, tail)
    return read32(exerciser, 3, Ext.RING_STATUS), read32(exerciser, 3, Ext.RING_COMPLETION)
