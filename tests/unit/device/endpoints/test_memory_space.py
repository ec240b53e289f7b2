# SPDX-License-Identifier: Apache-2.0
"""Memory Space: a function whose BARs do not answer reads all ones and takes no write."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

import pytest

from dma_rehearsal.device.endpoints.bars import Bars, MemoryBar, RegisterBar
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.endpoints.registers import Access, Register
from dma_rehearsal.device.pci.config import Identity
from dma_rehearsal.device.trace import Trace
from tests.unit.device.fakes import FakeClient, answer, start

COMMAND, OFF = 4, b"\0\0"
WIDTHS = (1, 2, 4, 8)


class Reg(IntEnum):
    """BAR0."""

    PLAIN = 0
    CALLED = 8


class Sample(Endpoint):
    """One BAR of each kind, and MSI-X's table."""

    identity = Identity(0x1234, 1, 0xFF0000)
    bars: ClassVar[Bars] = {
        0: RegisterBar([Register(Reg.PLAIN, Access.RW), Register(Reg.CALLED, Access.RW)]),
        1: MemoryBar(4096),
    }
    vectors = 2

    def __init__(self) -> None:
        super().__init__(Trace())
        self.calls: list[int] = []
        self.accesses: list[tuple[int, int]] = []

    def write_called(self, value: int) -> None:
        """Take note."""
        self.calls.append(value)

    def read_called(self) -> int:
        """Take note."""
        self.calls.append(-1)
        return 0x77

    def on_access(self, region: int, offset: int, data: bytes, *, write: bool) -> None:
        """Take note."""
        del data, write
        self.accesses.append((region, offset))


@pytest.fixture
def sample(client: FakeClient) -> Sample:
    made = Sample()
    made.attach(client)
    start(made)
    return made


def bars(sample: Sample) -> list[int]:
    return [bar for bar in range(6) if sample.region_size(bar)]


def test_off_nothing_answers_and_nothing_is_taken(sample: Sample) -> None:
    for bar in bars(sample):
        sample.region_write(bar, 0, b"\x5a\0\0\0")
    before = [sample.region_read(bar, 0, 8) for bar in bars(sample)]
    assert len(before) == 3
    sample.region_write(7, COMMAND, OFF)
    sample.accesses.clear()
    for bar in bars(sample):
        for width in WIDTHS:
            sample.region_write(bar, 0, b"\xa5" * width)
            assert sample.region_read(bar, 0, width) == b"\xff" * width
    assert sample.accesses == [], "nobody was asked"
    answer(sample)
    assert [sample.region_read(bar, 0, 8) for bar in bars(sample)] == before, "what it held"


def test_off_no_side_effect_is_called(sample: Sample) -> None:
    sample.region_write(7, COMMAND, OFF)
    sample.region_write(0, Reg.CALLED, b"\1\0\0\0")
    assert sample.region_read(0, Reg.CALLED, 4) == b"\xff" * 4
    assert sample.calls == []
    answer(sample)
    sample.region_write(0, Reg.CALLED, b"\1\0\0\0")
    assert sample.region_read(0, Reg.CALLED, 4) == b"\x77\0\0\0"
    assert sample.calls == [1, -1]


def test_configuration_space_answers_all_the_same(sample: Sample) -> None:
    sample.region_write(7, COMMAND, OFF)
    assert sample.region_read(7, 0, 4) == b"\x34\x12\x01\0"
    sample.region_write(7, 0x3C, b"\x0b")
    assert sample.region_read(7, 0x3C, 1) == b"\x0b"


@pytest.mark.parametrize("command", [b"\1\0", b"\4\0", b"\0\4"])
def test_no_other_bit_of_command_does_it(sample: Sample, command: bytes) -> None:
    sample.region_write(7, COMMAND, command)
    assert sample.region_read(1, 0, 4) == b"\xff" * 4


def test_off_until_software_enables_it_and_after_a_reset() -> None:
    made = Sample()
    assert made.region_read(1, 0, 4) == b"\xff" * 4
    answer(made)
    assert made.region_read(1, 0, 4) == bytes(4)
    made.device_reset()
    assert made.region_read(1, 0, 4) == b"\xff" * 4
