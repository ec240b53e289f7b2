# SPDX-License-Identifier: Apache-2.0
"""Every call that can fail does so once, by turns, and what is right then."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from dma_rehearsal.guest.testkit import every_failure
from dma_rehearsal.guest.testkit.attestation import CheckFailed
from dma_rehearsal.guest.testkit.conditions import Condition
from dma_rehearsal.guest.testkit.driver_rehearsal import DriverRehearsal, RehearsalFailed
from dma_rehearsal.guest.testkit.session_platform import SessionPlatform
from tests.unit.guest.testkit.fake_kernel import OPS, FakeKernel, FakeSession


class Body:
    """A test's body: its driver makes a call in its probe, and ``calls`` more."""

    def __init__(self, kernel: FakeKernel, session: FakeSession, most: bool | int = True) -> None:
        condition = Condition(every_failure=most)
        self.driver = DriverRehearsal(cast("SessionPlatform", session), condition)
        self.kernel, self.calls, self.runs = kernel, 2, 0
        kernel.probe = kernel.call

    def __call__(self) -> None:
        self.runs += 1
        with self.driver("my_driver"):
            for _ in range(self.calls):
                self.kernel.call()

    def due(self) -> list[int]:
        """Return the call that was to fail, of each load of the module."""
        loads = [each for each in self.kernel.log if each.startswith(f"load {OPS}")]
        return [int(each.rpartition("fail_nth=")[2]) for each in loads]


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    return FakeKernel(tmp_path, monkeypatch)


@pytest.fixture
def session() -> FakeSession:
    return FakeSession()


def test_each_call_fails_once(
    kernel: FakeKernel, session: FakeSession, capsys: pytest.CaptureFixture[str]
) -> None:
    body = Body(kernel, session)
    every_failure.run(body.driver, body)
    assert body.due() == [0, 1, 2, 3, 0]
    assert body.runs == 5
    said = capsys.readouterr().out
    assert "failure 1: ProbeFailed: the probe of my-driver" in said
    assert "failure 3: OSError" in said
    told = [value["condition"] for name, value in session.said if name == "driver run"]
    assert told[3] == "every-failure, failure 3"


def test_the_count_goes_on_over_several_bindings(kernel: FakeKernel, session: FakeSession) -> None:
    body = Body(kernel, session)
    body.calls = 0

    def twice() -> None:
        body()
        body()

    every_failure.run(body.driver, twice)
    # Without a failure; the first call; the second one, which is the second binding's; without.
    assert body.due() == [0, 0, 1, 2, 1, 0, 0]


def test_at_most_so_many_failures_are_spread(kernel: FakeKernel, session: FakeSession) -> None:
    body = Body(kernel, session, 3)
    body.calls = 99
    every_failure.run(body.driver, body)
    assert body.due() == [0, 1, 50, 100, 0]
    body = Body(kernel, session)
    body.calls = every_failure.MOST
    with pytest.raises(CheckFailed, match="257 calls can fail"):
        every_failure.run(body.driver, body)


def test_an_oops_is_never_right(kernel: FakeKernel, session: FakeSession) -> None:
    body = Body(kernel, session)
    kernel.remove = lambda: kernel.messages.extend(
        ["BUG: kernel NULL pointer dereference"] if kernel.failed else []
    )
    with pytest.raises(RehearsalFailed, match="with failure 2: the kernel says"):
        every_failure.run(body.driver, body)


def test_a_run_without_failures_must_pass(kernel: FakeKernel, session: FakeSession) -> None:
    body = Body(kernel, session)

    def worn() -> None:
        body()
        if body.runs == 5:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        every_failure.run(body.driver, worn)


def test_a_body_without_a_driver_and_calls_that_never_fail_are_told(
    kernel: FakeKernel, session: FakeSession
) -> None:
    body = Body(kernel, session)
    with pytest.raises(CheckFailed, match="no call of the driver could fail within"):
        every_failure.run(body.driver, lambda: None)
    kernel.probe = lambda: None

    def deaf() -> None:
        kernel.due = 0
        with body.driver("my_driver"):
            kernel.due = 0
            kernel.call()

    with pytest.raises(CheckFailed, match="none of 1 calls failed"):
        every_failure.run(body.driver, deaf)


def test_skips_are_not_taken_for_refusals(kernel: FakeKernel, session: FakeSession) -> None:
    body = Body(kernel, session)

    def skips() -> None:
        body()
        pytest.skip("later")

    with pytest.raises(pytest.skip.Exception):
        every_failure.run(body.driver, skips)


def test_pytest_runs_the_body_again(kernel: FakeKernel, session: FakeSession) -> None:
    body = Body(kernel, session)
    item: Any = type("Item", (), {"funcargs": {"driver": body.driver}, "obj": None})()

    def test(driver: DriverRehearsal) -> None:
        assert driver is body.driver
        body()

    item.obj = test
    hook = every_failure.pytest_pyfunc_call(item)
    next(hook)  # type: ignore[call-overload]
    item.obj(driver=body.driver)
    assert body.runs == 5
    with pytest.raises(StopIteration):
        hook.send(True)  # type: ignore[attr-defined]
    assert item.obj is test
