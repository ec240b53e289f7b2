# SPDX-License-Identifier: Apache-2.0
"""Drivers with a mistake are red, and the message names it; the same ones mended are green."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.runs import Run, run_in

TESTS = Path(__file__).parent / "guest_tests" / "mistakes"

# The words in the report of each test with a mistake.
OF_THE_EXERCISER = {
    "denied": ("PROTECTION_DIRECTION", "64 bytes", "test_mistakes.py:"),
    "attested_though_denied": ("kIODirectionIn",),
    "attested_without_dma": ("kIODirectionIn",),
    "announced_and_not_denied": ("PROTECTION_DIRECTION", "nothing was refused"),
    "address_mask": ("ADDRESS_BITS",),
    "ring": ("REFUSED",),
    "ring_that_nobody_asks": ("PROTECTION_DIRECTION",),
    "failed_attest": ("parity is broken: asked even; attested odd",),
}
OF_AN_ENGINE = {
    "direction": ("PROTECTION_DIRECTION", "kIODirectionOut", "test_engine.py:"),
    "length": ("PROTECTION_PAST_END", "100 bytes"),
    "release": ("PROTECTION_OUTSIDE", "released at", "test_engine.py:"),
    "cache": ("kIOMapWriteCombineCache is broken: asked WC on 4096 bytes; attested WB",),
    "both_ways": ("kIODirectionInOut", "no DMA read a byte of it"),
    "dropped": ("dropped without release()", "640 bytes", "test_engine.py:"),
    "exercisers_part": ("bench.load", "a device of your own"),
}


def check(done: Run, file: str, telling: dict[str, tuple[str, ...]]) -> None:
    """Hold each test's outcome against its name, and a mistake's report against its words."""
    results = dict(re.findall(rf"{file}::(\w+) (PASSED|FAILED)", done.output))
    assert {name for name, found in results.items() if found == "FAILED"} == {
        f"test_{name}_buggy" for name in telling
    }
    mended = (TESTS / file).read_text().count("_mended(")
    assert list(results.values()).count("PASSED") == mended
    for name, words in telling.items():
        report = reports(done.output)[f"test_{name}_buggy"]
        for word in words:
            assert word in report, f"{name}: {report}"


def reports(output: str) -> dict[str, str]:
    """Return what a run printed of each failed test."""
    failures = output.partition("= FAILURES =")[2].partition("= short test summary")[0]
    parts = re.split(r"^_+ (\w+) _+$", failures, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_mistakes_with_the_exerciser(tmp_path: Path) -> None:
    project = shutil.copytree(TESTS, tmp_path / "project")
    done = run_in(project, tmp_path / "runs", "--tests", "test_mistakes.py")
    check(done, "test_mistakes.py", OF_THE_EXERCISER)
    assert done.status == 1
    failed = reports(done.output)["test_failed_attest_buggy"]
    assert failed.count("parity is broken") == 1
    assert "suite/attestation.py" not in failed, "the rig's own frames are hidden"


def test_mistakes_with_a_device_of_ones_own(tmp_path: Path) -> None:
    project = shutil.copytree(TESTS, tmp_path / "project")
    done = run_in(project, tmp_path / "runs", "--tests", "test_engine.py", ENDPOINT="engine:Engine")
    check(done, "test_engine.py", OF_AN_ENGINE)
    assert done.status == 1


def test_dma_after_the_last_test_fails_the_run(tmp_path: Path) -> None:
    """The protection unit stays on, and the host looks until the guest is gone.

    By then the driver's file may be closed, which turns bus mastering off.
    """
    project = shutil.copytree(TESTS, tmp_path / "project")
    late = "test_engine.py::test_dropped_mended"
    done = run_in(project, tmp_path / "runs", "--tests", late, ENDPOINT="engine:Lingering")
    assert re.search(r"test_dropped_mended PASSED", done.output)
    assert "while no test ran: engine: a write of 64 bytes at 0x" in done.output
    assert re.search("was refused: (PROTECTION_OUTSIDE|BUS_MASTER_OFF),", done.output)
    assert done.status == 1


@pytest.mark.full
def test_bug_of_a_model_takes_the_verdict_of_the_test_that_met_it(tmp_path: Path) -> None:
    project = shutil.copytree(TESTS, tmp_path / "project")
    broken = "test_engine.py::test_direction_mended"
    done = run_in(project, tmp_path / "runs", "--tests", broken, ENDPOINT="engine:Broken")
    assert f"a device's model failed during {broken}" in done.output
    assert "a bug of the model" in done.output
    assert done.status == 4
