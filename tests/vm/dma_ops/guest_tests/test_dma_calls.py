# SPDX-License-Identifier: Apache-2.0
"""The kernel module's DMA operations, call by call: right ones pass, wrong ones are reported."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from dma_rehearsal.device.layout import CacheReportKind
from dma_rehearsal.device.layout.driver_reports import DriverReportKind as Kind
from dma_rehearsal.guest.testkit.driver_rehearsal import DriverRehearsal, ProbeFailed

pytestmark = pytest.mark.iommu_too
DRIVER = "dma_calls"
STREAMING = (
    *("sizes", "neighbours", "objects_come_and_go", "parts", "one_page_often", "pool_pages"),
    *("refused", "resources", "limits", "atomic", "shared_page", "many"),
)
LISTS = ("lists", "tables", "empty_entries")
MEMORY = ("coherent", "attributes", "managed", "pools", "pages", "noncontiguous")
MISTAKES = {
    "unmap_of_nothing": (Kind.UNMAP_OF_NOTHING, 2),
    "unmap_call": (Kind.UNMAP_CALL, 4),
    "unmap_middle": (Kind.UNMAP_CALL, 1),
    "unmap_size": (Kind.UNMAP_SIZE, 1),
    "unmap_direction": (Kind.UNMAP_DIRECTION, 1),
    "unmap_nents": (Kind.UNMAP_NENTS, 1),
    "never_unmapped": (Kind.NEVER_UNMAPPED, 4),
    "sync_of_nothing": (Kind.SYNC_OF_NOTHING, 1),
    "sync_past_end": (Kind.SYNC_PAST_END, 1),
    "sync_direction": (Kind.SYNC_DIRECTION, 1),
    "sync_nents": (Kind.SYNC_NENTS, 1),
    "error_unchecked": (Kind.MAPPING_ERROR_UNCHECKED, 1),
    "overlapping": (Kind.OVERLAPPING_MAPPINGS, 1),
    "segment_too_long": (Kind.SEGMENT_TOO_LONG, 3),
    "segment_boundary": (Kind.SEGMENT_BOUNDARY, 3),
    "free_address": (Kind.FREE_ADDRESS, 1),
    "free_of_other_page": (Kind.FREE_ADDRESS, 1),
    "never_taken_back": (Kind.NEVER_TAKEN_BACK, 2),
    "map_of_nothing": (Kind.MAP_OF_NOTHING, 1),
    "leak_of_a_failed_probe": (Kind.NEVER_UNMAPPED, 1),
}


@pytest.mark.rehearse(coherent=(True, False), place="kind")
@pytest.mark.parametrize("case", [*STREAMING, *LISTS, *MEMORY])
def test_right_calls(driver: DriverRehearsal, case: str) -> None:
    with driver(DRIVER, run=case):
        pass


@pytest.mark.rehearse(coherent=(True, False), merge=(True, False), place="hostile")
@pytest.mark.parametrize("case", [*STREAMING, *LISTS, *MEMORY])
def test_right_calls_of_copies(driver: DriverRehearsal, case: str) -> None:
    with driver(DRIVER, run=case):
        pass


@pytest.mark.rehearse(coherent=(True, False), place="kind")
@pytest.mark.parametrize("case", [*STREAMING[:-1], *LISTS, *MEMORY])
def test_right_calls_by_swiotlb(driver: DriverRehearsal, case: str) -> None:
    """Most of the guest's memory is above 4 GiB, so the kernel bounces it; not so many at once."""
    with driver(DRIVER, run=case, bits=32):
        pass


@pytest.mark.rehearse(every_failure=True, place="kind")
@pytest.mark.parametrize("case", ["parts", "tables", "managed", "noncontiguous"])
def test_each_call_fails_once(driver: DriverRehearsal, case: str) -> None:
    with driver(DRIVER, run=case):
        pass


@pytest.mark.rehearse(merge=True)
def test_merged_list(driver: DriverRehearsal) -> None:
    with driver(DRIVER, run="merged"):
        pass


@pytest.mark.rehearse(coherent=(True, False), place="kind")
@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(driver: DriverRehearsal, case: str) -> None:
    kind, count = MISTAKES[case]
    with (
        driver.expects(kind, count=count),
        suppress(ProbeFailed),
        driver(DRIVER, run=case),
    ):
        pass


@pytest.mark.rehearse(coherent=False, place=("kind", "hostile"))
def test_store_to_a_line_of_the_same_object(driver: DriverRehearsal) -> None:
    kind = CacheReportKind.CPU_BYTES_LOST
    with driver.expects(kind, count=3), driver(DRIVER, run="same_line"):
        pass


@pytest.mark.rehearse(bounce=True, place=("kind", "hostile"))
def test_store_of_a_program(driver: DriverRehearsal) -> None:
    with driver(DRIVER, run="programs_page"):
        pass


@pytest.mark.rehearse(bounce=True, place="kind")
def test_store_without_a_sync(driver: DriverRehearsal) -> None:
    with driver.expects(Kind.NEVER_GIVEN, count=1), driver(DRIVER, run="never_given"):
        pass


@pytest.mark.rehearse(place="kind")
def test_call_after_the_unbind(driver: DriverRehearsal) -> None:
    kinds = Kind.CALL_AFTER_UNBIND
    with driver.expects(kinds), suppress(ProbeFailed), driver(DRIVER, run="after_unbind"):
        pass


@pytest.mark.rehearse(place="kind")
def test_reports_are_bounded(driver: DriverRehearsal) -> None:
    kinds = Kind.NEVER_UNMAPPED, Kind.REPORTS_LOST
    with driver.expects(*kinds, count=257), driver(DRIVER, run="thousand_leaks"):
        pass


@pytest.mark.rehearse(place="kind")
def test_mask_is_never_set(driver: DriverRehearsal) -> None:
    with driver.expects(Kind.MASK_NEVER_SET, count=1), driver(DRIVER, run="parts", bits=0):
        pass


@pytest.mark.rehearse(place="kind", device_bits=36)
def test_mask_is_wider_than_the_device(driver: DriverRehearsal) -> None:
    kinds = Kind.MASK_BEYOND_DEVICE, Kind.ADDRESS_BEYOND_DEVICE
    with driver.expects(*kinds), driver(DRIVER, run="parts"):
        pass


@pytest.mark.rehearse(coherent=(True, False), place="kind")
def test_cost_of_a_pair(driver: DriverRehearsal) -> None:
    with driver(DRIVER, run="cost"):
        spent = int(Path("/sys/module/dma_calls/parameters/pairs_ns").read_text())
    print(f"a pair: {spent} ns")
