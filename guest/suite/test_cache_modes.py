# SPDX-License-Identifier: Apache-2.0
"""Cache modes: the page-table entries that the CPU uses, decoded from outside, on every page."""

from __future__ import annotations

import pytest

from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.guest.iobuffer import (
    CacheMode,
    IOBusyError,
    IOOptions,
    kIODirectionInOut,
)
from dma_rehearsal.guest.testkit import Attest, DmaChecker, MakeBuffer, Patterns
from dma_rehearsal.guest.testkit.board import EFFECTIVE, described
from dma_rehearsal.guest.testkit.claims import MODES, each_cache_mode

pytestmark = pytest.mark.any_device

SIZES = (1, 4096, 1024001)


@each_cache_mode()
@pytest.mark.parametrize("size", SIZES)
def test_witnessed_on_every_page(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, mode: str, size: int
) -> None:
    option, wanted = MODES[mode]
    size = bench.fits(size)
    memory = buffer(kIODirectionInOut | IOOptions.of(option), size)
    bench.device_reads(memory, data.take(size))
    seen = bench.device_writes(memory, data.take(size))
    runs = bench.witness(memory)
    types = sorted({run.effective.name for run in runs})
    pages = sum(run.length for run in runs) // PAGE
    # From virtual to bus address by the page tables, by the device's records, on every page.
    shifts = {run.physical - run.va for run in runs}
    attest(
        mode,
        asked=f"{wanted.name} on {size} bytes",
        attested=f"{'+'.join(types)} on {pages} pages at {runs[0].physical:#x}",
        kept=types == [wanted.name] and shifts == {seen.address - memory.address},
        reason=f"the witness found {described(runs)}; the device used {seen.address:#x}",
        evidence="walk",
    )


@each_cache_mode()
def test_conflicting_second_mapping_is_refused(
    bench: DmaChecker, buffer: MakeBuffer, attest: Attest, mode: str
) -> None:
    """Linux gives a second mapping the first one's mode and says nothing; the driver says EBUSY."""
    option, wanted = MODES[mode]
    memory = buffer(kIODirectionInOut | IOOptions.of(option), 8192, 4096)
    place = memory.getPhysicalAddress()
    given = []
    for other in EFFECTIVE:
        if EFFECTIVE[other] is wanted:
            continue
        try:
            bench.driver.map(place, 8192, other).close()
        except IOBusyError:
            continue
        given.append(other.name)
    runs = bench.witness(memory)
    types = sorted({run.effective.name for run in runs})
    attest(
        mode,
        asked="a second mapping with another mode is refused",
        attested=f"refused, still {'+'.join(types)}",
        kept=not given and types == [wanted.name],
        reason=f"given: {', '.join(given) or 'none'}; the first mapping is {types}",
        evidence="walk",
    )


@pytest.mark.promise("kernel mapping")
@pytest.mark.parametrize("mode", list(EFFECTIVE), ids=lambda mode: mode.name)
def test_kernel_and_device_see_the_same_bytes(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, mode: CacheMode
) -> None:
    """The kernel stores and loads through a mapping of the same type as the process's."""
    size = bench.fits(5000)
    memory = buffer(IOOptions.of(kIODirectionInOut | mode << 8), size)
    place = memory.getPhysicalAddress()
    stored = data.take(size)
    bench.driver.write(place, stored, mode)
    seen = bench.device_sees(memory, stored)
    written = data.take(size)
    bench.device_writes(memory, written)
    attest(
        "kernel mapping",
        asked=f"{mode.name}, kernel to device and back",
        attested=str(seen),
        kept=bench.driver.read(place, size, mode) == written,
        reason="the kernel loads other bytes than the device wrote",
    )
