# SPDX-License-Identifier: Apache-2.0
"""A guest test asks the host, and uses the answer; nothing stops here."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from dma_rehearsal.device.layout import MemoryType, WitnessRun
from dma_rehearsal.guest.agent import channel as guest
from dma_rehearsal.guest.agent.channel import ChannelError
from dma_rehearsal.guest.linux.memory_types import Mtrrs
from dma_rehearsal.guest.testkit.host_witness import PANIC_PORT, Host, HostError, HostReport
from dma_rehearsal.host_harness.machine import qemu_command
from dma_rehearsal.host_harness.machine.channel import Channel
from dma_rehearsal.host_harness.witness import host_witness

MTRRS = Mtrrs(0x806, ((0xE000_0000, 0xFF_E000_0800),), (0,) * 11, 40)
PAT = 0x0407_0506_0007_0106
RUN = {
    "va": 0x7000,
    "physical": 0x5000,
    "length": 4096,
    "page_size": 4096,
    "pat_index": 3,
    "pat": "UC",
    "mtrr": "WB",
    "effective": "UC",
    "writable": True,
    "user": True,
    "no_execute": False,
}
ARMED = {"type": "armed", "number": 77}
WITNESSED = {
    "type": "witnessed",
    "root": 0x1000,
    "levels": 4,
    "runs": [RUN],
    "translations": [[0x7000, 0x5000], [0x8000, None]],
    "pat": PAT,
    "by": host_witness.QEMU,
}


class Talk:
    """Both ends of a channel; the guest's process stops by taking note of the number."""

    def __init__(self, ours: socket.socket, theirs: socket.socket) -> None:
        self.peer = Channel(theirs)
        self.stops: list[int] = []
        self.host = Host(guest.Channel(ours.fileno()), self.stops.append)

    def ask(self, *replies: dict[str, Any]) -> HostReport:
        for reply in replies:
            self.peer.send(reply)
        return self.host.witness("suite/test_x.py::test_y", 0x7000, 4096, PAT, MTRRS)


@pytest.fixture
def talk() -> Iterator[Talk]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Talk(ours, theirs)


def test_request_is_one_that_the_host_takes(talk: Talk) -> None:
    report = talk.ask(ARMED, WITNESSED)
    talk.peer.pull()
    message = talk.peer.take()
    assert message is not None
    assert (message["type"], message["nodeid"]) == ("witness", "suite/test_x.py::test_y")
    assert host_witness._range(message) == (0x7000, 4096)
    registers = host_witness._registers(message)
    assert (registers.pat, registers.def_type, registers.physical_bits) == (PAT, 0x806, 40)
    assert (registers.ranges, registers.fixed) == (MTRRS.ranges, MTRRS.fixed)
    assert talk.stops == [77]
    uc, wb = MemoryType.UC, MemoryType.WB
    run = WitnessRun(0x7000, 0x5000, 4096, 4096, uc, uc, wb, 3, True, True, False)
    places = (0x7000, 0x5000), (0x8000, None)
    assert report == HostReport(0x1000, 4, (run,), places, PAT, "QEMU")


def test_what_the_host_could_not_see_breaks_the_promise(talk: Talk) -> None:
    with pytest.raises(HostError, match="4096 bytes at 0x7000: no page"):
        talk.ask(ARMED, {"type": "witnessed", "root": 0, "levels": 4, "error": "no page"})


def test_machine_is_not_stopped_before_the_host_is_ready(talk: Talk) -> None:
    with pytest.raises(ChannelError, match="run where armed was expected"):
        talk.ask({"type": "run"})
    assert talk.stops == []


@pytest.mark.parametrize(
    "changed",
    [
        {"runs": [{**RUN, "pat": "WARM"}]},
        {"runs": [{**RUN, "more": 1}]},
        {"runs": [5]},
        {"translations": [[1]]},
        {"runs": None},
    ],
)
def test_report_that_is_none(talk: Talk, changed: dict[str, Any]) -> None:
    with pytest.raises(HostError, match="report is malformed"):
        talk.ask(ARMED, {**WITNESSED, **changed})


def test_both_sides_name_one_port() -> None:
    assert PANIC_PORT == qemu_command.PANIC_PORT
