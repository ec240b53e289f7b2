# SPDX-License-Identifier: Apache-2.0
"""A client that goes in mid-DMA, as QEMU does at a surprise removal, and the next one, a replug."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import ClassVar

import pytest

from dma_rehearsal.device.endpoints import (
    Access,
    Bars,
    DmaRefused,
    Endpoint,
    Identity,
    Register,
    RegisterBar,
)
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.messages import Command
from examples.nvme.controller import Nvme
from examples.nvme.layout import COMMAND, COMPLETION, READY
from examples.nvme.layout import Reg as NvmeReg
from tests.unit.examples.nvme_host import ENABLE, Admin
from tests.unit.vfio_user.client import RawClient
from tests.unit.vfio_user.serving import serving

Reg = IntEnum("Reg", {"SOURCE": 0, "GO": 4, "BUSY": 8, "DATA": 12})
MAPPED, BARE, PAGE = 0x1_0000, 0x8_0000, 4096
PATIENCE_S = 10


class Reader(Endpoint):
    """GO has it read 4 bytes at SOURCE into DATA; BUSY says that it does."""

    identity = Identity(vendor_id=0x1234, device_id=6, class_code=0xFF0000)
    bars: ClassVar[Bars] = {
        0: RegisterBar(
            (
                Register(Reg.SOURCE, Access.RW),
                Register(Reg.GO, Access.WO),
                Register(Reg.BUSY),
                Register(Reg.DATA),
            )
        )
    }

    def __init__(self) -> None:
        super().__init__(Trace())
        self.ends: list[str] = []

    def on_detach(self) -> None:
        self.ends.append("detach")

    def write_go(self, _value: int) -> None:
        self.start(self._read(self.registers(0)[Reg.SOURCE]))

    async def _read(self, source: int) -> None:
        registers = self.registers(0)
        registers[Reg.BUSY] = 1
        try:
            data = await self.bus.reading(source, 4)
            registers[Reg.DATA] = int.from_bytes(data, "little")
        except DmaRefused as refusal:
            self.ends.append(refusal.reason.name)
        finally:
            registers[Reg.BUSY] = 0


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.001)


def plugged(client: RawClient, memory: int) -> None:
    """Do what QEMU and a driver do first: a reset, memory, bus mastering."""
    client.call(Command.DEVICE_RESET)
    client.dma_map(MAPPED, 16 * PAGE, memory)
    client.dma_map(BARE, PAGE, None)
    client.start()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[tuple[Reader, Path]]:
    model = Reader()
    with serving(tmp_path / "socket", model) as path:
        yield model, path


def test_a_coroutine_in_mid_dma_ends_and_the_next_client_is_served(
    reader: tuple[Reader, Path], memory: int
) -> None:
    model, path = reader
    with RawClient(path) as client:
        plugged(client, memory)
        client.write32(0, Reg.SOURCE, BARE)
        client.write32(0, Reg.GO, 1)
        client.receive_command(Command.DMA_READ)  # it stays without an answer
        assert client.read32(0, Reg.BUSY) == 1
    wait_for(lambda: "detach" in model.ends, "the client's end")
    assert model.ends == ["CLIENT_GONE", "detach"], "the DMA ends first"
    with RawClient(path) as client:
        plugged(client, memory)
        assert client.read32(0, Reg.BUSY) == 0
        client.write32(0, Reg.SOURCE, BARE)
        client.write32(0, Reg.GO, 1)
        header, access, _ = client.receive_command(Command.DMA_READ)
        client.answer(header, access.pack() + b"\1\0\0\0")
        wait_for(lambda: client.read32(0, Reg.DATA) == 1, "the data")


def test_memory_that_is_unmapped_first_is_refused(reader: tuple[Reader, Path], memory: int) -> None:
    """QEMU unmaps the memory of a device that is pulled, and then closes the socket."""
    model, path = reader
    with RawClient(path) as client:
        plugged(client, memory)
        client.write32(0, Reg.SOURCE, MAPPED)
        client.dma_unmap(MAPPED, 16 * PAGE)
        client.write32(0, Reg.GO, 1)
        assert model.ends == ["UNMAPPED"]


def command(opcode: int, prp1: int, identifier: int) -> bytes:
    return COMMAND.pack(opcode, 0, identifier, 0, prp1, 0, 1, 0, 0, 0)


def completion(memory: int) -> tuple[int, ...]:
    return COMPLETION.unpack(os.pread(memory, COMPLETION.size, PAGE))


def enable(client: RawClient) -> None:
    client.write32(0, NvmeReg.AQA, 7 << 16 | 7)
    client.write32(0, NvmeReg.ASQ, MAPPED)
    client.write32(0, NvmeReg.ACQ, MAPPED + PAGE)
    client.write32(0, NvmeReg.CC, ENABLE)
    assert client.read32(0, NvmeReg.CSTS) == READY


def test_nvme_in_mid_command(tmp_path: Path, memory: int) -> None:
    model = Nvme(Trace())
    with serving(tmp_path / "socket", model) as path:
        with RawClient(path) as client:
            plugged(client, memory)
            enable(client)
            os.pwrite(memory, command(Admin.IDENTIFY, BARE, 1), 0)
            client.write32(0, NvmeReg.SQTDBL, 1)
            client.receive_command(Command.DMA_WRITE)  # its data, which stay without an answer
            queue = model.submissions[0]
            assert queue.command == 1
        wait_for(lambda: queue.running is None or queue.running.done, "the end of the command")
        with RawClient(path) as client:
            plugged(client, memory)
            assert client.read32(0, NvmeReg.CSTS) == 0
            enable(client)
            os.pwrite(memory, command(Admin.IDENTIFY, MAPPED + 2 * PAGE, 2), 0)
            client.write32(0, NvmeReg.SQTDBL, 1)
            wait_for(lambda: completion(memory)[-1] & 1, "the completion, whose phase is 1")
            *_, identifier, status = completion(memory)
            assert (identifier, status >> 1) == (2, 0)
            assert os.pread(memory, 2, 2 * PAGE) == b"\x34\x12", "the vendor"
