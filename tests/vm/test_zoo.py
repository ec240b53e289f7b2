# SPDX-License-Identifier: Apache-2.0
"""The zoo of kernel drivers: right ones are green under all conditions, each mistake is told."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.runs import Run, check, run, run_in

ZOO = Path(__file__).parent / "zoo"
SETTINGS = {
    "MODULE": str(ZOO / "drivers"),
    "ENDPOINT": "tests.vm.zoo.ring_device:RingDevice",
}
# A report's first line, or a refusal, or what a report says of the mapping.
_TOLD = re.compile(
    r"^(?:[A-Z_]+ by |[A-Z_]+ in |\w+: a (?:read|write) of .* was refused: |  call: |  buffer: ).*",
    re.MULTILINE,
)
# What may differ between two runs: addresses, and the numbers of requests and operations.
_DIFFERS = re.compile(r"0x[0-9a-f]+|\(request \d+\)|\(operation \d+\)")
# The first line of the report of a mistake that no guest test may announce.
_OF_ERROR_PATHS = {
    "test_error_path[error_not_checked]": "MAPPING_ERROR_UNCHECKED by unmap_after_write at ",
    "test_error_path[leak_on_error_path]": "NEVER_UNMAPPED by mistakes_map_boxes at ",
}


def test_right_drivers_are_green_and_mistakes_are_told(tmp_path: Path) -> None:
    done = run(tmp_path / "runs", "--tests", "tests/vm/zoo/guest_tests", **SETTINGS)
    check(done, 0)
    assert "test_mistake[wrong_direction] PASSED" in done.output


@pytest.mark.full
def test_mistakes_are_told_alike_in_three_runs(tmp_path: Path) -> None:
    """The same kinds in the same order, with the same functions and lines."""
    project = tmp_path / "project"
    project.mkdir()
    for each in (*(ZOO / "red_tests").iterdir(), *(ZOO / "guest_tests").iterdir()):
        if each.suffix == ".py" and not each.name.startswith("test_zoo"):
            shutil.copy(each, project)
    first, *others = (red(project, tmp_path / f"runs{turn}") for turn in range(3))
    assert len(first) >= 30
    assert others == [first, first]
    for name, words in _OF_ERROR_PATHS.items():
        assert any(line.startswith(words) for line in first[name]), first[name]


def red(project: Path, runs: Path) -> dict[str, list[str]]:
    """Run the mistakes; return what each test's report tells."""
    done = run_in(project, runs, "--tests", ".", **SETTINGS)
    check(done, 1)
    right = re.findall(r"::(\S+) PASSED", done.output)
    assert sorted(right) == [
        "test_error_path_of_the_right_driver",
        "test_none[32-bit]",
        "test_none[64-bit]",
        "test_result_that_is_read_before_the_interrupt",
    ]
    return told(done)


def told(done: Run) -> dict[str, list[str]]:
    """Return the lines that say what each red test has found, without what differs by chance."""
    failures = done.output.partition("= FAILURES =")[2].partition("= short test summary")[0]
    parts = re.split(r"^_+ (test_\S+) _+$", failures, flags=re.MULTILINE)
    return {
        name: [_DIFFERS.sub("...", line) for line in _TOLD.findall(text)]
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }
