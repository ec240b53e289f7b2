# SPDX-License-Identifier: Apache-2.0
"""The guest's tests in the host's session; a run that does not report each has no verdict."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pexpect
import pytest

from dma_rehearsal.host_harness.process.errors import NoVerdict
from dma_rehearsal.host_harness.session.guest_session import GuestSession


def session(**changes: Any) -> Any:
    options = SimpleNamespace(collectonly=changes.pop("collectonly", False))
    facts = {"shouldfail": False, "shouldstop": False, "testsfailed": 0, **changes}
    return SimpleNamespace(config=SimpleNamespace(option=options), **facts)


def made(reported: set[str], deselected: set[str] = frozenset()) -> GuestSession:  # type: ignore[assignment]
    found = GuestSession(None)  # type: ignore[arg-type]
    found._collected = [f"t.py::test[{number}]" for number in range(9)]
    found._reported, found._deselected = reported, set(deselected)
    return found


ALL = {f"t.py::test[{number}]" for number in range(9)}


def test_all_are_reported_or_left_out() -> None:
    made(ALL)._check_all_reported(session())
    made(ALL - {"t.py::test[3]"}, {"t.py::test[3]"})._check_all_reported(session())


def test_one_that_is_neither_is_named() -> None:
    with pytest.raises(NoVerdict, match=r"1 of 9 tests .* never reported: t\.py::test\[3\]"):
        made(ALL - {"t.py::test[3]"})._check_all_reported(session())


def test_of_many_some_are_named() -> None:
    with pytest.raises(NoVerdict, match=r"9 of 9 .* and 4 more"):
        made(set())._check_all_reported(session())


@pytest.mark.parametrize(
    "stopped",
    [
        {"shouldfail": "stopping after 1 failures"},  # -x, --maxfail
        {"shouldstop": "Test failed, continuing from this test next run."},  # --stepwise
        {"collectonly": True},
        {"testsfailed": 1},  # a test of the host's that cannot be collected: none was run
    ],
)
def test_session_that_was_stopped_lacks_what_it_did_not_reach(stopped: dict[str, Any]) -> None:
    made(set())._check_all_reported(session(**stopped))


# A session with three tests of a guest; it only collects.
COLLECTS = """
import contextlib, sys, types, pytest
from dma_rehearsal.host_harness.session.guest_session import GuestSession

class Item(pytest.Item):
    def reportinfo(self):
        return "t.py", None, self.name
    def runtest(self): ...

class Guest(GuestSession):
    def pytest_configure(self): ...
    def pytest_sessionstart(self): ...
    def pytest_sessionfinish(self): ...
    def pytest_report_header(self): ...
    def pytest_deselected(self): ...
    def _collect(self, session):
        return [Item.from_parent(session, name=f"guest_{n}") for n in range(3)]

run = types.SimpleNamespace(
    progress=types.SimpleNamespace(phase=lambda *_, **__: contextlib.nullcontext()),
    options=types.SimpleNamespace(order="collected", seed=1),
)
sys.exit(pytest.main(sys.argv[1:], [Guest(run)]))
"""


@pytest.mark.parametrize(("host", "count"), [(False, 3), (True, 4)], ids=["guest's", "both"])
def test_a_terminal_is_told_the_number_of_tests(tmp_path: Path, host: bool, count: int) -> None:
    """pytest reports the session first; without its guest tests that was "collecting 0 items"."""
    path = tmp_path / ("test_host.py" if host else "other.py")
    path.write_text("def test_host(): ...\n")
    options = ["--collect-only", "-p", "no:cacheprovider", "--color=no"]
    printed = pexpect.run(
        f"{sys.executable} -c '{COLLECTS}' {' '.join(options)} {tmp_path}",
        encoding="utf-8",
        timeout=60,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert f"collected {count} items" in printed, printed
    assert "collecting 0 items" not in printed
    names = [f"<Item guest_{n}>" for n in range(3)]
    assert all(name in printed for name in names)
    assert printed.index(names[0]) < printed.index(names[2])
    if host:
        assert printed.index("<Function test_host>") < printed.index(names[0])
