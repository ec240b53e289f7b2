# SPDX-License-Identifier: Apache-2.0
"""Every end has its status: as the exit status, the last line, and in the run's folder."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE
from tests.runs import Run, clean_environment, run


def check(done: Run, status: int) -> None:
    assert done.status == status
    assert done.output.splitlines()[-1] == f"status {status}"
    assert (done.folder / "status").read_text() == f"{status}\n"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder in which the last run passed: what comes must not be taken for it."""
    old = tmp_path / "runs" / "20200101-000000-1"
    old.mkdir(parents=True)
    (old / "status").write_text("0\n")
    (old.parent / "latest").symlink_to(old.name)
    return old.parent


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        ([], {"FAULT": "nope"}, "no fault 'nope'"),
        ([], {"SEED": "x"}, "SEED=x"),
        (["--tests", "nowhere"], {}, "does not exist"),
        (["--pdb"], {}, "--pdb cannot act"),
        (["--setup-plan"], {}, "--setup-plan cannot act"),
        (["--stepwise"], {"VMS": "2"}, "--stepwise needs one test after the other"),
        (["--no-such-option"], {}, "--no-such-option"),
        (["--vm-seed=5"], {}, "SEED="),
    ],
    ids=str,
)
def test_wrong_use_is_2(
    runs: Path, arguments: list[str], settings: dict[str, str], words: str
) -> None:
    done = run(runs, *arguments, **settings)
    check(done, 2)
    assert words in done.output + done.errors


def test_environment_that_cannot_be_is_3(runs: Path) -> None:
    done = run(runs, QEMU="/bin/false")
    check(done, 3)
    assert "next: " in done.output


def test_runs_that_cannot_be_kept_are_3() -> None:
    done = run(Path("/dev/null"))
    assert done.status == 3
    assert done.output.splitlines()[-1] == "status 3"
    assert "--runs" in done.errors


@pytest.mark.parametrize("option", ["--version", "--markers"])
def test_what_pytest_answers_itself_boots_nothing(runs: Path, option: str) -> None:
    done = run(runs, option)
    assert (done.status, done.output.splitlines()[-1]) == (0, "status 0")
    assert "environment" not in done.errors


def test_hangup_that_is_ignored_stays_ignored() -> None:
    script = (
        "import signal, sys\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from dma_rehearsal.host_harness.__main__ import main\n"
        "main(['faults'])\n"
        "sys.exit(signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=SOURCE, capture_output=True, check=False
    )
    assert done.returncode == 0
    assert signal.getsignal(signal.SIGHUP) is not None


def test_reader_that_has_seen_enough_is_no_traceback() -> None:
    line = f"{sys.executable} -m dma_rehearsal.host_harness faults | head -n 1"
    done = subprocess.run(
        ["sh", "-c", line],
        cwd=SOURCE,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("device-read-flip")
    assert "Traceback" not in done.stderr


@pytest.mark.vm
@pytest.mark.parametrize("option", ["--collect-only", "--deselect=suite"])
def test_run_in_which_nothing_ran_does_not_pass(runs: Path, option: str) -> None:
    done = run(runs, option, "suite/test_direction.py")
    check(done, 2)
    assert "no test ran" in done.output


@pytest.mark.vm
def test_stop_at_the_first_failure_is_1(runs: Path) -> None:
    done = run(runs, "--stepwise", "-k", "test_in and 6", FAULT="device-write-flip")
    check(done, 1)
    assert "1 failed" in done.output


@pytest.mark.vm
def test_endpoint_of_the_tutorial(runs: Path) -> None:
    done = run(
        runs,
        *("--tests", "examples/checksum/guest_tests"),
        ENDPOINT="examples.checksum.checksum_device:Checksum",
    )
    check(done, 0)
    assert "8 passed, 0 failed" in done.output
    assert (done.folder / "junit.xml").exists()


@pytest.mark.vm
def test_endpoint_that_is_not_there_is_2(runs: Path) -> None:
    done = run(runs, ENDPOINT="nowhere:Nothing")
    check(done, 2)
    assert "nowhere" in done.output
