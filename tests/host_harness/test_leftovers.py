"""However the harness ends, no process, socket or folder stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from host_harness import children
from host_harness.payload import SOURCE

_LIMIT_S = 900


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


@pytest.mark.vm
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_killed_harness_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    runs, scratch = tmp_path / "runs", tmp_path / "scratch"
    scratch.mkdir()
    harness = subprocess.Popen(
        [sys.executable, "-m", "host_harness", "test", "--runs", str(runs)],
        cwd=SOURCE,
        env=os.environ | {"TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_until(
            "the guest boots",
            lambda: any(b"init: up" in log.read_bytes() for log in runs.glob("*/console.log")),
            _LIMIT_S,
        )
        assert len(processes_that_name(str(runs))) >= 3, "harness, device process and QEMU"
        harness.send_signal(number)
        output, _ = harness.communicate(timeout=30)
    finally:
        harness.kill()
        harness.wait()
    wait_until("every process ends", lambda: not processes_that_name(str(runs)))
    assert list(scratch.iterdir()) == []
    if number is not signal.SIGKILL:
        assert harness.returncode == 4
        assert output.splitlines()[-1] == "status 4"
        assert (runs / "latest" / "status").read_text() == "4\n"


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
        "from host_harness.children import child\n"
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
