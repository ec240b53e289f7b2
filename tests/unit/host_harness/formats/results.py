# SPDX-License-Identifier: Apache-2.0
"""Results of runs for the tests of the writers, and the readers that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dma_rehearsal.host_harness.formats.run_result import (
    Case,
    Finding,
    Outcome,
    Place,
    RunResult,
)
from dma_rehearsal.host_harness.process.errors import Status

FACTS = {"seed": "42", "kernel": "6.1.0-x", "accelerator": "kvm", "replay": "cd /x && SEED=42 run"}
FINDING = Finding(
    "DriverReportKind.UNMAP_SIZE",
    "dma_unmap_single of 64 bytes, mapped with 128",
    "dma_unmap_single of 64 bytes, mapped with 128\n  next: unmap what was mapped",
    Place("driver/my.c", 88),
)
PASSED = Case(
    "guest_tests/test_a.py::test_in[64]",
    Outcome.PASSED,
    0.25,
    promises={"kIODirectionIn": "kept x2"},
    properties=[("vm", "1")],
)
FAILED = Case(
    "guest_tests/test_a.py::TestRing::test_out",
    Outcome.FAILED,
    1.5,
    "broken: kIODirectionOut: the device wrote",
    "E   broken: kIODirectionOut: the device wrote\nguest_tests/test_a.py:12: Failed",
    Place("guest_tests/test_a.py", 12),
    {"kIODirectionOut": "broken x1"},
)
ERROR = Case("guest_tests/test_b.py::test_up", Outcome.ERROR, reason="OSError: no device")
SKIPPED = Case("guest_tests/test_b.py::test_later", Outcome.SKIPPED, reason="needs IOMMU=intel")
XFAILED = Case("guest_tests/test_b.py::test_known", Outcome.XFAILED, reason="known")
XPASSED = Case("guest_tests/test_b.py::test_mended", Outcome.XPASSED, reason="known")
OF_DRIVER = replace(FAILED, nodeid="guest_tests/test_b.py::test_driver", findings=[FINDING])

GREEN = RunResult.of(Status.PASSED, [PASSED, SKIPPED, XFAILED, XPASSED], FACTS)
RED = RunResult.of(
    Status.FAILED,
    [PASSED, FAILED, ERROR, SKIPPED, XFAILED, XPASSED, OF_DRIVER],
    FACTS,
    where="guest_tests",
)
LOST = RunResult.of(
    Status.NO_VERDICT,
    [PASSED],
    FACTS,
    reason="test: QEMU ended\nthe last lines",
    where="guest_tests",
)
INTERRUPTED = RunResult.of(Status.NO_VERDICT, [PASSED], FACTS)
EMPTY = RunResult.of(Status.USAGE, [], FACTS)
BEGUN = RunResult.incomplete(FACTS)
UNTESTED = RunResult.of(Status.FAILED, [PASSED], FACTS, reason="refused DMA: while no test ran")
"""It failed by something that belongs to no test."""
NOT_GREEN = {
    "red": RED,
    "lost": LOST,
    "interrupted": INTERRUPTED,
    "empty": EMPTY,
    "begun": BEGUN,
    "untested": UNTESTED,
}

HOSTILE = (
    "a\nok 1 forged\nnot ok 2 forged",
    "\r\n1..0 # SKIP all\r\nBail out! no",
    "x # SKIP y",
    "x \\# SKIP y",
    "SKIP",
    "# TODO",
    "\x1b[2Jgone\x1b]0;title\x07",
    "nul \x00 and \x85 and \u2028 and \ufffe",
    "]]><failure/><!-- & -->",
    "</pre></details><script>x</script>\n\n## passed\n| a | b |",
    "%0A::error::x\n::set-output name=a::b",
    "::stop-commands::x",
    "<LAVA_SIGNAL_TESTCASE TEST_CASE_ID=forged RESULT=pass>",
    "--- \n...\n  - y: [",
    '"quoted" \\ \\n {',
    "y" * 100_000,
    "\n" * 50_000,
    "",
    "   ",
    "\ud800 alone",
    "reboot: System halted",
    "  KTAP version 1",
)


def hostile(text: str, outcome: Outcome = Outcome.FAILED) -> RunResult:
    """Return a result in which the guest chose every text of a test between two others."""
    case = Case(
        f"guest_tests/test_a.py::{text}",
        outcome,
        reason=text,
        text=text,
        place=Place(text, 3),
        promises={text: "broken x1"},
        properties=[(text, text)],
        findings=[Finding(text, text, text, Place(text, 7))] if outcome.is_bad else [],
    )
    other = Case(f"{text}::test_c", outcome, reason=text, text=text)
    return RunResult.of(
        Status.FAILED if outcome.is_bad else Status.PASSED, [PASSED, case, other], FACTS
    )


def bad(cases: Sequence[Case]) -> list[bool]:
    """Return of each case whether it fails the run."""
    return [each.outcome.is_bad for each in cases]
