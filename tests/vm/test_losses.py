# SPDX-License-Identifier: Apache-2.0
"""Real VMs that are lost: each loss is named within two seconds of happening."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.machine.vm import Vm
from dma_rehearsal.host_harness.options import run_options
from dma_rehearsal.host_harness.process import deadlines
from dma_rehearsal.host_harness.process.errors import NoVerdict
from dma_rehearsal.host_harness.process.progress import Progress
from dma_rehearsal.host_harness.session.run import Run
from tests.runs import last_line, run

PROMPT_S = 2.0

SYSRQ = "echo 1 > /proc/sys/kernel/sysrq; sleep 0.5; echo {} > /proc/sysrq-trigger; sleep 60"


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Vm]:
    with Run(run_options.parse({}), Progress(), tmp_path / "runs") as run:
        yield run.boot()


def in_guest(script: str) -> Callable[[Vm], None]:
    def do(vm: Vm) -> None:
        vm.send("x", {"type": "execute", "argv": ["sh", "-c", script], "timeout": 60})

    return do


LOSSES: list[tuple[str, Callable[[Vm], object], str]] = [
    ("panic", in_guest(SYSRQ.format("c")), "the guest's kernel gave up: Kernel panic"),
    ("power-off", in_guest(SYSRQ.format("o")), "the guest powered off before the run had ended"),
    (
        "agent",
        in_guest("sleep 0.5; kill -9 $PPID; sleep 60"),
        "the guest's agent died: init: the agent ended with status -9",
    ),
    ("qemu", lambda vm: vm.qemu.kill(), "QEMU ended with killed by SIGKILL"),
    ("device", lambda vm: vm.device.kill(), "the device process ended with killed by SIGKILL"),
]


# In each run of `make test`; the others have a test on processes in place of a VM's, too.
_GATE = ("panic", "agent", "environment", "device up", "QEMU up", "kernel")


def _marks(name: str) -> list[pytest.MarkDecorator]:
    return [] if name in _GATE else [pytest.mark.full]


@pytest.mark.alone
@pytest.mark.parametrize(
    ("lose", "words"),
    [pytest.param(lose, words, marks=_marks(name), id=name) for name, lose, words in LOSSES],
)
def test_loss_is_named(vm: Vm, lose: Callable[[Vm], object], words: str) -> None:
    lose(vm)
    start = time.monotonic()
    with pytest.raises(NoVerdict) as error:
        vm.receive("collection", "collected")
    assert words in str(error.value)
    # Half a second is the guest's own sleep, and what its kernel takes is not ours.
    assert time.monotonic() - start < PROMPT_S + 1.5
    assert str(vm.folder) in str(error.value)


# Each is too short for anything to be done in it.
SHORT = {
    "environment": 0.001,
    "device up": 0.001,
    "QEMU up": 0.0001,
    "kernel": 0.3,
    "guest ready": 0.1,
    "collection": 0.05,
    "test": 0.02,
    "shutdown": 0.0005,
}


# A guest that is restored may be past them, and its console has not said "init: up".
OF_A_BOOT = ("kernel", "guest ready", "collection", "test")


def test_every_phase_has_a_test() -> None:
    assert set(SHORT) == set(deadlines.DEFAULTS_S) - {"kept"}


@pytest.mark.parametrize("phase", [pytest.param(each, marks=_marks(each)) for each in SHORT])
def test_deadline_that_passes_names_its_phase(phase: str, tmp_path: Path) -> None:
    settings = {"STATE": "no"} if phase in OF_A_BOOT else {}
    if phase == "device up":  # a device that starts beside other work may be ready at once
        settings["ENDPOINT"] = "tests.slow_endpoint:Slow"
    done = run(tmp_path, "-k", "test_in_out", DEADLINE=f"{phase}={SHORT[phase]}", **settings)
    assert done.status == 4
    subject = r" suite/test_direction\.py::test_in_out\[1\]" if phase == "test" else ""
    assert re.search(f"^no verdict: {phase}{subject}: ", done.output, re.MULTILINE)
    assert "deadline of" in done.output
    assert done.folder.resolve().name in done.output
    if phase in ("collection", "test"):
        assert "the last lines of console.log:\n  | init: up" in done.output
    assert last_line(done.output)[0] == 4
    before = done.output.splitlines()[-2]
    assert before.startswith("replay: ")
    assert f"DEADLINE={phase}={SHORT[phase]}" in shlex.split(before)
