# SPDX-License-Identifier: Apache-2.0
"""One ordinary driver with one mistake: it is told by its kind, and by nothing else.

Each mistake is made under a condition that shows it. Those that only an error path shows are in
``red_tests``: there a test may not announce a report in all of its runs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from device_file import pattern
from mistakes_file import MistakesFile

from dma_rehearsal.device.layout import CacheReportKind, DmaReason
from dma_rehearsal.device.layout.driver_reports import DriverReportKind
from dma_rehearsal.guest.testkit.driver_expectations import Kind
from dma_rehearsal.guest.testkit.driver_rehearsal import DriverRehearsal, ProbeFailed

Use = Callable[[MistakesFile], object]


def write(file: MistakesFile) -> None:
    file.write(pattern(3000))


def read(file: MistakesFile) -> None:
    write(file)
    for _ in range(2):
        file.read(3000)


def send(file: MistakesFile) -> None:
    for turn in range(2):
        file.send(pattern(4096, turn))


def snapshot(file: MistakesFile) -> None:
    write(file)
    file.snapshot(3000)


def write_list(file: MistakesFile) -> None:
    file.write_list(pattern(3 * 4096))


def write_long_list(file: MistakesFile) -> None:
    file.write_list(pattern(32 * 4096))


def echo(file: MistakesFile) -> None:
    file.echo(pattern(1000))


def case(mistake: str, use: Use, *kinds: Kind, narrow: int = 0, **condition: Any) -> object:
    """Return a parameter set; ``condition`` is that of the mark ``rehearse``."""
    marks = pytest.mark.rehearse(**condition)
    return pytest.param(mistake, use, kinds, narrow, marks=marks, id=mistake)


CASES = [
    case("wrong_direction", write, DmaReason.PROTECTION_DIRECTION),
    case("length_too_long", write, DmaReason.PROTECTION_PAST_END),
    case("virt_to_phys", write, DmaReason.PROTECTION_OUTSIDE),
    case("wrong_device", write, DmaReason.PROTECTION_OUTSIDE),
    case("unmap_before_doorbell", write, DmaReason.PROTECTION_OUTSIDE),
    case("unmap_before_completion", write, DmaReason.PROTECTION_OUTSIDE, timing="held"),
    case(
        "store_before_completion",
        write,
        CacheReportKind.STORED_WHILE_DEVICE_OWNS,
        coherent=False,
        place="kind",
    ),
    case("skipped_sync", write, CacheReportKind.RELEASED_DIRTY, coherent=False, place="kind"),
    case("wrong_unmap_size", write, DriverReportKind.UNMAP_SIZE),
    case("wrong_unmap_direction", write, DriverReportKind.UNMAP_DIRECTION),
    case("double_unmap", write, DriverReportKind.UNMAP_OF_NOTHING),
    case("leak", write, DriverReportKind.NEVER_UNMAPPED),
    case("mapped_twice", read, DriverReportKind.OVERLAPPING_MAPPINGS, place="kind"),
    case("no_sync_for_cpu", read, DriverReportKind.NEVER_TAKEN_BACK),
    case("sync_wrong_direction", read, DriverReportKind.SYNC_DIRECTION),
    case("sync_past_end", read, DriverReportKind.SYNC_PAST_END),
    case("sync_after_unmap", write, DriverReportKind.SYNC_OF_NOTHING),
    case("shared_line", read, CacheReportKind.CPU_BYTES_LOST, coherent=False),
    case("no_sync_for_device", send, CacheReportKind.RELEASED_DIRTY, coherent=False, place="kind"),
    case("coherent_after_free", snapshot, DmaReason.PROTECTION_OUTSIDE),
    case("coherent_wrong_size", snapshot, DriverReportKind.UNMAP_SIZE),
    case("orig_nents", write_list, DmaReason.BAD_DESCRIPTOR, merge=True),
    case("unmap_nents", write_list, DriverReportKind.UNMAP_NENTS, merge=True),
    case("unmap_call", write_list, DriverReportKind.UNMAP_CALL),
    case("segment_too_long", write_long_list, DriverReportKind.SEGMENT_TOO_LONG),
    case("descriptor_after_doorbell", echo, DmaReason.BAD_DESCRIPTOR),
    case("mask_never_set", write, DriverReportKind.MASK_NEVER_SET),
    case("mask_too_wide", write, DmaReason.ADDRESS_BITS, narrow=1),
    case("bus_master_never", write, DmaReason.BUS_MASTER_OFF),
]


@pytest.mark.parametrize(("mistake", "use", "kinds", "narrow"), CASES)
def test_mistake(
    driver: DriverRehearsal, mistake: str, use: Use, kinds: tuple[Kind, ...], narrow: int
) -> None:
    with (
        driver.expects(*kinds),
        driver("mistakes", mistake=mistake, narrow=narrow),
        MistakesFile() as file,
        suppress(OSError),  # the driver may notice
    ):
        use(file)


def test_bus_mastering_before_the_reset(driver: DriverRehearsal) -> None:
    with driver("mistakes", mistake="bus_master_early"):
        pass
    with (
        driver.expects(DmaReason.PROTECTION_OUTSIDE, count=1),
        driver("mistakes", mistake="bus_master_early"),
    ):
        pass


def test_leak_of_a_probe_that_failed(driver: DriverRehearsal) -> None:
    with (
        driver.expects(DriverReportKind.NEVER_UNMAPPED, count=2),
        pytest.raises(ProbeFailed),
        driver("mistakes", mistake="leak_on_failed_probe"),
    ):
        pass


@pytest.mark.rehearse(timing="held")
def test_result_that_is_read_before_the_interrupt(driver: DriverRehearsal) -> None:
    """No report can know of it: the data are wrong, each time."""
    with driver("mistakes", mistake="result_before_interrupt"), MistakesFile() as file:
        file.write(pattern(3000, 1))
        assert file.read(3000) == bytes(3000)
        file.write(pattern(3000, 2))
        assert file.read(3000) == pattern(3000, 1)


@pytest.mark.parametrize("narrow", [0, 1], ids=["64-bit", "32-bit"])
def test_none(driver: DriverRehearsal, narrow: int) -> None:
    with driver("mistakes", narrow=narrow), MistakesFile() as file:
        file.use_everything()
