# SPDX-License-Identifier: Apache-2.0
"""The server waits for what it has use for, and sleeps until then: it spins for SPIN_S at most."""

from __future__ import annotations

import select
import socket
import time
from pathlib import Path

import pytest

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import DmaCtl, Reg
from dma_rehearsal.device.vfio_user import server as server_module
from dma_rehearsal.device.vfio_user import stream as stream_module
from dma_rehearsal.device.vfio_user import waiter
from dma_rehearsal.device.vfio_user.messages import Command, RegionAccess
from tests.unit.vfio_user.client import RawClient
from tests.unit.vfio_user.serving import serving

LONG = 0.3  # seconds
FEW = 20  # turns; one that spins makes thousands in that time
READ = RegionAccess(0, 1, 1 << 14).pack()


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The events that the server waits for, each time that it does."""
    found: list[int] = []
    once = waiter.Waiter.once

    def counted(waiting: waiter.Waiter, events: int, *deadlines: float | None) -> tuple[bool, bool]:
        found.append(events)
        return once(waiting, events, *deadlines)

    monkeypatch.setattr(waiter.Waiter, "once", counted)
    return found


def settled(turns: list[int]) -> list[int]:
    """Return the turns of a while in which nothing happens."""
    time.sleep(LONG)
    turns.clear()
    time.sleep(LONG)
    return list(turns)


@pytest.fixture
def looks(turns: list[int], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of sleeps of the server before each look for an event, or for bytes."""
    found: list[int] = []
    receive, look = stream_module.receive, waiter.Waiter.look

    def noted(stream: socket.socket, flags: int = 0) -> tuple[bytes, list[int]]:
        assert flags == stream_module.DONT_WAIT, "a timer that another thread sets would wait"
        found.append(len(turns))
        return receive(stream, flags)

    def looked(waiting: waiter.Waiter) -> list[tuple[int, int]]:
        found.append(len(turns))
        return look(waiting)

    monkeypatch.setattr(server_module, "receive", noted)
    monkeypatch.setattr(waiter.Waiter, "look", looked)
    return found


@pytest.mark.parametrize(
    ("two_cpus", "asked", "spins"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_the_next_message_is_looked_for_before_the_server_sleeps(
    looks: list[int],
    turns: list[int],
    tmp_path: Path,
    exerciser: Exerciser,
    monkeypatch: pytest.MonkeyPatch,
    two_cpus: bool,
    asked: bool,
    spins: bool,
) -> None:
    monkeypatch.setattr(server_module, "_SPINS", two_cpus)
    monkeypatch.setattr(server_module, "SPIN_S", LONG / 10)  # it shall not matter who runs beside
    with (
        serving(tmp_path / "socket", exerciser, spin=asked) as server,
        RawClient(server) as client,
    ):
        looks.clear()
        client.read32(0, 0)
        time.sleep(LONG)
        assert len(turns) > looks[-1], "it sleeps"
        assert (len(looks) > len(set(looks))) == spins, "it looks again, and does not sleep between"
        looks.clear()
        time.sleep(LONG)
        assert not looks


def test_a_client_that_is_idle(turns: list[int], server: Path) -> None:
    with RawClient(server) as client:
        client.read32(0, 0)
        assert len(settled(turns)) < FEW


def test_a_client_that_does_not_take_its_replies(turns: list[int], server: Path) -> None:
    """Nothing more is read from it, though there is; only room to send is waited for."""
    with RawClient(server) as client:
        client.socket.setblocking(False)
        sent = 0
        while select.select([], [client.socket], [], LONG)[1]:
            client.send(Command.REGION_READ, READ)
            sent += 1
        assert len(settled(turns)) < FEW
        client.socket.settimeout(10)
        for _ in range(sent):
            client.receive()


def test_a_dma_that_the_client_owes(turns: list[int], server: Path) -> None:
    with RawClient(server) as client:
        client.dma_map(0x10_0000, 0x1000, None)
        client.region_write(7, 4, b"\6\0")
        for register, value in (
            (Reg.DMA_BUS_ADDR_LO, 0x10_0000),
            (Reg.DMA_LEN, 16),
            (Reg.DMACTL, DmaCtl.TRIGGER),
        ):
            client.write32(0, register, value)
        client.receive_command(Command.DMA_READ)
        assert len(settled(turns)) < FEW
