# SPDX-License-Identifier: Apache-2.0
"""Constraints: a DMA that breaks one is refused with just that reason; one byte less is not."""

from __future__ import annotations

import pytest

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import DmaReason, DmaStatus, Ext
from tests.unit.device.fakes import BASE, SIZE, FakeClient, answer, dma, read32, write32

CASES = [
    (Ext.ADDRESS_BITS, 21, BASE, 16, 0),
    (Ext.ADDRESS_BITS, 20, BASE, 16, DmaReason.ADDRESS_BITS),
    (Ext.ADDRESS_BITS, 20, 0xF_FFF0, 17, DmaReason.ADDRESS_BITS),
    (Ext.ADDRESS_BITS, 64, BASE, 16, 0),
    (Ext.ADDRESS_BITS, 0xFFFF_FFFF, BASE, 16, 0),
    (Ext.ALIGNMENT, 64, BASE + 64, 1, 0),
    (Ext.ALIGNMENT, 64, BASE + 32, 64, DmaReason.ALIGNMENT),
    (Ext.ALIGNMENT, 3, BASE + 2, 1, 0),  # 0x100002 is a multiple of 3
    (Ext.ALIGNMENT, 3, BASE, 1, DmaReason.ALIGNMENT),
    (Ext.MAX_SEGMENT, 512, BASE, 512, 0),
    (Ext.MAX_SEGMENT, 512, BASE, 513, DmaReason.MAX_SEGMENT),
    (Ext.BOUNDARY, 4096, BASE + 4000, 96, 0),
    (Ext.BOUNDARY, 4096, BASE + 4000, 97, DmaReason.BOUNDARY),
    (Ext.BOUNDARY, 4096, BASE + 4000, 0, 0),
    (Ext.BOUNDARY, 1, BASE, 2, DmaReason.BOUNDARY),
    (Ext.MAX_SEGMENTS, 1, BASE, 16, 0),
]


@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
@pytest.mark.parametrize(("register", "value", "address", "length", "reason"), CASES)
def test_constraint(
    exerciser: Exerciser,
    client: FakeClient,
    register: Ext,
    value: int,
    address: int,
    length: int,
    reason: int,
    write: bool,
) -> None:
    write32(exerciser, 3, register, value)
    assert read32(exerciser, 3, register) == value
    exerciser.region_write(1, 0, b"x" * length)
    client.ram[:] = b"y" * SIZE
    found = dma(exerciser, address, length, write=write)
    assert found["reason"] == reason
    assert found["status"] == (DmaStatus.INTERNAL if reason else DmaStatus.OK)
    assert found["moved"] == (0 if reason else length)
    if reason:
        assert client.ram == b"y" * SIZE
        assert exerciser.region_read(1, 0, length) == b"x" * length


def test_none_at_first_and_after_a_reset(exerciser: Exerciser) -> None:
    write32(exerciser, 3, Ext.ALIGNMENT, 4096)
    exerciser.device_reset()
    answer(exerciser)
    assert read32(exerciser, 3, Ext.ALIGNMENT) == 0
