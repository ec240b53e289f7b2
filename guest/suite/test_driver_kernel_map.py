# SPDX-License-Identifier: Apache-2.0
"""The module's kernel mappings of carve-outs, used directly: each has just its mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest

from dma_rehearsal.device.layout import WitnessStatus
from dma_rehearsal.guest.iobuffer import CacheMode, IOBusyError, IODeviceError, IOReturn
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.memory import pool_registry
from dma_rehearsal.guest.iobuffer.memory.carveout import CarveoutPool
from dma_rehearsal.guest.iobuffer.memory.heap_pool import HeapPool
from dma_rehearsal.guest.iobuffer.memory.zones import find_zones
from dma_rehearsal.guest.linux.page_frames import HUGE
from dma_rehearsal.guest.testkit import Attest, CheckFailed, DmaChecker, Patterns, difference
from dma_rehearsal.guest.testkit.board import EFFECTIVE, described
from dma_rehearsal.guest.testkit.pinning import (
    attest_soundness,
    device_sees,
    device_stores,
    refusal,
)

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.unprotected,
    pytest.mark.any_device,
    pytest.mark.unlimited("addresses"),  # the last carve-out is above 4 GiB
]

KERNEL_MAPPING = "kernel mapping"
MODES = [mode for mode in CacheMode if mode in EFFECTIVE]
modes = pytest.mark.parametrize("mode", MODES, ids=[mode.name for mode in MODES])


def end_of_carve_outs() -> int:
    """Return where the last carve-out ends; the allocator comes there last, so nobody maps it."""
    zone = find_zones()[-1]
    return zone.start + zone.size


@pytest.mark.unlimited("alignment")
@pytest.mark.promise(KERNEL_MAPPING)
@modes
@pytest.mark.parametrize("length", [1, 3 * PAGE, HUGE + PAGE])
def test_kernel_maps_with_just_the_mode(
    bench: DmaChecker, data: Patterns, attest: Attest, mode: CacheMode, length: int
) -> None:
    start = end_of_carve_outs() - (4 << 20) + (100 if length < PAGE else 0)
    expected, other = data.take(length), data.take(length)
    with bench.driver.kernel_map(start, length, mode) as kernel:
        device_stores(bench, [(start, length)], expected)
        found = difference(expected, kernel.read(0, length))
        if found:
            raise CheckFailed(f"the kernel finds other bytes than the device stored: {found}")
        kernel.write(0, other)
        device_sees(bench, [(start, length)], other)
        report = bench.platform.witness(kernel.root, kernel.address, length, kernel.levels)
    wrong = [
        run
        for run in report.runs
        if run.effective is not EFFECTIVE[mode] or run.user or not run.writable
    ]
    reached = (report.runs[0].physical | start % PAGE) if report.runs else 0
    attest(
        KERNEL_MAPPING,
        asked=f"{length} bytes with {mode.name}",
        attested=described(list(report.runs)),
        kept=report.status is WitnessStatus.OK and not wrong and reached == start,
        reason=f"{report.status.name}, physical {reached:#x} of {start:#x}",
        evidence="walk",
    )


@pytest.mark.promise(KERNEL_MAPPING)
@modes
def test_a_range_has_one_mode_in_the_kernel_and_in_processes(
    bench: DmaChecker, attest: Attest, mode: CacheMode
) -> None:
    driver = bench.driver
    refused = []
    pool = pool_registry.named("high")
    assert isinstance(pool, HeapPool)
    assert isinstance(pool.extents, CarveoutPool)
    with pool.heap.held():
        claim = pool.extents.claim(4 * PAGE, PAGE)  # nobody else maps it
    start = claim.extent.address
    for other in MODES:
        with driver.kernel_map(start, 4 * PAGE, mode):
            if other is mode:
                driver.map(start, 4 * PAGE, other).close()
                driver.kernel_map(start + PAGE, 10, other).close()
            else:
                refused.append(refusal(driver.map, start, PAGE, other))
                refused.append(refusal(driver.kernel_map, start, 1, other))
        user = driver.map(start, 2 * PAGE, mode)
        try:
            if other is not mode:
                refused.append(refusal(driver.kernel_map, start + PAGE, 3 * PAGE, other))
        finally:
            user.close()
        driver.kernel_map(start, 4 * PAGE, other).close()  # with no other one there, it can
    device_stores(bench, [(start, 64)], bytes(64))
    claim.close()
    busy = refused.count(IOReturn.kIOReturnBusy)
    attest(
        KERNEL_MAPPING,
        asked=f"another mode beside {mode.name}, kernel after process and the other way round",
        attested=f"{busy} of {len(refused)} refused with kIOReturnBusy",
        kept=busy == len(refused) == 9,
    )


@pytest.mark.promise(KERNEL_MAPPING)
def test_what_the_kernel_cannot_map(bench: DmaChecker, data: Patterns, attest: Attest) -> None:
    page = end_of_carve_outs() - PAGE
    for start, length in (0, PAGE), (page, PAGE + 1), (page, 0), (-1, 1), (page, 1 << 64):
        code = refusal(bench.driver.kernel_map, start, length, CacheMode.COPYBACK)
        assert code == IOReturn.kIOReturnBadArgument
    attest_soundness(bench, data, attest, KERNEL_MAPPING, "what is in no carve-out: refused")


@pytest.mark.promise(KERNEL_MAPPING)
def test_why_a_mapping_is_refused_is_told_apart(
    bench: DmaChecker, data: Patterns, attest: Attest
) -> None:
    """The place, the mode, and another mode beside it; by mmap, by a mapping and by a copy."""
    driver, end = bench.driver, end_of_carve_outs()
    calls: list[Callable[[int, CacheMode], object]] = [
        lambda start, mode: driver.map(start, PAGE, mode),
        lambda start, mode: driver.kernel_map(start, PAGE, mode),
        lambda start, mode: driver.read(start, PAGE, mode),
        lambda start, mode: driver.write(start, bytes(PAGE), mode),
    ]
    none = cast("CacheMode", 7)
    with driver.kernel_map(end - PAGE, PAGE, CacheMode.COPYBACK):
        for start, mode, words in (
            (end, CacheMode.COPYBACK, "not inside one carve-out"),
            (end - PAGE, none, "no such cache mode"),
            (end - PAGE, CacheMode.INHIBIT, "mapped with another cache mode"),
        ):
            for call in calls:
                with pytest.raises((IODeviceError, IOBusyError), match=words):
                    call(start, mode)
    asked = "outside, no such mode, another mode beside it: each in words of its own"
    attest_soundness(bench, data, attest, KERNEL_MAPPING, asked)
