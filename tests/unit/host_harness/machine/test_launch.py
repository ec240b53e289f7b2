# SPDX-License-Identifier: Apache-2.0
"""The start of a VM whose QEMU does not come up, and what is left of it."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment.qemu import Qemu
from dma_rehearsal.host_harness.machine import saved_state
from dma_rehearsal.host_harness.machine.device_process import DeviceProcess
from dma_rehearsal.host_harness.machine.launch import Launch, started_vm
from dma_rehearsal.host_harness.machine.saved_state import StateUnusable
from dma_rehearsal.host_harness.options import run_options
from dma_rehearsal.host_harness.process.errors import NoVerdict
from dma_rehearsal.host_harness.process.progress import Progress
from tests.processes import processes_that_name
from tests.unit.host_harness.images import image
from tests.unit.host_harness.machine.fake_qemu import FakeQemu
from tests.unit.host_harness.machine.staged_vm import staged

ENDS_AT_ONCE = Qemu(("false",), "11.1", "a program that ends")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A sound state, of a VM without a guest."""
    for name in ("saved vm", "state"):
        (tmp_path / name).mkdir()
    with staged(tmp_path / "saved vm") as stage:
        stage.vm.monitor = FakeQemu(stage.vm.monitor.panicked)  # type: ignore[assignment]
        saved_state.save(stage.vm, tmp_path / "state", {})
    return tmp_path / "state"


@pytest.fixture
def launch(tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launch]:
    """The launch of a VM from the state, by a QEMU that ends; nothing must be left of it."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "sockets"))
    (tmp_path / "sockets").mkdir()
    (tmp_path / "vm").mkdir()
    options = run_options.parse({})
    yield Launch(ENDS_AT_ONCE, "tcg", image(tmp_path), tmp_path / "vm", options, None, state=state)
    assert not list((tmp_path / "sockets").iterdir())
    assert not processes_that_name(str(tmp_path))
    assert not [each.name for each in threading.enumerate() if "ram" in each.name.lower()]


def test_guest_starts_from_one_thing(launch: Launch) -> None:
    with pytest.raises(ValueError, match="from an initramfs, or from a saved state"):
        replace(launch, initramfs=0)
    with pytest.raises(ValueError, match="from an initramfs, or from a saved state"):
        replace(launch, state=None)


def test_qemu_that_ends_makes_the_state_unusable_and_ends_a_boot(launch: Launch) -> None:
    """A state is given up for a boot; so only the boot has no verdict."""
    with (
        pytest.raises(StateUnusable, match=r"the monitor does not answer.*status 1"),
        started_vm(launch, Progress(quiet=True)),
    ):
        pytest.fail("a VM came of it")
    with (launch.folder / "initramfs").open("w") as initramfs:
        cold = replace(launch, initramfs=initramfs.fileno(), state=None)
        with (
            pytest.raises(NoVerdict, match=r"the monitor does not answer.*status 1"),
            started_vm(cold, Progress(quiet=True)),
        ):
            pytest.fail("a VM came of it")


def test_lost_device_process_is_not_the_states_fault(launch: Launch, tmp_path: Path) -> None:
    """It would be lost in a boot, too."""
    with subprocess.Popen(["echo", "ready"], stdout=subprocess.PIPE) as process:
        device = DeviceProcess(process, tmp_path, launch.folder, launch.options)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with (
            pytest.raises(NoVerdict, match="the device process ended with status 0"),
            started_vm(replace(launch, device=device), Progress(quiet=True)),
        ):
            pytest.fail("a VM came of it")


def test_damaged_state_is_unusable_before_qemu_starts(launch: Launch, state: Path) -> None:
    (state / saved_state.FACTS).write_text("{}")
    with (
        pytest.raises(StateUnusable, match=r"facts\.json: malformed"),
        started_vm(launch, Progress(quiet=True)),
    ):
        pytest.fail("a VM came of it")
    assert not (launch.folder / "argv").exists()


@pytest.mark.parametrize(("given", "posted"), [({}, True), ({"driver": "nvme"}, False)])
def test_writes_are_posted_unless_a_kernel_driver_is_under_test(
    launch: Launch, given: dict[str, str], posted: bool
) -> None:
    rehearsal = replace(launch, options=run_options.parse(given))
    with suppress(NoVerdict, StateUnusable), started_vm(rehearsal, Progress(quiet=True)):
        pytest.fail("a VM came of it")
    argv = (launch.folder / "argv").read_text()
    assert ("x-no-posted-writes" in argv) is not posted
