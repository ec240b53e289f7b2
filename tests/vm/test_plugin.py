# SPDX-License-Identifier: Apache-2.0
"""The rig in another project, from a checkout and installed: examples/ and the tutorial."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE
from dma_rehearsal.host_harness.session import verdict_record
from tests import checkout
from tests.runs import call, last_line
from tests.unit.docs import tutorial
from tests.vm.project import pytest_in

NUMBER = re.compile(r"0x[0-9a-f]+|\b[0-9]+\b")


@pytest.mark.full
def test_guest_tests_of_another_project(project: Path) -> None:
    done = pytest_in(project, "--vm", "guest_tests", "--vm-seed=77")
    assert done.returncode == 0
    assert (project / "build" / "runs" / "latest" / "junit.xml").exists()
    assert "2 passed, 0 failed" in done.stdout
    assert "seed 77" in done.stdout
    assert "kIOMapWriteCombineCache" in done.stdout
    latest = project / "build" / "runs" / "latest"
    assert (latest / "status").read_text() == "0\n"
    outcomes = [each.outcome for each in verdict_record.read(latest).values()]
    assert outcomes == ["passed", "passed"]
    assert "--vm-deadline=test=60" in (latest / "replay").read_text()


@pytest.mark.full
def test_host_and_guest_tests_on_one_vm(project: Path) -> None:
    done = pytest_in(project, "--vm", "guest_tests/test_ring.py", "tests", "-v")
    assert done.returncode == 0
    assert "6 passed" in done.stdout
    assert len(list((project / "build" / "runs").glob("2*"))) == 1


def test_fixtures_boot_a_vm_of_their_own(project: Path) -> None:
    done = pytest_in(project)
    assert done.returncode == 0
    assert "4 passed" in done.stdout
    assert (project / "build" / "runs" / "latest" / "status").read_text() == "0\n"


@pytest.mark.full
def test_broken_promise_fails_and_its_replay_fails_again(project: Path) -> None:
    done = pytest_in(project, "--vm", "guest_tests", "--vm-fault=device-write-flip")
    assert done.returncode == 1
    assert "broken: kIODirectionIn" in done.stdout
    replay = (project / "build" / "runs" / "latest" / "replay").read_text()
    assert "guest_tests/test_ring.py::test_packets_arrive_whole" in replay
    again = call(["sh", "-c", replay], project.parent, PYTHONPATH=str(SOURCE))
    assert again.returncode == 1
    assert "broken: kIODirectionIn" in again.stdout
    assert "1 failed" in again.stdout


FORGETS = """
from dma_rehearsal.guest.drivers.platform.cache_unit import CacheModelMode
from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor, current_task, dma_platform, kIODirectionOut, kIOMapCopybackCache,
)
from dma_rehearsal.guest.drivers.platform.coherence import PlatformCoherence


def test_forgets(bench):
    unit = bench.platform.cache
    unit.configure(CacheModelMode.STRICT)
    before = dma_platform.coherence
    dma_platform.coherence = PlatformCoherence(unit, bench.driver)
    memory = IOBufferMemoryDescriptor.inTaskWithOptions(
        current_task(), kIODirectionOut | kIOMapCopybackCache, 64
    )
    memory.writeBytes(0, bytes(64))
    memory.sync_for_device()
    memory.writeBytes(0, b"store")
    memory.release()
    dma_platform.coherence = before
    unit.configure(CacheModelMode.OFF)
"""


def test_mistake_that_no_test_looks_for_fails_the_run(project: Path) -> None:
    """In the guest it passes; the host has the report from the device's trace, and all count so."""
    (project / "guest_tests" / "test_forgets.py").write_text(FORGETS)
    done = pytest_in(project, "--vm", "guest_tests/test_forgets.py")
    assert done.returncode == 1
    assert "\n0 passed, 1 failed\n" in done.stdout
    assert re.search(r"^=+ 1 failed in ", done.stdout, re.MULTILINE)
    assert "[100%]" in done.stdout
    assert "no test took this report of the cache model: RELEASED_DIRTY in buffer 0x" in done.stdout
    assert "missing: a second sync_for_device(), after the store" in done.stdout


@pytest.mark.full
def test_lost_run_is_no_failed_test(project: Path) -> None:
    done = pytest_in(project, "--vm", "guest_tests", "--vm-fault=tests-overcounted")
    assert done.returncode == pytest.ExitCode.INTERNAL_ERROR
    assert "no verdict: shutdown: the guest says that it ran 3 tests" in done.stdout


@pytest.mark.full
def test_hung_test_ends_with_the_code_of_no_verdict(project: Path) -> None:
    """And not with that of a user's Ctrl-C: docs/statuses.md."""
    hangs = "import time\n\ndef test_hangs():\n    time.sleep(1e6)\n"
    (project / "guest_tests" / "test_hangs.py").write_text(hangs)
    done = pytest_in(project, "--vm", "guest_tests/test_hangs.py", "--vm-deadline=test=2")
    assert done.returncode == pytest.ExitCode.INTERNAL_ERROR
    assert (project / "build" / "runs" / "latest" / "status").read_text() == "4\n"


def test_plugin_is_off_unless_it_is_used(project: Path) -> None:
    (project / "tests" / "test_plain.py").write_text("def test_plain(): pass\n")
    done = pytest_in(project, "tests/test_plain.py")
    assert done.returncode == 0
    assert "environment" not in done.stderr
    assert not (project / "build").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--vm", "nowhere"], "does not exist"),
        ([f"--vm={SOURCE}"], "is not below the root of the tests"),
        (["--vm", "guest_tests", "--vm-seed=x"], "SEED=x"),
        (["--vm", "guest_tests", "--vm-fault=x"], "no fault 'x'"),
    ],
)
def test_wrong_use_is_named_before_anything_boots(
    project: Path, arguments: list[str], words: str
) -> None:
    done = pytest_in(project, *arguments)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert words in done.stderr
    assert not (project / "build").exists()


def _name_modules_as_our_folders(project: Path) -> None:
    """Give a project modules with the names of this one's folders, on the host and in the guest."""
    for name in ("device.py", "host_harness.py", "layout.py", "guest/__init__.py"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text("OWNER = 'the project'\n")
    (project / "guest_tests" / "device.py").write_text("OWNER = 'the project'\n")
    (project / "guest_tests" / "test_own_names.py").write_text(
        "import device\n\n\ndef test_own_device():\n    assert device.OWNER == 'the project'\n"
    )


def test_installed_it_works_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = checkout.copy_to(tmp_path / "source"), tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target)]
    before = sorted(source.rglob("*"))
    assert call([*pip, str(source)], tmp_path).returncode == 0
    assert sorted(source.rglob("*")) == before, "a build leaves nothing in the checkout"
    shutil.rmtree(source)
    installed = {"PYTHONPATH": str(target)}
    command = target / "bin" / "dma-rehearsal"

    listed = call([command, "faults"], tmp_path, **installed)
    assert listed.returncode == 0
    assert "device-read-flip" in listed.stdout
    helped = call([command, "device", "--help"], tmp_path, **installed)
    assert "--exerciser-socket" in helped.stdout

    folder = tmp_path / "anywhere"
    folder.mkdir()
    done = call([command, "test", "-k", "test_msix"], folder, **installed)
    assert done.returncode == 0
    assert last_line(done.stdout)[0] == 0
    assert os.listdir(folder) == ["build"]  # noqa: PTH208

    # By its entry point: the plugin is not named. The project is the one that the tutorial writes,
    # with the mistakes that it shows.
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    project = tmp_path / "tutorial"
    tutorial.write(project)
    (project / "guest_tests" / "test_mistakes.py").write_text(tutorial.mistakes())
    _name_modules_as_our_folders(project)
    argv = [sys.executable, "-m", "pytest", "--vm", "guest_tests"]
    done = call(argv, project, **installed)
    assert done.returncode == 1
    assert "10 passed, 3 failed" in done.stdout
    for reason in "PROTECTION_DIRECTION", "PROTECTION_PAST_END", "PROTECTION_OUTSIDE":
        assert f"was refused: {reason}, and the test did not announce it" in done.stdout
    assert NUMBER.sub("N", tutorial.refusal()) in NUMBER.sub("N", done.stdout)
