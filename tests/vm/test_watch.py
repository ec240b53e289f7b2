# SPDX-License-Identifier: Apache-2.0
"""A watch of a user's project: red after an edit, green when it is mended, and nothing is left."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE
from tests import checkout
from tests.processes import processes_that_name, wait_until
from tests.runs import LIMIT_S, clean_environment

_GOOD = """
import helper

def test_number() -> None:
    assert helper.NUMBER == 7

def test_in_the_guest(buffer) -> None:
    assert buffer
"""


class WatchedProject:
    """A project with guest tests, and a watch of them."""

    def __init__(
        self,
        folder: Path,
        source: Path = SOURCE,
        *arguments: str,
        test: str = _GOOD,
        **settings: str,
    ) -> None:
        self.tests = folder / "checks"
        self.runs = folder / "runs"
        self.scratch = [folder / name for name in ("t", "r")]
        for each in (self.tests, *self.scratch):
            each.mkdir()
        self.edit("helper.py", "NUMBER = 7\n")
        self.edit("test_mine.py", test)
        self.output = folder / "output"
        argv = [
            *("setpriv", "--pdeathsig", "KILL"),  # it dies with a worker of pytest-xdist
            *(sys.executable, "-m", "dma_rehearsal.host_harness", "watch"),
            *("--runs", str(self.runs), "--tests", "checks", *arguments),
        ]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                argv,
                cwd=folder,
                env=clean_environment(
                    PYTHONPATH=str(source),
                    TMPDIR=str(self.scratch[0]),
                    XDG_RUNTIME_DIR=str(self.scratch[1]),
                    **settings,
                ),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    def edit(self, name: str, text: str) -> None:
        """Write a file as an editor does: a new one, renamed."""
        new = self.tests / f".{name}.new"
        new.write_text(text)
        new.rename(self.tests / name)

    def await_words(self, words: str) -> None:
        """Wait until the watch has printed this."""
        wait_until(words, lambda: words in self.output.read_text(), LIMIT_S)

    @property
    def runs_so_far(self) -> list[str]:
        """What the watch printed, by run; each that has ended says what is watched."""
        return self.output.read_text().split("\n--- ")[1:]

    def result(self, number: int) -> str:
        """Return what the watch printed of a run, from 0 on, when the run has ended."""

        def ended() -> bool:
            assert self.process.poll() is None, "the watch goes on"
            return len(self.runs_so_far) > number and "\nwatching " in self.runs_so_far[number]

        wait_until(f"run {number} ends", ended, LIMIT_S)
        return self.runs_so_far[number]

    def check_nothing_is_left(self) -> None:
        wait_until("every process ends", lambda: not processes_that_name(str(self.runs)))
        wait_until(
            "every scratch file goes", lambda: not [p for d in self.scratch for p in d.iterdir()]
        )


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[WatchedProject]:
    """A watch that has just begun."""
    project = WatchedProject(tmp_path)
    yield project
    project.process.kill()
    project.process.wait()


@pytest.mark.full
def test_red_after_an_edit_and_green_when_it_is_mended(watched: WatchedProject) -> None:
    first = watched.result(0)
    assert "2 passed" in first
    assert "status 0" in first
    watched.edit("helper.py", "NUMBER = 8\n")
    red = watched.result(1)
    assert red.startswith("checks/helper.py changed")
    assert "assert 8 == 7" in red
    assert "status 1" in red
    watched.edit("test_mine.py", _GOOD.replace("7", "(7"))
    mistaken = watched.result(2)
    assert "SyntaxError" in mistaken
    assert "status 4" in mistaken
    watched.edit("test_mine.py", _GOOD.replace("7", "8"))
    green = watched.result(3)
    assert "2 passed" in green
    assert "status 0" in green
    watched.process.send_signal(signal.SIGINT)
    assert watched.process.wait(30) == 0
    assert watched.output.read_text().splitlines()[-1].startswith("status 0")
    watched.check_nothing_is_left()
    kept = [path.name for path in watched.runs.iterdir() if path.name[0].isdigit()]
    assert len(kept) == 3, "the folders of the two that did not pass, and the last one"


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_watch_that_ends_within_a_run_leaves_nothing(
    watched: WatchedProject, number: signal.Signals
) -> None:
    def booted() -> bool:
        return any(log.stat().st_size for log in watched.runs.glob("*/console.log"))

    wait_until("the guest boots", booted, LIMIT_S)
    watched.process.send_signal(number)
    watched.process.wait(30)
    watched.check_nothing_is_left()


@pytest.mark.full
def test_edit_of_the_harness_starts_the_watch_again(tmp_path: Path) -> None:
    source = checkout.copy_to(tmp_path / "checkout")
    module = source / "host_harness" / "cli" / "watch.py"
    good = module.read_text()
    watched = WatchedProject(tmp_path, source, "-k", "test_number")
    try:
        watched.result(0)
        module.write_text(f"{good}(")
        watched.await_words("was never closed")
        assert watched.process.poll() is None
        module.write_text(f"{good}# mended\n")
        watched.await_words("the watch starts again")
        assert watched.result(1).startswith("the first run")
        watched.process.send_signal(signal.SIGINT)
        assert watched.process.wait(30) == 0
        watched.check_nothing_is_left()
    finally:
        watched.process.kill()
        watched.process.wait()


_MODULE = """\
#include <linux/module.h>
static int __init my_init(void)
{
	return VALUE;
}
module_init(my_init);
MODULE_LICENSE("GPL");
"""
_LOADED = """
import subprocess

def test_loads() -> None:
    subprocess.run(["insmod", "/opt/dma-rehearsal/modules/my.ko"], check=True)
"""


@pytest.mark.full
def test_module_that_does_not_build_is_shown_and_built_again(tmp_path: Path) -> None:
    source = tmp_path / "my.c"
    source.write_text(_MODULE.replace("VALUE", "nothing"))
    watched = WatchedProject(tmp_path, test=_LOADED, MODULE="my.c")
    try:
        broken = watched.result(0)
        assert "my.c:4:16: error: " in broken
        assert "status 2" in broken
        source.write_text(_MODULE.replace("VALUE", "0"))
        mended = watched.result(1)
        assert "1 passed" in mended
        assert "status 0" in mended
    finally:
        watched.process.kill()
        watched.process.wait()
