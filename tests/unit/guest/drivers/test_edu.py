# SPDX-License-Identifier: Apache-2.0
"""The driver of QEMU's edu: what it refuses, and a device that does not answer as edu does."""

from __future__ import annotations

from typing import Any, cast

import pytest

from dma_rehearsal.guest.drivers import edu
from dma_rehearsal.guest.drivers.edu import BUFFER_SIZE, Edu, EduError, EduReg
from tests.inprocess.rig.edu import EduModel


def opened(model: EduModel, **arguments: Any) -> Edu:
    return Edu(cast(Any, model), **arguments)


@pytest.fixture
def model() -> EduModel:
    return EduModel(memoryview(bytearray(0x10000)))


def test_moves_bytes_both_ways(model: EduModel) -> None:
    model.ram[0x100:0x108] = b"from ram"
    with opened(model) as device:
        assert model.bus_master
        device.read_memory(0x100, 8, offset=16)
        device.write_memory(0x2000, 4, offset=20)
    assert bytes(model.ram[0x2000:0x2004]) == b" ram"
    assert model.closed


@pytest.mark.parametrize("bits", [28, 40])
def test_an_address_that_would_be_clamped_is_refused(model: EduModel, bits: int) -> None:
    with opened(model, address_bits=bits) as device:
        end = 1 << bits
        for address, length in ((end, 1), (end - 4, 8), (end << 1, 4), (-1, 1)):
            with pytest.raises(EduError, match=f"{bits} address bits"):
                device.write_memory(address, length)
        device._check(end - 8, 8, 0)
    assert EduReg.DMA_COMMAND not in model.registers


@pytest.mark.parametrize(
    ("length", "offset"),
    [(0, 0), (-1, 0), (BUFFER_SIZE + 1, 0), (2, BUFFER_SIZE - 1), (1, BUFFER_SIZE), (1, -1)],
)
def test_a_range_outside_its_buffer_is_refused(model: EduModel, length: int, offset: int) -> None:
    with opened(model) as device:
        for move in device.read_memory, device.write_memory:
            with pytest.raises(EduError, match="of its own buffer"):
                move(0, length, offset=offset)
    assert EduReg.DMA_COMMAND not in model.registers


def test_another_device_is_refused(model: EduModel) -> None:
    model.registers[EduReg.IDENTIFICATION] = 0xFFFF_FFFF
    with pytest.raises(EduError, match="identification"):
        opened(model)
    assert model.closed


@pytest.mark.parametrize(("reads", "says"), [(1, "does not end"), (0xFFFF_FFFF, "is gone")])
def test_a_transfer_that_does_not_end(
    model: EduModel, monkeypatch: pytest.MonkeyPatch, reads: int, says: str
) -> None:
    monkeypatch.setattr(edu, "TIMEOUT", 0.01)
    model.registers[EduReg.DMA_COMMAND] = reads
    with opened(model) as device, pytest.raises(EduError, match=says):
        device.read_memory(0, 8)
