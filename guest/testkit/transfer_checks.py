# SPDX-License-Identifier: Apache-2.0
"""Checks of a test's transfers: driver mistakes fail it, DMA coverage explains a failure.

The mark ``strict_coverage`` fails a test when no DMA touched bytes that were prepared.
"""

from __future__ import annotations

import pytest

from dma_rehearsal.guest.iobuffer.base import mistakes
from dma_rehearsal.guest.iobuffer.descriptors import coverage
from dma_rehearsal.guest.testkit.attestation import CheckFailed

COVERAGE = "DMA coverage"
"""The name of the section of a failed test's report."""
_STRICT = "strict_coverage"


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark."""
    config.addinivalue_line(
        "markers",
        f"{_STRICT}: fails when bytes were prepared, and no DMA touched them before complete(), or "
        "before the release() of memory that nobody prepared",
    )


@pytest.hookimpl(trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> None:  # noqa: ARG001
    """Begin the test's accounts, without the preparations of its fixtures."""
    coverage.begin()
    mistakes.taken()


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object:
    """Check the test's coverage, and fail it for mistakes that it did not take itself."""
    if pyfuncitem.get_closest_marker(_STRICT) is None:
        result = yield
    else:
        with coverage.strict():
            result = yield
        if said := coverage.lines():  # open preparations count, too
            raise CheckFailed("; and ".join(said))
    if found := mistakes.taken():
        raise CheckFailed("; and ".join(found))
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> object:
    """Fail the test for mistakes in its fixtures' teardown, where their buffers are released."""
    mistakes.taken()  # of a failed call, which has its own message
    result = yield
    if found := mistakes.taken():
        raise CheckFailed("; and ".join(found))
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,  # noqa: ARG001
) -> object:
    """Add the bytes that no DMA touched to a failed test's report."""
    report = yield
    if isinstance(report, pytest.TestReport) and report.failed and (said := coverage.lines()):
        report.sections.append((COVERAGE, "\n".join(said)))
    return report
