# SPDX-License-Identifier: Apache-2.0
"""The fixture ``driver`` with a driver that gives trouble: its errors, and that nothing is left."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dma_rehearsal.guest.drivers import kernel_binding
from dma_rehearsal.guest.testkit import DriverRehearsal, ProbeFailed, RehearsalFailed

MODULES = Path("/sys/module")


def bound(driver: DriverRehearsal, trouble: str) -> None:
    """Bind the driver, and unbind it again."""
    with driver("trouble", trouble=trouble) as found:
        assert found.name == "trouble-pci"
        assert (found.folder / "driver").resolve().name == found.name
        assert Path("/dev/trouble").exists()


def told(driver: DriverRehearsal, trouble: str, kind: type[Exception] = RehearsalFailed) -> str:
    """Return what the fixture says of some trouble."""
    with pytest.raises(kind) as caught:
        bound(driver, trouble)
    return str(caught.value)


def nothing_is_left(driver: DriverRehearsal) -> bool:
    """Whether neither a module nor a binding is left."""
    folder = Path("/sys/bus/pci/devices") / driver.function
    modules = MODULES / "trouble", MODULES / "dma_rehearsal_ops"
    return not any(each.exists() for each in (*modules, folder / "driver"))


def test_none(driver: DriverRehearsal) -> None:
    for _ in range(2):
        bound(driver, "none")
        assert nothing_is_left(driver)


def test_refused(driver: DriverRehearsal) -> None:
    said = told(driver, "refuse", ProbeFailed)
    assert "the probe of trouble-pci at " in said
    assert "failed: Device or resource busy" in said
    assert "trouble refuses" in said
    assert nothing_is_left(driver)


def test_warning(driver: DriverRehearsal) -> None:
    said = told(driver, "warn")
    assert "the kernel says:" in said
    assert "trouble_remove" in said
    assert nothing_is_left(driver)


def test_left_open(driver: DriverRehearsal) -> None:
    left = []

    def body() -> None:
        with driver("trouble"):
            left.append(os.open("/dev/trouble", os.O_RDWR))

    with pytest.raises(RehearsalFailed, match="the test leaves /dev/trouble open"):
        body()
    os.close(left[0])
    assert nothing_is_left(driver)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Wait a second for the kernel, and not thirty; return what ends the hang."""
    for call in kernel_binding.BoundFunction.bind, kernel_binding.BoundFunction.unbind:
        monkeypatch.setattr(call, "__defaults__", (1.0,))

    def go_on() -> None:
        (MODULES / "trouble" / "parameters" / "go_on").write_text("Y")

    return go_on


def test_hang(driver: DriverRehearsal, impatient: Callable[[], None]) -> None:
    said = told(driver, "hang")
    impatient()  # else the guest could not power off
    assert "the unbind of trouble-pci has not returned within 1 s; it is in" in said
    assert "trouble_remove" in said
    assert "in an earlier test, so no driver can be bound now" in told(driver, "none")


def test_oops(driver: DriverRehearsal) -> None:
    said = told(driver, "oops")
    assert "the probe of trouble-pci was killed by the kernel" in said
    assert "NULL pointer dereference" in said
    assert "trouble_probe" in said


@pytest.mark.usefixtures("impatient")
def test_hang_for_ever(driver: DriverRehearsal) -> None:
    assert "has not returned" in told(driver, "hang")
