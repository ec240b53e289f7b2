# SPDX-License-Identifier: Apache-2.0
"""However the harness ends, no process, socket or folder stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE
from dma_rehearsal.host_harness.process import children
from tests.runs import LIMIT_S, clean_environment


def processes_that_name(text: str) -> list[str]:
    """Return the command lines of live processes that mention ``text``."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if text in words and int(folder.name) != os.getpid():
            found.append(words)
    return found


def wait_until(what: str, condition: object, limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"{what} within {limit_s} s"
        time.sleep(0.05)


class Harness:
    """A run of the harness whose scratch folders are its own."""

    def __init__(self, folder: Path, *arguments: str, **settings: str) -> None:
        self.runs = folder / "runs"
        self.scratch = [folder / name for name in ("t", "r")]
        for each in self.scratch:
            each.mkdir()
        self.output = folder / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "host_harness",
                    "test",
                    "--runs",
                    str(self.runs),
                    *arguments,
                ],
                cwd=SOURCE,
                env=clean_environment(
                    TMPDIR=str(self.scratch[0]), XDG_RUNTIME_DIR=str(self.scratch[1]), **settings
                ),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    def await_text(self, text: bytes) -> None:
        """Wait until the harness or the guest's console has said this."""

        def said() -> bool:
            logs = [self.output, *self.runs.glob("*/console.log")]
            return any(text in log.read_bytes() for log in logs)

        wait_until(f"{text!r} is said", said, LIMIT_S)
        assert len(processes_that_name(str(self.runs))) >= 3, "harness, device process and QEMU"

    def check_nothing_is_left(self) -> None:
        wait_until("every process ends", lambda: not processes_that_name(str(self.runs)))
        wait_until(
            "every scratch file goes", lambda: not [p for d in self.scratch for p in d.iterdir()]
        )


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Callable[..., Harness]]:
    started: list[Harness] = []

    def start(*arguments: str, **settings: str) -> Harness:
        started.append(Harness(tmp_path, *arguments, **settings))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


@pytest.mark.vm
@pytest.mark.parametrize("moment", [b"init: up", b"test_in[1] PASSED"], ids=["boot", "tests"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_killed_harness_leaves_nothing(
    harness: Callable[..., Harness], number: signal.Signals, moment: bytes
) -> None:
    run = harness("suite/test_direction.py")
    run.await_text(moment)
    start = time.monotonic()
    run.process.send_signal(number)
    run.process.wait(30)
    assert time.monotonic() - start < 15, "it ends when it is told to"
    run.check_nothing_is_left()
    if number is not signal.SIGKILL:
        assert run.process.returncode == 4
        assert run.output.read_text().splitlines()[-1] == "status 4"
        assert (run.runs / "latest" / "status").read_text() == "4\n"


@pytest.mark.vm
@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({}, 0),
        ({"FAULT": "device-write-flip"}, 1),
        ({"FAULT": "report-lost"}, 4),
        ({"APPEND": "dma_rehearsal.carveouts=nonsense"}, 4),
    ],
    ids=["passed", "failed", "no verdict", "panic"],
)
def test_ended_harness_leaves_nothing(
    harness: Callable[..., Harness], settings: dict[str, str], status: int
) -> None:
    run = harness("-k", "test_in and 4096", **settings)
    assert run.process.wait(LIMIT_S) == status
    run.check_nothing_is_left()
    assert not (run.runs / "latest" / "vm.json").exists()


@pytest.mark.vm
def test_killed_harness_ends_its_kept_vm(harness: Callable[..., Harness]) -> None:
    run = harness("-k", "test_in and 4096", KEEP="1", GDB="1")
    run.await_text(b"the VM is kept")
    run.process.kill()
    run.process.wait()
    run.check_nothing_is_left()


@pytest.mark.vm
def test_two_at_once_do_not_disturb_one_another(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("1", "2")]
    for folder in folders:
        folder.mkdir()
    both = [Harness(folder, "-k", "test_in_out or test_release") for folder in folders]
    try:
        assert [each.process.wait(LIMIT_S) for each in both] == [0, 0]
    finally:
        for each in both:
            each.process.kill()
            each.process.wait()
    for each in both:
        each.check_nothing_is_left()
        assert (each.runs / "latest" / "status").read_text() == "0\n"


def test_child_is_terminated_and_reaped() -> None:
    with children.child(["sleep", "1000"]) as process:
        assert process.poll() is None
    assert process.returncode == -signal.SIGTERM
    assert children.how_it_ended(process) == "killed by SIGTERM"


def test_child_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_GRACE_S", 0.3)
    script = "trap '' TERM; echo ready; while true; do sleep 1; done"
    with children.child(["sh", "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    assert process.returncode == -signal.SIGKILL


def test_child_dies_with_its_parent(tmp_path: Path) -> None:
    marker = str(tmp_path / "marker")
    script = (
        "import sys, time\n"
        "from dma_rehearsal.host_harness.process.children import child\n"
        f"with child([sys.executable, '-c', 'import time; time.sleep(1000)', {marker!r}]):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(1000)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], cwd=SOURCE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    parent.kill()
    parent.communicate()
    wait_until("the child ends", lambda: not processes_that_name(marker))
