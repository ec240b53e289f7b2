# SPDX-License-Identifier: Apache-2.0
"""The marks of guest tests: the machine that a test is for, and its promises."""

from __future__ import annotations

from typing import Final

import pytest

from dma_rehearsal.guest.linux.kernel_cmdline import (
    LIMITS,
    DeviceParameters,
    device_parameters,
)
from dma_rehearsal.guest.session import LEFT_OUT, SETTINGS, marked_promises
from dma_rehearsal.guest.testkit import conditions
from dma_rehearsal.guest.testkit.attestation import Attest, CheckFailed

UNPROTECTED: Final = "unprotected"
"""The mark of a test during which the protection unit is off."""
_KINDS: Final = ", ".join(LIMITS)
MARKS: Final = (
    "promise(name): the promise that the test is about; it is broken when the test fails before it "
    "could attest, and unattested when the test passes in silence",
    "kernel: looks at what the guest's own kernel does; left out without one",
    f"unlimited(kind, ...): needs a device without limits of these kinds ({_KINDS}; without one: "
    "of any); left out where a profile has them",
    "any_device: the same with any device; the matrix runs it on the plain exerciser alone",
    "coherence: looks at whether the device is coherent; the matrix runs it twice",
    "snooped: needs a device whose accesses are snooped; left out where the profile says coherent "
    "= false",
    f"{UNPROTECTED}: the protection unit is off; for DMA to addresses that nothing grants",
    "rehearse(timing=, coherent=, merge=, bounce=, place=, every_failure=, device_bits=, plain=): "
    "the conditions of a test that takes the fixture driver, each a value or a tuple; the test "
    "runs once for each combination",
    "iommu: the test is for a device behind an IOMMU",
    "iommu_too: the test is for a device behind one or not, as each with the fixture driver is",
)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks."""
    for mark in MARKS:
        config.addinivalue_line("markers", mark)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that are for another machine; unmarked, for one without IOMMU."""
    device = device_parameters()
    behind_iommu = config.stash[SETTINGS].behind_iommu
    left_out = []
    for item in items:
        if why := _unfit(item, device, behind_iommu=behind_iommu):
            item.stash[LEFT_OUT] = why
            left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [each for each in items if LEFT_OUT not in each.stash]


def _unfit(item: pytest.Item, device: DeviceParameters, *, behind_iommu: bool) -> str:
    """Return why a test is not for this machine; empty if it is."""
    alone = item.get_closest_marker("iommu") is not None
    if alone != behind_iommu and not _is_for_both(item, alone=alone):
        return "for a device behind an IOMMU" if alone else "for a device without an IOMMU"
    if item.get_closest_marker("snooped") is not None and not device.coherent:
        return "for a device that caches follow"
    kinds = {str(kind) for mark in item.iter_markers("unlimited") for kind in mark.args or LIMITS}
    if unknown := kinds.difference(LIMITS):
        raise pytest.UsageError(f"{item.nodeid}: unlimited{sorted(unknown)}: kinds are {_KINDS}")
    broken = [kind for kind in LIMITS if kind in kinds & device.limits]
    return f"for a device without limits on {', '.join(broken)}" if broken else ""


def _is_for_both(item: pytest.Item, *, alone: bool) -> bool:
    """Whether a test runs with and without an IOMMU, as one of a kernel driver does."""
    if item.get_closest_marker("iommu_too") is not None:
        return True
    return not alone and conditions.FIXTURE in getattr(item, "fixturenames", ())


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object:
    """Record a failed check against the test's promises, with its parameters as what is asked.

    The message then names the promise, and the host's table has what was seen.
    """
    try:
        return (yield)
    except CheckFailed as error:
        names = marked_promises(pyfuncitem)
        asked, seen = _asked(pyfuncitem), str(error)
        attest = Attest(pyfuncitem.user_properties)
        for name in names:
            attest.record(name, asked, seen, "broken", seen)
        if names:
            error.args = (f"{', '.join(names)} is broken: asked {asked}; attested {seen}",)
        raise


def _asked(item: pytest.Function) -> str:
    """Return the parameters of a test, for people; without any, its name."""
    if not hasattr(item, "callspec"):
        return item.name
    return ", ".join(
        f"{name} {getattr(value, 'name', value)}" for name, value in item.callspec.params.items()
    )
