# SPDX-License-Identifier: Apache-2.0
"""A failure's four parts, and the last screen, which holds them whatever its width."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.process.screen import HEIGHT, Screen
from dma_rehearsal.host_harness.verdict import failure
from dma_rehearsal.host_harness.verdict.failed_report import words
from dma_rehearsal.host_harness.verdict.failure import Failure

OBJECTION = (
    "exerciser: a write of 64 bytes at 0xc010000 was refused: PROTECTION_DIRECTION\n"
    "  there: 4096 bytes at 0xc010000, kIODirectionOut, made at suite/test_mine.py:5\n"
    "  next: the device writes memory here, which needs kIODirectionIn"
)
TAIL = [
    "8 passed, 1 failed",
    "accelerator tcg; " * 12,
    "artefacts: build/runs/x",
    "replay: " + "y" * 150,
]


def report(longrepr: object = "E   assert 1 == 2") -> pytest.TestReport:
    return pytest.TestReport(
        "suite/test_mine.py::test_x",
        ("suite/test_mine.py", 3, "test_x"),
        {},
        "failed",
        longrepr,  # type: ignore[arg-type]
        "call",
    )


def test_objection_of_the_host_has_the_buffers_line_and_what_to_do() -> None:
    found = failure.of_test(report(), [OBJECTION, "another"])
    assert found == Failure(
        "suite/test_mine.py::test_x",
        "suite/test_mine.py:4, buffer made at suite/test_mine.py:5",
        "exerciser: a write of 64 bytes at 0xc010000 was refused: PROTECTION_DIRECTION",
        "the device writes memory here, which needs kIODirectionIn",
    )


def test_objection_to_a_driver_has_its_line() -> None:
    text = "NEVER_UNMAPPED by my_probe at my.c:88: a mapping was left\n  next: undo it in remove()"
    found = failure.of_test(report(), [text])
    assert found.where == "suite/test_mine.py:4, my_probe at my.c:88"
    assert found.next == "undo it in remove()"


def test_failure_of_the_test_itself() -> None:
    found = failure.of_test(report("def test_x():\n>   assert x\nE   assert 1 == 2\nE    +  where"))
    assert (found.where, found.why, found.next) == ("suite/test_mine.py:4", "assert 1 == 2", "")
    told = report()
    told.longrepr = words(told, "broken: alignment: low bits set\n  next: align it")
    found = failure.of_test(told)
    assert (found.why, found.next) == ("broken: alignment: low bits set", "align it")


class Reports:
    def __init__(self) -> None:
        self.failed: list[pytest.TestReport] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed += [report] if report.failed else []


def test_traceback_has_the_tests_line_and_that_of_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # pytest names files from where it runs
    (tmp_path / "failing_helper.py").write_text("def check():\n    raise ValueError('no')\n")
    path = tmp_path / "test_of_failure.py"
    path.write_text("import failing_helper\ndef test_x():\n    failing_helper.check()\n")
    options = ["-p", "no:cacheprovider", "-p", "no:terminal", "-c", os.devnull]
    reports = Reports()
    pytest.main([*options, "--rootdir", str(tmp_path), str(path)], [reports])
    (found,) = reports.failed
    where = failure.of_test(found).where.replace(f"{tmp_path}/", "")
    assert where == "test_of_failure.py:3, in a call that failed at failing_helper.py:2"


def rows_of(lines: list[str], width: int) -> int:
    return sum(failure.rows(line, width) for line in lines)


@pytest.mark.parametrize("width", [60, 80, 110, 200])
@pytest.mark.parametrize("count", [1, 2, 9, 500])
def test_failures_and_what_follows_fit_on_the_last_screen(width: int, count: int) -> None:
    told = [
        Failure(
            f"suite/test_x.py::test_x[{number}]", "suite/test_x.py:9", "why " * 99, "next " * 99
        )
        for number in range(count)
    ]
    found = failure.lines(told, Screen(width), TAIL)
    assert found[1] == "FAILED suite/test_x.py::test_x[0]"
    text = "\n".join(found)
    assert all(label in text for label in ("  where: suite", "  why: why", "  next: next"))
    shown = text.count("FAILED")
    assert (f"and {count - shown} more failed" in text) == (count > shown)
    # The status, make's line and the prompt come below.
    assert rows_of([*found, *TAIL], width) + 3 <= HEIGHT


def test_long_parts_say_that_there_is_more() -> None:
    (told,) = [
        each
        for each in failure.lines([Failure("t", "", "why " * 99)], Screen(60), [])
        if "…" in each
    ]
    assert told.endswith("…")
    assert failure.lines([], Screen(60), TAIL) == []


def test_wide_characters_count_twice() -> None:
    assert failure.rows("缓" * 30, 60) == 1
    assert failure.rows("缓" * 31, 60) == 2
    assert failure.rows("", 60) == 1


def test_failure_outside_the_tests() -> None:
    found = failure.of_run("after the last test (refused DMA)", f"while no test ran: {OBJECTION}")
    assert found.why.startswith("while no test ran: exerciser: a write")
    assert found.next.startswith("the device writes memory")
