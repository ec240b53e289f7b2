# SPDX-License-Identifier: Apache-2.0
"""Each fault of the result channel ends the verdict, with the guest's own agent as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from dma_rehearsal.device.layout.faults import FAULTS, Component, Fault
from dma_rehearsal.device.layout.run_status import Status
from dma_rehearsal.host_harness.environment.payload import SOURCE, GuestTests
from dma_rehearsal.host_harness.machine.vm import Vm
from dma_rehearsal.host_harness.process.errors import NoVerdict
from dma_rehearsal.host_harness.session import agent_client
from dma_rehearsal.host_harness.session.agent_client import Request, Running
from dma_rehearsal.host_harness.witness.saved_registers import SavedRegisters
from tests.unit.host_harness.machine.staged_vm import Stage, staged

AGENT = """
import sys
from dma_rehearsal.guest.agent import channel, main
sys.exit(main.serve(channel.Channel(int(sys.argv[1]))))
"""
TESTS = "def test_1(): ...\ndef test_2(): ...\ndef test_3(): ...\ndef test_4(): ...\n"
_LIMIT_S = 600.0
_HANGS_S = 5.0
_ENDS_THE_VERDICT = [
    fault
    for fault in FAULTS
    if fault.component in (Component.CHANNEL, Component.TEST_SESSION)
    and fault.status is Status.NO_VERDICT
    and not fault.at_collection
]


class OwnFolder(GuestTests):
    """Tests whose folder has the same path on both sides."""

    @property
    def root_in_guest(self) -> str:
        return str(self.root)


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A VM whose guest is the agent alone."""
    environment = os.environ | {
        "PYTHONPATH": str(SOURCE),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(TESTS)
    monkeypatch.setattr(Vm, "set_test", lambda _vm, _nodeid: None)  # there is no device
    with staged(tmp_path) as stage:
        fd = stage.port.fileno()
        command = [sys.executable, "-c", AGENT, str(fd)]
        process = subprocess.Popen(command, env=environment, pass_fds=[fd], cwd=tmp_path)
        try:
            stage.port.close()
            stage.vm.deadlines = dict.fromkeys(stage.vm.deadlines, _LIMIT_S)
            yield stage
        finally:
            process.kill()
            process.wait()


def run_session(stage: Stage, config: pytest.Config, fault: str | None) -> int:
    """Run the tests as the harness does; return how many passed."""
    vm = stage.vm
    vm.receive("guest ready", "hello")
    tests = OwnFolder(vm.folder / "tests", ("test_it.py",))
    items = agent_client.collect([vm], Request(tests, fault=fault), seed=7).items
    if fault == "test-never-ends":
        vm.deadlines = {**vm.deadlines, "test": _HANGS_S}
    registers = SavedRegisters(vm.monitor, vm.sockets)
    passed = 0
    for item, following in pairwise([*items, None]):
        assert item is not None
        next_one = following.nodeid if following else None
        outcome = Running(vm, config, item.nodeid, next_one, registers).wait()
        passed += all(report.passed for report in outcome.reports)
    vm.end_session(passed)
    return passed


def test_sound_session(agent: Stage, request: pytest.FixtureRequest) -> None:
    assert run_session(agent, request.config, None) == 4


@pytest.mark.fires("fault", neighbour="test_sound_session")
@pytest.mark.parametrize("fault", _ENDS_THE_VERDICT, ids=lambda fault: fault.name)
def test_fault_ends_the_verdict(agent: Stage, request: pytest.FixtureRequest, fault: Fault) -> None:
    with pytest.raises(NoVerdict) as error:
        run_session(agent, request.config, fault.name)
    message = fault.message
    for limit in fault.deadlines.values():
        message = message.replace(f"{limit:g} s", f"{_HANGS_S:g} s")
    assert message in str(error.value)
