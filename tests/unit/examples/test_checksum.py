# SPDX-License-Identifier: Apache-2.0
"""The device of the tutorial."""

from __future__ import annotations

import importlib.util
import zlib
from pathlib import Path

import pytest

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.trace import Trace
from examples.checksum import checksum_device
from examples.checksum.checksum_device import LENGTH_MAX, Checksum, Reg, Result, Status
from tests.unit.device.fakes import BASE, FakeClient, read32, start, write32

LINES_MAX = 110
ROOT = Path(__file__).parents[3]


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def device(client: FakeClient) -> Checksum:
    made = Checksum(Trace())
    made.attach(client)
    start(made)
    return made


def job(device: Checksum, address: int, length: int, doorbell: int = 1) -> tuple[Result, int, int]:
    """Run a job; return result, reason and CRC-32."""
    device.region_write(0, Reg.ADDRESS, address.to_bytes(8, "little"))
    write32(device, 0, Reg.LENGTH, length)
    write32(device, 0, Reg.DOORBELL, doorbell)
    status = Status(read32(device, 0, Reg.STATUS))
    return status.result, status.reason, read32(device, 0, Reg.CRC32)


def test_sums_up_and_interrupts(device: Checksum, client: FakeClient) -> None:
    client.ram[:9] = b"some data"
    assert job(device, BASE, 9) == (Result.DONE, 0, zlib.crc32(b"some data"))
    assert client.interrupts == [(2, 0)]
    assert job(device, BASE, 9, doorbell=3)[0] is Result.DONE
    assert job(device, BASE, 8, doorbell=2)[2] == zlib.crc32(b"some data"), "nothing was started"
    assert client.interrupts == [(2, 0)], "silent"


def test_refusals(device: Checksum) -> None:
    assert job(device, 0, 8) == (Result.REFUSED, DmaReason.UNMAPPED, 0)
    assert job(device, (1 << 64) - 1, 8) == (Result.REFUSED, DmaReason.ADDRESS_WRAP, 0)
    assert job(device, BASE, LENGTH_MAX + 1) == (Result.TOO_LONG, 0, 0)
    device.region_write(7, 4, b"\2\0")
    assert job(device, BASE, 8) == (Result.REFUSED, DmaReason.BUS_MASTER_OFF, 0)


def test_it_is_short() -> None:
    assert len(Path(checksum_device.__file__).read_text().splitlines()) < LINES_MAX


def test_the_guests_layout_is_the_devices() -> None:
    """The tutorial's driver stands alone in the guest; its table must be the same one."""
    path = ROOT / "examples" / "checksum" / "guest_tests" / "checksum.py"
    spec = importlib.util.spec_from_file_location("guest_checksum", path)
    assert spec is not None
    assert spec.loader is not None
    guest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(guest)
    assert {each.name: each.value for each in guest.Reg} == {each.name: each.value for each in Reg}
    assert {each.name: each.value for each in guest.Result} == {
        each.name: each.value for each in Result
    }
    identity = Checksum.identity
    assert (identity.vendor_id, identity.device_id) == (guest.VENDOR, guest.DEVICE)
