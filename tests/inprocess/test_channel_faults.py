# SPDX-License-Identifier: Apache-2.0
"""Each fault of the test session and of the report channel is noticed, with the real agent.

The agent is a process of its own at the other end of a socket, and runs five tests that pass.
"""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.device.layout.faults import FAULTS, Component, Fault, RunStatus
from dma_rehearsal.host_harness.environment.payload import GuestTests
from dma_rehearsal.host_harness.machine.channel import Channel
from dma_rehearsal.host_harness.machine.vm import Vm
from dma_rehearsal.host_harness.process.errors import NoVerdict
from dma_rehearsal.host_harness.session import agent_client
from dma_rehearsal.host_harness.verdict import host_view
from dma_rehearsal.host_harness.verdict.ledger import Ledger

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60.0
SHORT_S = 1.0  # for a test that never ends
SERVE = """
import sys
from dma_rehearsal.guest.agent import channel, main as agent
sys.exit(agent.serve(channel.Channel(int(sys.argv[1]))))
"""
TESTS = """
import pytest

@pytest.mark.promise("capabilities")
@pytest.mark.parametrize("number", range(5))
def test_it(attest, number):
    attest("capabilities", asked=number, attested=number, kept=True)
"""
CHANNEL = [
    fault for fault in FAULTS if fault.component in (Component.CHANNEL, Component.TEST_SESSION)
]


class AgentVm(Vm):
    """A VM that is the agent alone: a socket, and no devices."""

    def __init__(self, ours: socket.socket, test_s: float) -> None:
        self.channel, self.subject, self.unread = Channel(ours), "", False
        self.deadlines = {"collection": LIMIT_S, "shutdown": LIMIT_S, "test": test_s}

    def poll(self, phase: str, timeout_s: float) -> None:
        """Wait for the channel."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.channel, selectors.EVENT_READ)
            if selector.select(timeout_s):
                self.channel.pull()
        if self.channel.closed:
            raise self.lost(phase, "the agent is gone")

    def lost(self, phase: str, reason: str) -> NoVerdict:
        """Return the loss without the devices' last words."""
        return NoVerdict(phase, reason)

    def set_test(self, nodeid: str | None) -> None:
        """Name the test to nobody."""

    def check_answers(self, phase: str) -> None:
        """Ask no device."""


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[socket.socket]:
    """The host's end of the channel of an agent, with the tests in ``tmp_path``."""
    (tmp_path / "test_it.py").write_text(TESTS)
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", SERVE, str(theirs.fileno())]
    given = {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with (
        ours,
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, **given},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        ) as process,
    ):
        theirs.close()
        yield ours
        process.kill()


def run(vm: AgentVm, folder: Path, config: pytest.Config, fault: str | None) -> Ledger:
    """Run all tests in one session, as the harness does; return the verdicts."""
    settings: dict[str, Any] = {"args": [str(folder)], "root": str(folder), "named": True}
    vm.receive("collection", "hello")
    vm.send("collection", {"type": "configure", "seed": 7, "fault": fault, **settings})
    collected = agent_client._collected(vm, GuestTests())
    ledger = Ledger()
    for item in collected.items:
        outcome = agent_client.Running(vm, config, item.nodeid).wait()
        ledger.add_test(outcome.reports, item.promises, host_view.NOTHING_SEEN)
    vm.end_session(len(collected.items))
    return ledger


def test_agent_without_a_fault(
    agent: socket.socket, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    ledger = run(AgentVm(agent, LIMIT_S), tmp_path, pytestconfig, None)
    assert (ledger.passed, ledger.failed, ledger.objections()) == (5, 0, [])


@pytest.mark.fires("fault", neighbour="test_agent_without_a_fault")
@pytest.mark.parametrize("fault", CHANNEL, ids=lambda fault: fault.name)
def test_fault_is_noticed(
    agent: socket.socket, tmp_path: Path, pytestconfig: pytest.Config, fault: Fault
) -> None:
    """The verdict is lost, or, where a teardown fails, the promise is broken."""
    hangs = "test" in fault.deadlines
    vm = AgentVm(agent, SHORT_S if hangs else LIMIT_S)
    if fault.status is RunStatus.FAILED:
        ledger = run(vm, tmp_path, pytestconfig, fault.name)
        broken = {row.promise for row in ledger.promises if row.verdict == fault.verdict}
        assert broken == set(fault.promises)
        assert fault.message in "\n".join(ledger.complaints())
        return
    with pytest.raises(NoVerdict) as lost:
        run(vm, tmp_path, pytestconfig, fault.name)
    due = fault.message.replace("20 s", f"{SHORT_S:g} s") if hangs else fault.message
    assert due in str(lost.value)
