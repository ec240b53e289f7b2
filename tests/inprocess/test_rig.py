# SPDX-License-Identifier: Apache-2.0
"""The rig judges as the host does: by its devices' trace, test by test."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.exerciser.transfer import Moved, Transfer
from tests.inprocess.rig.machine import Machine
from tests.inprocess.rig.suite_run import SuiteRunner
from tests.inprocess.rig.verdict import Outcome
from tests.inprocess.rig.wrong import WritesOneMore, with_device

pytest_plugins = ["pytester"]

HEAD = """
import pytest
from dma_rehearsal.guest.iobuffer import *
"""
Run = Callable[..., Outcome]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run guest tests on a machine in this process."""

    def run(source: str, kind: type[Machine] = Machine) -> Outcome:
        path = pytester.path / "test_written.py"
        path.write_text(HEAD + textwrap.dedent(source))
        return SuiteRunner(pytester, monkeypatch).run(kind, tests=path)

    return run


CLAIMS = """
def test_claim(bench, buffer, data, attest):
    memory = buffer(kIODirectionIn, 256)
    bench.device_writes(memory, data.take(256))
    attest.direction(memory)

def test_idle_claim(buffer, attest):
    attest.direction(buffer(kIODirectionIn, 256))
"""


def test_a_test_with_only_a_claim_is_judged_by_the_trace(run: Run) -> None:
    outcome = run(CLAIMS)
    moved, idle = outcome.ledger.promises
    assert (moved.promise, moved.verdict, moved.by) == ("kIODirectionIn", "kept", "evidence")
    assert idle.verdict == "unattested"
    assert outcome.ledger.failures == [idle.test]
    assert outcome.late == []


class ReadsFirst(Exerciser):
    """Reads what it is to write, past the protection unit; its trace says so."""

    def transfer(self, transfer: Transfer, done: Moved) -> None:
        interconnect = self.bus.interconnect
        if transfer.writes_memory:
            checks, interconnect._checks = interconnect._checks, {}
            self.bus.read(transfer.address, transfer.length)
            interconnect._checks = checks
        super().transfer(transfer, done)


def test_a_wrong_device_breaks_a_claim(run: Run) -> None:
    outcome = run(CLAIMS, with_device(ReadsFirst))
    assert outcome.broken == {"kIODirectionIn"}


def test_a_refusal_that_was_not_announced_fails_its_test(run: Run) -> None:
    source = """
        def test_wrong_way(bench, buffer):
            memory = buffer(kIODirectionOut, 64)
            bench.device.dma(memory.getPhysicalAddress(), 64, write_memory=True)

        def test_beside(bench, buffer, data):
            bench.device_writes(buffer(kIODirectionIn, 64), data.take(64))
        """
    outcome = run(source)
    (row,) = outcome.ledger.promises
    assert outcome.ledger.counted == "1 passed, 1 failed"
    assert row.test.endswith("test_wrong_way")
    assert "PROTECTION_DIRECTION" in row.reason
    assert len(run(source, with_device(WritesOneMore)).ledger.failures) == 2


def test_each_event_of_a_test_has_its_name(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Machine] = []

    class Kept(Machine):
        def __init__(self, folder: Path) -> None:
            super().__init__(folder)
            made.append(self)

    path = pytester.path / "test_written.py"
    path.write_text(HEAD + CLAIMS)
    SuiteRunner(pytester, monkeypatch).run(Kept, tests=path)
    ((name,),) = (machine.trace.tests for machine in made)
    assert str(name).endswith("::test_claim")


def test_refusals_after_the_last_test_are_told(run: Run) -> None:
    outcome = run(
        """
        def test_it(request, device):
            past_ram = 0x8000_0000
            request.config.add_cleanup(lambda: device.dma(past_ram, 64, write_memory=True))
        """
    )
    ((name, words),) = outcome.late
    assert name == "refused DMA"
    assert "while no test ran" in words
