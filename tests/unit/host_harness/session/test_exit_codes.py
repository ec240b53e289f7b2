# SPDX-License-Identifier: Apache-2.0
"""The table of docs/statuses.md is what the harness does."""

from __future__ import annotations

import re

import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE
from dma_rehearsal.host_harness.process.errors import Status
from dma_rehearsal.host_harness.session import exit_codes

# For each row of the table: the code of pytest, and the status that the harness makes of it.
CASES = {
    "all passed": [(Status.PASSED, 0, False)],
    "a test failed": [(Status.FAILED, 1, False), (Status.FAILED, 0, False)],
    "stopped between two tests": [(Status.FAILED, 2, False)],
    "a wrong option": [(Status.USAGE, 4, False)],
    "no test ran": [(Status.USAGE, 5, False), (Status.USAGE, 0, False)],
    "the environment": [(Status.ENVIRONMENT, code, False) for code in (0, 1, 3)],
    "no verdict": [(Status.NO_VERDICT, code, False) for code in (0, 1, 2, 3)],
    "interrupted": [(Status.NO_VERDICT, 2, True)],
}


def rows() -> dict[str, tuple[str, str]]:
    text = (SOURCE / "docs" / "statuses.md").read_text()
    found = re.findall(r"^\| ([^|]+) \| (\d) \| ([^|]+) \|$", text, re.M)
    return {words: (status, code) for words, status, code in found}


def test_every_row_is_known() -> None:
    assert len(rows()) == len(CASES) + 1


@pytest.mark.parametrize("begin", CASES)
def test_row(begin: str) -> None:
    ((status, code),) = [row for words, row in rows().items() if words.startswith(begin)]
    for ours, by_itself, interrupted in CASES[begin]:
        assert ours == int(status)
        assert exit_codes.to_pytest(ours, by_itself, interrupted=interrupted) == int(code)


def test_number_of_a_plugin_stays_and_is_no_verdict() -> None:
    assert rows()["a plugin ended pytest with a number of its own"] == ("4", "that number")
    assert exit_codes.to_status(77, interrupted=False) is Status.NO_VERDICT
    assert exit_codes.to_pytest(Status.NO_VERDICT, 77, interrupted=False) == 77


@pytest.mark.parametrize(
    ("code", "interrupted", "status"),
    [
        (0, False, Status.PASSED),
        (1, False, Status.FAILED),
        (2, False, Status.FAILED),
        (2, True, Status.NO_VERDICT),
        (1, True, Status.NO_VERDICT),
        (3, False, Status.NO_VERDICT),
        (4, False, Status.USAGE),
        (4, True, Status.USAGE),
        (5, False, Status.USAGE),
    ],
)
def test_status_of_what_pytest_says(code: int, interrupted: bool, status: Status) -> None:
    assert exit_codes.to_status(code, interrupted=interrupted) is status
