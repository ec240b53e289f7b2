# SPDX-License-Identifier: Apache-2.0
"""The device of docs/your-driver.md, and the driver's view of its registers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.trace import Trace
from examples.own_driver.mirror_device import LENGTH_MAX, Mirror, Reg, Result, Status
from tests.unit.device.fakes import BASE, FakeClient, read32, start, write32

DRIVER = Path(__file__).parents[3] / "examples" / "own_driver" / "driver" / "mirror.c"


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def device(client: FakeClient) -> Mirror:
    made = Mirror(Trace())
    made.attach(client)
    start(made)
    return made


def job(device: Mirror, source: int, target: int, length: int) -> tuple[Result, int]:
    """Run a job; return result and reason."""
    for low, address in ((Reg.SOURCE, source), (Reg.TARGET, target)):
        write32(device, 0, low, address)
        write32(device, 0, low + 4, address >> 32)
    write32(device, 0, Reg.LENGTH, length)
    write32(device, 0, Reg.DOORBELL, 1)
    status = Status(read32(device, 0, Reg.STATUS))
    return status.result, status.reason


def test_mirrors_and_interrupts(device: Mirror, client: FakeClient) -> None:
    client.ram[:4] = b"abcd"
    assert job(device, BASE, BASE + 16, 4) == (Result.DONE, 0)
    assert bytes(client.ram[16:20]) == b"dcba"
    assert client.interrupts == [(2, 0)]


def test_refusals(device: Mirror) -> None:
    assert job(device, 0, BASE, 8) == (Result.REFUSED, DmaReason.UNMAPPED)
    assert job(device, BASE, 0, 8) == (Result.REFUSED, DmaReason.UNMAPPED)
    assert job(device, BASE, BASE, LENGTH_MAX + 1) == (Result.TOO_LONG, 0)
    write32(device, 0, Reg.DOORBELL, 0)
    assert Status(read32(device, 0, Reg.STATUS)).result is Result.TOO_LONG, "nothing was started"


def test_the_driver_has_the_same_registers() -> None:
    source = DRIVER.read_text()
    found = dict(re.findall(r"#define MIRROR_(\w+) (0x\w+)", source))
    assert found
    assert {name: int(value, 16) for name, value in found.items()}.items() <= {
        name: int(value) for name, value in Reg.__members__.items()
    }.items()
    assert f"#define MIRROR_DONE {int(Result.DONE)}\n" in source
    identity = Mirror.identity
    assert f"PCI_DEVICE({identity.vendor_id:#x}, {identity.device_id:#x})" in source
