# SPDX-License-Identifier: Apache-2.0
"""Losses are recognised at once and named, on processes and sockets that stand for a VM's."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from dma_rehearsal.device import watchdog
from dma_rehearsal.host_harness.process.errors import NoVerdict
from tests.unit.host_harness.machine.staged_vm import NoMonitor, Stage, end, staged

PROMPT_S = 2.0  # the issue's own limit for every loss


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with staged(tmp_path) as made:
        yield made


@pytest.fixture
def other(stage: Stage, tmp_path: Path) -> Iterator[Stage]:
    """A second VM of the same run; each looks at the other."""
    folder = tmp_path / "vm2"
    folder.mkdir()
    with staged(folder) as made:
        for one, two in ((stage.vm, made.vm), (made.vm, stage.vm)):
            one.watch_too([two])
        yield made


def lost(stage: Stage, phase: str = "collection") -> str:
    """Wait for a message that never comes; return what the error says."""
    with pytest.raises(NoVerdict) as error:
        stage.vm.receive(phase, "collected")
    assert error.value.phase == phase
    assert str(stage.vm.folder) in str(error.value)
    return str(error.value)


def panic(stage: Stage) -> None:
    stage.console.sendall(b"\r\n[ 1.0] Kernel panic - not syncing: sysrq triggered crash\r\n")


def panic_and_end(stage: Stage) -> None:
    end(stage.vm.qemu)
    time.sleep(0.2)
    panic(stage)


LOSSES: list[tuple[Callable[[Stage], object], str]] = [
    (panic, "the guest's kernel gave up: Kernel panic - not syncing: sysrq triggered crash"),
    (panic_and_end, "the guest's kernel gave up"),
    (lambda s: end(s.vm.qemu), "the guest powered off before the run had ended"),
    (lambda s: s.vm.qemu.kill(), "QEMU ended with killed by SIGKILL"),
    (lambda s: end(s.vm.device), "the device process ended with status 1"),
    (lambda s: s.vm.device.kill(), "the device process ended with killed by SIGKILL"),
    (
        lambda s: s.console.sendall(b"init: the agent ended with status -11\r\n"),
        "the guest's agent died: init: the agent ended with status -11",
    ),
    (
        lambda s: os.eventfd_write(s.vm.monitor.panicked, 1),
        "the guest reported a panic that it had not announced",
    ),
    (lambda s: s.guest.close(), "the result channel was closed"),
    (lambda s: s.guest.send({"type": "error", "text": "Traceback: x"}), "Traceback: x"),
    (lambda s: s.guest.send({"type": "dance"}), "the guest sent 'dance'"),
]


@pytest.mark.alone
@pytest.mark.parametrize(("loss", "words"), LOSSES, ids=[words[:40] for _, words in LOSSES])
def test_loss_is_named_at_once(stage: Stage, loss: Callable[[Stage], object], words: str) -> None:
    happened: list[float] = []

    def happen() -> None:
        happened.append(time.monotonic())
        loss(stage)

    timer = threading.Timer(0.1, happen)
    timer.start()
    said = lost(stage)
    timer.join()
    assert words in said
    assert time.monotonic() - happened[0] < PROMPT_S


def test_deadline_names_phase_and_shows_the_consoles_last_20_lines(stage: Stage) -> None:
    said = lost(stage, "test")
    assert "test: no answer within its deadline of 0.2 s" in said
    assert "line 10\n" in said
    assert "line 29" in said
    assert "line 9\n" not in said


def test_kernel_that_does_not_come_up(stage: Stage) -> None:
    with pytest.raises(NoVerdict, match=r"kernel: no init within its deadline of 0\.2 s"):
        stage.vm.await_kernel()
    stage.console.sendall(b"init: up\r\n")
    stage.vm.await_kernel()


@pytest.mark.alone
def test_loss_of_another_vm_is_named_at_once(stage: Stage, other: Stage) -> None:
    other.vm.subject = "suite/test_x.py::test_x"
    timer = threading.Timer(0.1, other.vm.qemu.kill)
    timer.start()
    start = time.monotonic()
    with pytest.raises(NoVerdict) as error:
        stage.vm.receive("collection", "collected")
    timer.join()
    assert time.monotonic() - start < PROMPT_S
    assert "collection suite/test_x.py::test_x: QEMU ended with killed" in str(error.value)
    assert str(error.value).endswith(f"look into {other.vm.folder}")


def test_word_of_another_vm_is_kept_for_it(stage: Stage, other: Stage) -> None:
    other.guest.send({"type": "parked", "protocol": 0})
    stage.guest.send({"type": "collected"})
    assert stage.vm.receive("collection", "collected")["type"] == "collected"
    stage.vm.poll("test", 0.1)
    assert other.vm.unread
    other.console.sendall(b"init: up\r\n")
    with pytest.raises(NoVerdict, match="protocol 0"):
        other.vm.await_parked()


def test_another_vm_may_end_once_it_was_told_to(stage: Stage, other: Stage) -> None:
    other.vm.begin_power_off()
    other.vm.qemu.kill()
    other.vm.qemu.wait()
    stage.guest.send({"type": "collected"})
    assert stage.vm.receive("collection", "collected")["type"] == "collected"
    stage.vm.poll("test", 0.1)
    with pytest.raises(NoVerdict, match="QEMU ended with killed"):
        other.vm.power_off()


def test_guest_that_ran_another_number_of_tests(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "dma_rehearsal.host_harness.machine.device_process.set_test", lambda _socket, _test: None
    )
    stage.guest.send({"type": "ended", "ran": 3})
    with pytest.raises(NoVerdict, match="it ran 3 tests, the host saw 2"):
        stage.vm.end_session(2)


def test_power_off_that_does_not_happen(stage: Stage) -> None:
    stage.vm.deadlines = {**stage.vm.deadlines, "shutdown": 0.3}
    stage.guest.send({"type": "bye"})
    with pytest.raises(NoVerdict, match="no power-off within its deadline"):
        stage.vm.power_off()


def test_qemu_that_fails_at_the_end(stage: Stage) -> None:
    stage.guest.send({"type": "bye"})
    stage.vm.qemu.kill()
    with pytest.raises(NoVerdict, match="QEMU ended with killed by SIGKILL"):
        stage.vm.power_off()


def test_escape_sequences_of_a_guest_are_taken_out(stage: Stage) -> None:
    stage.guest.send({"type": "collected", "items": [{"name": "\x1b[31mred\x07", "line": 3}]})
    message = stage.vm.receive("collection", "collected")
    assert message["items"] == [{"name": "red", "line": 3}]


def test_device_process_that_ends_badly_takes_the_verdict(stage: Stage) -> None:
    stage.guest.send({"type": "bye"})
    end(stage.vm.qemu)
    with pytest.raises(NoVerdict, match="the device process ended with status 1"):
        stage.vm.power_off()


def test_model_that_hangs_is_named(stage: Stage) -> None:
    said = "endpoint does not answer: a read of BAR0 0x8 (STATUS) (4 bytes), for 4.0 s"
    (stage.vm.folder / "device.log").write_text(f"a warning\n{said}\n  File x\n")
    with mock.patch.object(watchdog, "STATUS", 1):
        end(stage.vm.device)
        assert said in lost(stage).splitlines()[0]


def test_qemu_that_waited_in_vain_for_the_device_takes_the_verdict(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = stage.vm.folder / "qemu.log"
    log.write_text("qemu: a warning\n")
    stage.vm.check_answers("test")
    log.write_text("qemu: a warning\nqemu: vfio_user_region_read: timed out waiting for reply\n")
    monkeypatch.setattr("dma_rehearsal.host_harness.machine.vm._LATE_S", 0.01)
    with pytest.raises(NoVerdict, match=r"test: .*did not answer.*all ones: qemu: vfio_user"):
        stage.vm.check_answers("test")


def test_model_that_is_about_to_be_named_is_named(stage: Stage) -> None:
    (stage.vm.folder / "qemu.log").write_text("qemu: timed out waiting for reply\n")
    timer = threading.Timer(0.1, end, [stage.vm.device])
    timer.start()
    with pytest.raises(NoVerdict, match="the device process ended with status 1"):
        stage.vm.check_answers("test")
    timer.join()


class Stopping(NoMonitor):
    """A monitor of a machine that takes a moment to stop."""

    def __init__(self, panicked: int) -> None:
        self.panicked = panicked
        self.states = ["running", "running", "guest-panicked"]

    def command(self, name: str, **_: object) -> Any:
        assert name == "query-status"
        return {"status": self.states.pop(0) if len(self.states) > 1 else self.states[0]}


def test_announced_panic_is_no_loss_and_is_awaited_until_the_machine_stands(stage: Stage) -> None:
    vm = stage.vm
    monitor: Any = Stopping(vm.monitor.panicked)
    vm.monitor = monitor
    with vm.panic_announced():
        os.eventfd_write(monitor.panicked, 1)
        vm.await_panic("test", 2)
    assert monitor.states == ["guest-panicked"]
    vm.poll("test", 0)  # nothing is left of it
    os.eventfd_write(monitor.panicked, 1)
    with pytest.raises(NoVerdict, match="a panic that it had not announced"):
        vm.poll("test", 2)


def test_announced_panic_that_does_not_come(stage: Stage) -> None:
    with (
        stage.vm.panic_announced(),
        pytest.raises(NoVerdict, match="did not stop"),
    ):
        stage.vm.await_panic("test", 0.2)


def test_kernel_that_gives_up_while_a_panic_is_announced_is_lost(stage: Stage) -> None:
    panic(stage)
    with stage.vm.panic_announced(), pytest.raises(NoVerdict, match="gave up"):
        stage.vm.await_panic("test", 2)
