# SPDX-License-Identifier: Apache-2.0
"""Whole-VM runs whose tests are shared by two VMs."""

from __future__ import annotations

import json
import os
import re
import signal
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs import LIMIT_S, OF_A_VM, Run, run
from tests.vm.harness import Harness
from tests.vm.project import pytest_in


def where(done: Run) -> Counter[str]:
    """Return the number of tests of each VM, by junit.xml."""
    cases = ElementTree.parse(done.folder / "junit.xml").getroot().iter("testcase")
    return Counter(
        each.get("value", "")
        for case in cases
        for each in case.iter("property")
        if each.get("name") == "vm"
    )


def dmas(folder: Path) -> int:
    lines = (folder / "device-trace.jsonl").read_text().splitlines()
    return sum(json.loads(line)["event"] == "dma" for line in lines)


def test_two_vms_share_the_tests(tmp_path: Path) -> None:
    done = run(tmp_path, "suite/test_direction.py", VMS="2")
    assert done.status == 0
    assert "; 2 VMs; " in done.output
    shares = where(done)
    assert set(shares) == {"1", "2"}
    assert shares.total() == done.attestations["passed"]
    assert done.attestations["vms"] == 2
    second = done.folder / "vm2"
    assert {path.name for path in second.iterdir()} >= OF_A_VM
    assert dmas(done.folder) >= shares["1"]
    assert dmas(second) >= shares["2"]
    for folder in (done.folder, second):
        assert (folder / "qmp.log").read_text().count('"QMP": {') == 1
    # In a log each test has one line, whole.
    lines = re.findall(r"^guest/suite/test_direction.+ PASSED +\[ *\d+%\]$", done.output, re.M)
    assert len(lines) == shares.total()


@pytest.mark.full
def test_stop_at_the_first_failure_keeps_a_whole_record(tmp_path: Path) -> None:
    """The test on the other VM at that moment is reported as well, so the counts agree."""
    done = run(tmp_path, "-x", "-k", "test_in", VMS="2", FAULT="device-write-flip")
    assert done.status == 1
    facts = done.attestations
    assert 1 <= facts["failed"] <= 2
    assert where(done).total() == facts["passed"] + facts["failed"]
    assert "dmesg.log" in {path.name for path in (done.folder / "vm2").iterdir()}
    assert "VMS=2" in done.output.splitlines()[-2], "the replay command"


@pytest.mark.full
def test_loss_of_one_is_no_verdict_and_leaves_nothing(harness: Callable[..., Harness]) -> None:
    started = harness("suite/test_direction.py", VMS="2")
    started.await_text(b"PASSED")
    mine = str(started.runs).encode()
    (second,) = [
        int(folder.name)
        for folder in Path("/proc").glob("[0-9]*")
        if mine in (words := _command_line(folder)) and b"/vm2\0" in words
    ]
    os.kill(second, signal.SIGKILL)
    assert started.process.wait(LIMIT_S) == 4
    said = started.output.read_text()
    assert re.search(
        r"^no verdict: test suite/test_direction\.py::\S+: QEMU ended with killed by SIGKILL",
        said,
        re.MULTILINE,
    )
    assert re.search(r"next: look into \S+/vm2$", said, re.MULTILINE)
    started.check_nothing_is_left()


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.full
def test_killed_harness_leaves_neither(harness: Callable[..., Harness]) -> None:
    started = harness("suite/test_direction.py", VMS="2")
    started.await_text(b"PASSED")
    started.process.kill()
    started.process.wait(30)
    started.check_nothing_is_left()


CHANGES = """
import os

import pytest


@pytest.mark.parametrize("number", [os.urandom(8).hex()])
def test_changes(number):
    assert number
"""


@pytest.mark.full
def test_guests_that_collect_different_tests_are_no_verdict(project: Path) -> None:
    (project / "guest_tests" / "test_changes.py").write_text(CHANGES)
    arguments = ("--vm", "guest_tests/test_changes.py", "--vm-vms=2")
    done = pytest_in(project, *arguments, "--vm-state=no")  # restored, both have one guest's tests
    assert done.returncode == pytest.ExitCode.INTERNAL_ERROR
    assert "no verdict: collection: the guests do not collect the same tests" in done.stdout


@pytest.mark.full
def test_hosts_tests_come_before_those_that_are_shared(project: Path) -> None:
    done = pytest_in(project, "--vm", "guest_tests", "tests", "--vm-vms=2", "-v")
    assert done.returncode == 0
    assert "2 VMs, accelerator" in done.stdout
    passed = re.findall(r"^(\w+)/\S+ PASSED", done.stdout, re.MULTILINE)
    assert passed == sorted(passed, reverse=True), "tests, then guest_tests"
    assert len(passed) == 2 + 4
