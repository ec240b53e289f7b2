# SPDX-License-Identifier: Apache-2.0
"""A run that does not report every collected test has no verdict."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

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
