# SPDX-License-Identifier: Apache-2.0
"""The test kit's accounts: what no DMA touched is in a failed report, mistakes fail a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dma_rehearsal.guest.iobuffer.base.interfaces import Untouched
from dma_rehearsal.guest.iobuffer.base.options import IODirection
from dma_rehearsal.guest.iobuffer.descriptors import coverage
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.testkit import transfer_checks

pytest_plugins = ["pytester"]

TESTS = """
import pytest
from dma_rehearsal.guest.iobuffer.base import mistakes
from dma_rehearsal.guest.iobuffer.base.options import IODirection
from tests.unit.guest.scattered import Bus, Scattered

@pytest.fixture
def memory():
    bus = Bus()
    made = Scattered(bus, [0x5000], 4096, IODirection.kIODirectionIn)
    made.prepare()
    yield made
    while made.prepared:
        made.complete()
    bus.close()

def test_fails(memory):
    memory.complete()
    assert False

def test_passes(memory):
    memory.complete()

@pytest.mark.strict_coverage
def test_strict(memory):
    memory.complete()

@pytest.mark.strict_coverage
def test_strict_while_prepared(memory):
    memory.prepare()

@pytest.mark.strict_coverage
def test_strict_and_prepared_by_a_fixture(memory):
    pass

@pytest.mark.strict_coverage
def test_strict_and_nothing_prepared():
    pass

@pytest.mark.filterwarnings("ignore")
def test_mistaken():
    mistakes.record("a peek at a bounce buffer")

@pytest.mark.filterwarnings("ignore")
def test_mistaken_on_purpose():
    mistakes.record("a peek at a bounce buffer")
    assert mistakes.taken()

@pytest.fixture
def gives_up():
    yield
    mistakes.record("given up in a teardown")

@pytest.mark.filterwarnings("ignore")
def test_mistaken_fixture(gives_up):
    pass

@pytest.mark.xfail
@pytest.mark.filterwarnings("ignore")
def test_mistaken_and_expected_to_fail():
    mistakes.record("a peek at a bounce buffer")
    assert False
"""


class Blind:
    """An evidence that saw no DMA."""

    def untouched(
        self,
        address: int,  # noqa: ARG002
        length: int,
        direction: IODirection,  # noqa: ARG002
        since: int,  # noqa: ARG002
    ) -> Untouched | None:
        return Untouched(length, 0)


class Reports:
    """Keeps the reports of a session's calls and teardowns, by the test's name."""

    def __init__(self) -> None:
        self.calls: dict[str, pytest.TestReport] = {}
        self.teardowns: dict[str, pytest.TestReport] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when in ("call", "teardown"):
            of_phase = self.calls if report.when == "call" else self.teardowns
            of_phase[report.nodeid.rpartition("::")[2]] = report


@pytest.fixture
def reports(pytester: pytest.Pytester) -> Iterator[Reports]:
    before, dma_platform.dma_evidence = dma_platform.dma_evidence, Blind()
    pytester.makepyfile(TESTS)
    reports = Reports()
    pytester.inline_run("--strict-markers", plugins=[transfer_checks, reports])
    yield reports
    dma_platform.dma_evidence = before
    coverage.begin()


def test_the_accounts_of_tests(reports: Reports) -> None:
    calls = reports.calls
    failed = {name for name, report in calls.items() if report.failed}
    assert failed == {"test_fails", "test_strict", "test_strict_while_prepared", "test_mistaken"}
    assert len(calls) == 10
    section = dict(calls["test_fails"].sections)[transfer_checks.COVERAGE]
    assert section.endswith("prepared 4096 bytes for In; no DMA touched any of them")
    assert transfer_checks.COVERAGE not in dict(calls["test_passes"].sections)
    assert "CoverageError" in calls["test_strict"].longreprtext
    assert "no DMA touched any of them" in calls["test_strict_while_prepared"].longreprtext
    assert "a peek at a bounce buffer" in calls["test_mistaken"].longreprtext


def test_a_mistake_in_a_fixtures_teardown(reports: Reports) -> None:
    (failed,) = (each for each in reports.teardowns.values() if each.failed)
    assert failed.nodeid.endswith("::test_mistaken_fixture")
    assert "given up in a teardown" in failed.longreprtext
