# SPDX-License-Identifier: Apache-2.0
"""Each way a run ends before a VM boots has its status."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE
from tests.runs import Run, call, check, clean_environment, run, runs_after_a_pass


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return runs_after_a_pass(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        ([], {"FAULT": "nope"}, "no fault 'nope'"),
        ([], {"SEED": "x"}, "SEED=x"),
        (["--tests", "nowhere"], {}, "does not exist"),
        (["--pdb"], {}, "--pdb cannot act"),
        (["-n2"], {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": ""}, "--numprocesses cannot act"),
        (["--setup-plan"], {}, "--setup-plan cannot act"),
        (["--stepwise"], {"VMS": "2"}, "--stepwise needs one test after the other"),
        (["--no-such-option"], {}, "--no-such-option"),
        (["--vm-seed=5"], {}, "SEED="),
        ([], {"OUTPUT": "xml=r"}, "'xml' is not a format"),
        (["--output", "tap=nowhere/r"], {}, "tap cannot be written to"),
        (["--output", "tap=r"], {"OUTPUT": "ktap=r"}, "two formats would go to r"),
    ],
    ids=str,
)
def test_wrong_use_is_2(
    runs: Path, arguments: list[str], settings: dict[str, str], words: str
) -> None:
    done = run(runs, *arguments, **settings)
    check(done, 2)
    assert words in done.output + done.errors


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        ([], {"MODULE": "driver"}, "MODULE=driver does not exist"),
        ([], {"DRIVER": "nvme"}, "name their folder: TESTS=guest_tests for make"),
        (["--tests", "guest_tests"], {}, "REHEARSE=1 rehearses a kernel driver, and none"),
    ],
    ids=str,
)
def test_rehearsal_without_a_driver_or_without_tests_is_2(
    runs: Path, tmp_path: Path, arguments: list[str], settings: dict[str, str], words: str
) -> None:
    (tmp_path / "guest_tests").mkdir()
    command = [sys.executable, "-m", "dma_rehearsal.host_harness", "rehearse", "--runs", str(runs)]
    named = arguments or (["--tests", "guest_tests"] if "MODULE" in settings else [])
    done = call([*command, *named], tmp_path, **settings, PYTHONPATH=str(SOURCE))
    check(Run(done.returncode, done.stdout, done.stderr, runs / "latest"), 2)
    assert words in done.stderr


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


def test_endpoint_that_is_not_there_is_2(runs: Path) -> None:
    done = run(runs, ENDPOINT="nowhere:Nothing")
    check(done, 2)
    assert "nowhere" in done.output
