# SPDX-License-Identifier: Apache-2.0
"""The failures of a run as a file of its folder: what failed, in whole words, and the buffers.

junit.xml has a failure as one text; here its sections are apart, such as what the host saw. The
file is bounded, whatever a guest prints.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.host_harness.machine.channel import GuestProtocolError
from dma_rehearsal.host_harness.verdict import guest_buffers
from dma_rehearsal.host_harness.verdict.guest_buffers import Memory

FILE = "failures.json"  # in a run's folder
FAILURES_MAX = 200
TEXT_MAX = 20_000  # characters of a failure's text, and of a section
SECTIONS_MAX = 8
_CUT = "\n[... {} characters left out ...]\n"


@dataclass(frozen=True, slots=True)
class Failure:
    """A test that failed. ``when``: setup, call or teardown; ``vm`` counts from 1.

    ``sections`` are a heading and a text each. ``memory`` are the guest's buffers at the test's
    end: the guest's word.
    """

    test: str
    when: str
    text: str
    vm: int = 1
    sections: Sequence[tuple[str, str]] = ()
    memory: Sequence[Memory] = field(default=())

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Failure:
        """Return the failure that the file tells. KeyError, TypeError or ValueError for others."""
        try:
            memory = guest_buffers.rows([(guest_buffers.PROPERTY, value["memory"])])
        except GuestProtocolError as error:
            raise ValueError(str(error)) from None
        sections = [(str(name), str(text)) for name, text in value["sections"]]
        return cls(
            str(value["test"]),
            str(value["when"]),
            str(value["text"]),
            int(value["vm"]),
            sections[:SECTIONS_MAX],
            memory,
        )


class FailureRecord:
    """A plugin of pytest that keeps the failed reports."""

    def __init__(self) -> None:
        self._failures: list[dict[str, Any]] = []
        self._left_out = 0

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a failed report."""
        if not report.failed:
            return
        if len(self._failures) >= FAILURES_MAX:
            self._left_out += 1
            return
        properties = report.user_properties
        memory = [value for name, value in properties if name == guest_buffers.PROPERTY]
        vms = [str(value) for name, value in properties if name == "vm"]
        self._failures.append(
            {
                "test": report.nodeid,
                "when": report.when or "",
                "text": shortened(report.longreprtext),
                "vm": int(vms[-1]) if vms and vms[-1].isdecimal() else 1,
                "sections": [
                    [str(name), shortened(str(text))]
                    for name, text in report.sections[:SECTIONS_MAX]
                ],
                "memory": [row for rows in memory if isinstance(rows, list) for row in rows],
            }
        )

    def write(self, folder: Path) -> None:
        """Write the file; nothing where no test failed. OSError."""
        if self._failures:
            whole = {"failures": self._failures, "left out": self._left_out}
            (folder / FILE).write_text(json.dumps(whole, indent=1) + "\n")


def shortened(text: str) -> str:
    """Return the beginning and the end of a long text."""
    if len(text) <= TEXT_MAX:
        return text
    half = TEXT_MAX // 2
    return text[:half] + _CUT.format(len(text) - 2 * half) + text[-half:]
