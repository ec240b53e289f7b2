# SPDX-License-Identifier: Apache-2.0
"""Each call of the DMA API that can fail does so once, by turns: the body of a test runs again.

The first run counts the calls. In the run with number N the Nth call fails; the driver may then
refuse, so that the body's own failure is right. A report, a refused DMA, a leak, an oops or a hang
is not. The last run has no failure, and must pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from dma_rehearsal.guest.testkit.attestation import CheckFailed
from dma_rehearsal.guest.testkit.driver_rehearsal import (
    SINCE_BIND,
    DriverRehearsal,
    Failures,
    RehearsalFailed,
)

MOST: Final = 256
"""The failures that ``every_failure=True`` takes."""


def run(driver: DriverRehearsal, body: Callable[[], object]) -> None:
    """Run a body once for each call that can fail, and once before and after.

    `CheckFailed` for a body in which nothing can fail, or with more calls than the mark allows.
    """
    most = driver.condition.every_failure
    limit = MOST if most is True else int(most)
    first = Failures()
    _once(driver, body, first)
    calls = first.calls
    if not calls:
        raise CheckFailed(
            "every_failure: no call of the driver could fail within the test's own body; next: "
            "have `with driver(...)` in the body, and not in a fixture"
        )
    if calls > limit and most is True:
        raise CheckFailed(
            f"every_failure: {calls} calls can fail, which is more than {MOST} runs of the test; "
            "next: have the test do less, or choose the most failures: every_failure=50"
        )
    failed = 0
    for due in _spread(calls, limit):
        plan = Failures(due)
        with _refusals(due):
            _once(driver, body, plan)
        failed += plan.failed
    if not failed:
        raise CheckFailed(f"every_failure: none of {calls} calls failed though each was to fail")
    _once(driver, body, Failures())


def _spread(calls: int, limit: int) -> list[int]:
    """Return at most ``limit`` of the numbers up to ``calls``, the first and the last included."""
    if calls <= limit:
        return list(range(1, calls + 1))
    if limit == 1:
        return [1]
    return sorted({1 + index * (calls - 1) // (limit - 1) for index in range(limit)})


def _once(driver: DriverRehearsal, body: Callable[[], object], plan: Failures) -> None:
    """Run the body by a plan, which then has the count, also when the body raises."""
    driver.failures = plan
    try:
        body()
    finally:
        driver.failures = Failures()


@contextmanager
def _refusals(due: int) -> Iterator[None]:
    """Let the body fail in the run in which a call failed; print why it did."""
    try:
        yield
    except RehearsalFailed as error:
        error.args = (f"with failure {due}: {error}",)
        raise
    except (Exception, pytest.fail.Exception) as error:
        line = str(error).partition("\n")[0].removesuffix(SINCE_BIND)
        print(f"failure {due}: {type(error).__name__}: {line}")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object:
    """Run the body of a test under this condition as often as it has calls that can fail."""
    driver = pyfuncitem.funcargs.get("driver")
    if not isinstance(driver, DriverRehearsal) or not driver.condition.every_failure:
        return (yield)
    body = pyfuncitem.obj

    def again(**arguments: Any) -> None:
        run(driver, lambda: body(**arguments))

    pyfuncitem.obj = again
    try:
        return (yield)
    finally:
        pyfuncitem.obj = body
