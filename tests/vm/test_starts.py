# SPDX-License-Identifier: Apache-2.0
"""Runs of one project from each kind of start: the same verdicts, and what is told anew is new."""

from __future__ import annotations

import json
import os
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pexpect
import pytest

from dma_rehearsal.host_harness.environment import build_cache
from dma_rehearsal.host_harness.environment.payload import SOURCE
from dma_rehearsal.host_harness.machine import saved_state
from dma_rehearsal.host_harness.session import run_folder
from tests.runs import Run, run_in
from tests.vm.terminal import PROMPT, Terminal

COLD, BOOTED, COLLECTED = "booted cold", "restored: booted", "restored: tests collected"
SEED = 0x5EED
TEST = """\
import os
import random
import time
from pathlib import Path

import pytest

from dma_rehearsal.guest.iobuffer import kIODirectionOut


def test_facts(seed, data, record_property):
    record_property("seed", seed)
    record_property("data", data.take(16).hex())
    record_property("random", random.random())
    record_property("entropy", os.urandom(16).hex())
    record_property("clock", time.time())


@pytest.mark.promise("kIODirectionOut")
def test_buffer(bench, buffer, data, attest):
    made = buffer(kIODirectionOut, 8192)
    bench.device_reads(made, data.take(8192))
    attest.direction(made)


def test_that_fails(data):
    assert data.take(4) == b"none"
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache that has what every run needs, and no saved states."""
    folder = tmp_path_factory.mktemp("cache")
    for kind in build_cache.NEEDED:
        place = build_cache.cache_root() / kind.name
        place.mkdir(parents=True, exist_ok=True)
        (folder / kind.name).symlink_to(place)
    notes = build_cache.cache_root() / build_cache.NOTES_FOLDER
    notes.mkdir(exist_ok=True)
    (folder / notes.name).symlink_to(notes)
    yield folder
    for kind in (build_cache.BOOTED, build_cache.COLLECTED):  # hundreds of megabytes each
        shutil.rmtree(folder / kind.name, ignore_errors=True)


@dataclass(frozen=True)
class Project:
    """A project with guest tests of its own, and the cache that its runs use."""

    folder: Path
    cache: Path

    def run(self, runs: str, *arguments: str, **settings: str) -> Run:
        given = {"SEED": str(SEED), "DMA_REHEARSAL_CACHE": str(self.cache), **settings}
        return run_in(
            self.folder, self.folder / "runs" / runs, "--tests", "tests", *arguments, **given
        )

    def states(self, kind: build_cache.Kind) -> list[Path]:
        return [
            path for path in (self.cache / kind.name).iterdir() if not path.name.startswith(".")
        ]


def made(folder: Path, cache: Path, text: str = TEST) -> Project:
    (folder / "tests").mkdir(parents=True)
    (folder / "tests" / "test_project.py").write_text(text)
    return Project(folder, cache)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Project:
    return made(tmp_path_factory.mktemp("project") / "p", cache)


@pytest.fixture(scope="module")
def runs(project: Project) -> dict[str, Run]:
    """One run after the other: each saves what the next one starts from."""
    found = {"cold": project.run("cold"), "collected": project.run("collected")}
    found["other seed"] = project.run("seed", SEED="7")
    tests = project.folder / "tests" / "test_project.py"
    tests.write_text(TEST.replace("8192", "4096"))
    found["edited"] = project.run("edited")
    found["no state"] = project.run("none", STATE="no")
    return found


def facts(done: Run) -> dict[str, str]:
    tree = ElementTree.parse(done.folder / "junit.xml")
    return {each.get("name", ""): each.get("value", "") for each in tree.iter("property")}


def promises(done: Run) -> list[object]:
    rows = done.attestations["promises"]
    return [[row[key] for key in ("test", "promise", "verdict")] for row in rows]


def test_each_run_starts_from_what_the_one_before_it_saved(runs: dict[str, Run]) -> None:
    said = {name: done.output.splitlines()[-1] for name, done in runs.items()}
    assert said == {
        "cold": f"status 1 ({COLD})",
        "collected": f"status 1 ({COLLECTED})",
        "other seed": f"status 1 ({COLLECTED})",
        "edited": f"status 1 ({BOOTED})",
        "no state": f"status 1 ({COLD})",
    }
    reasons = {
        name: json.loads((done.folder / "environment.json").read_text())["start"]["reason"]
        for name, done in runs.items()
    }
    assert reasons["cold"] == "no saved state fits"
    assert reasons["no state"] == "STATE=no"


def test_a_restored_guest_did_not_boot(runs: dict[str, Run]) -> None:
    """By its own console, which holds what it has said since it was restored."""
    for name in ("collected", "edited"):
        folder = runs[name].folder
        assert "init: up" in (folder / saved_state.BOOT_CONSOLE).read_text()
        assert "init: up" not in (folder / "console.log").read_text()
    assert "init: up" in (runs["cold"].folder / "console.log").read_text()


def test_each_run_has_the_same_verdicts(runs: dict[str, Run]) -> None:
    first = runs["cold"]
    assert "2 passed, 1 failed" in first.output
    for done in runs.values():
        assert done.status == 1
        assert promises(done) == promises(first)
        assert "2 passed, 1 failed" in done.output


def test_seed_decides_over_data_and_random_numbers_in_each_start(runs: dict[str, Run]) -> None:
    found = {name: facts(done) for name, done in runs.items()}
    drawn = {name: (each["seed"], each["data"], each["random"]) for name, each in found.items()}
    other = drawn.pop("other seed")
    assert len(set(drawn.values())) == 1
    assert drawn["cold"][0] == str(SEED)
    assert other[0] == "7"
    assert not set(other) & set(drawn["cold"])


def test_guests_of_one_state_have_the_time_and_randomness_of_their_own(
    runs: dict[str, Run],
) -> None:
    found = {name: facts(done) for name, done in runs.items()}
    assert len({each["entropy"] for each in found.values()}) == len(found)
    clocks = [float(each["clock"]) for each in found.values()]
    assert clocks == sorted(clocks)
    ended = [(done.folder / "status").stat().st_mtime for done in runs.values()]
    assert all(clock < end for clock, end in zip(clocks, ended, strict=True))
    assert all(clock > end for clock, end in zip(clocks[1:], ended, strict=False))


@pytest.mark.full
def test_two_guests_start_from_one_state(cache: Path, tmp_path: Path) -> None:
    project = made(tmp_path / "p", cache, TEST.replace("8192", "12288"))
    # The first may find the booted state of another test, but none with these tests collected.
    for name, starts in ("first", (COLD, BOOTED)), ("second", (COLLECTED,)):
        done = project.run(name, VMS="2")
        assert done.output.splitlines()[-1] in [f"status 1 ({words})" for words in starts]
        assert "2 passed, 1 failed" in done.output
        assert (done.folder / "vm2" / "device-trace.jsonl").stat().st_size > 0


def damage(path: Path) -> None:
    """Change one bit, as a disk that errs would: size and time stay."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(status.st_size // 2)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.full
@pytest.mark.parametrize("kind", [build_cache.BOOTED, build_cache.COLLECTED], ids=str)
def test_damaged_state_costs_a_boot_and_never_the_verdict(
    cache: Path, tmp_path: Path, kind: build_cache.Kind
) -> None:
    project = made(tmp_path / "p", cache)
    project.run("first")
    if kind is build_cache.BOOTED:
        for state in project.states(build_cache.COLLECTED):
            shutil.rmtree(state)
    for state in project.states(kind):
        damage(state / "ram")
    done = project.run("damaged")
    assert done.output.splitlines()[-1] == f"status 1 ({COLD})"
    assert "2 passed, 1 failed" in done.output
    assert "error" not in done.errors.lower()
    assert (done.folder / run_folder.ASIDE / "argv").exists()
    # Thrown away; the next run makes it again, or does without it.
    assert project.run("after").output.splitlines()[-1] != f"status 1 ({COLLECTED})"


@pytest.mark.full
def test_tests_are_collected_again_for_an_endpoint_that_was_edited(
    cache: Path, tmp_path: Path
) -> None:
    """They may have read its registers."""
    folder = tmp_path / "checksum"
    shutil.copytree(SOURCE / "examples" / "checksum", folder)
    device = folder / "checksum_device.py"
    project = Project(folder, cache)
    (folder / "guest_tests").rename(folder / "tests")

    def start(name: str) -> str:
        done = project.run(name, ENDPOINT="checksum_device:Checksum")
        assert "9 passed, 0 failed" in done.output
        return done.output.splitlines()[-1]

    assert start("first") in (f"status 0 ({COLD})", f"status 0 ({BOOTED})")
    assert start("same") == f"status 0 ({COLLECTED})"
    text = device.read_text()
    assert text.count("vectors = 1") == 1
    device.write_text(text.replace("vectors = 1", "vectors = 2"))
    assert start("edited") == f"status 0 ({BOOTED})"
    assert start("again") == f"status 0 ({COLLECTED})"


UNBINDS = """
from pathlib import Path

DRIVER = Path("/sys/bus/pci/drivers/dma_rehearsal")
BOUND = sorted(each.name for each in DRIVER.glob("0000:*"))
(DRIVER / "unbind").write_text(BOUND[0])
"""
IS_UNBOUND = """
from conftest import BOUND, DRIVER


def test_driver_stays_unbound():
    assert sorted(each.name for each in DRIVER.glob("0000:*")) == BOUND[1:]
"""


@pytest.mark.full
def test_device_that_is_used_in_a_collection_is_as_that_left_it(
    cache: Path, tmp_path: Path
) -> None:
    """No state has it so, and so no run starts from collected tests."""
    (tmp_path / "p" / "tests").mkdir(parents=True)
    (tmp_path / "p" / "tests" / "conftest.py").write_text(UNBINDS)
    (tmp_path / "p" / "tests" / "test_unbound.py").write_text(IS_UNBOUND)
    project = Project(tmp_path / "p", cache)
    for name in "first", "second":
        done = project.run(name)
        assert "1 passed, 0 failed" in done.output
        assert done.output.splitlines()[-1] in (f"status 0 ({COLD})", f"status 0 ({BOOTED})")
        assert "used while" in (done.folder / "not-saved").read_text()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with ExitStack() as stack:
        yield Terminal(stack)


@pytest.mark.full
def test_shell_starts_from_a_booted_state(terminal: Terminal, cache: Path, tmp_path: Path) -> None:
    # The first may find the state of a project's run: it boots in the same way.
    for words in rf"({COLD}|{BOOTED})", BOOTED:
        child = terminal.start("shell", "--runs", str(tmp_path), DMA_REHEARSAL_CACHE=str(cache))
        child.expect(PROMPT, timeout=900)
        child.sendline("echo $(lspci -n | grep -c 13b5) functions; exit")
        child.expect_exact("2 functions")
        child.expect(rf"status 0 \({words}\)")
        child.expect(pexpect.EOF)
