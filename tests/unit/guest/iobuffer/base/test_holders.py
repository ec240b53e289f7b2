# SPDX-License-Identifier: Apache-2.0
"""Errors name who has what was asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IOBusyError,
    IOMultiMemoryDescriptor,
    IONoMemoryError,
    IOReturn,
    IOReturnError,
    kIODirectionIn,
    kIODirectionInOut,
)
from dma_rehearsal.guest.iobuffer.base import holders, interfaces, provenance
from dma_rehearsal.guest.iobuffer.base.options import IODirection
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from tests.unit.guest.memory_pool import MemoryPool, make
from tests.unit.guest.shared_pool import MIB

HERE = "tests/unit/guest/iobuffer/base/test_holders.py:"


@pytest.fixture(autouse=True)
def _alone(main: MemoryPool) -> Iterator[None]:  # noqa: ARG001
    provenance._after_fork_in_child()
    yield
    provenance._after_fork_in_child()


def refused(capacity: int, pool: str | None = "main") -> str:
    with pytest.raises(IONoMemoryError) as none:
        make(capacity, pool=pool)
    return none.value.reason


def test_no_memory_names_the_holders_the_largest_first() -> None:
    with (
        IOBufferMemoryDescriptor.withOptions(kIODirectionInOut, PAGE),
        IOBufferMemoryDescriptor.withOptions(kIODirectionIn, MIB),
    ):
        said = refused(4 * MIB)
    first, second = (said.index(f"of {size} bytes, kIODir") for size in (MIB, PAGE))
    assert first < second
    assert f"held here: {MIB + PAGE} bytes in 2 descriptors: " in said
    assert said.count(f"made at {HERE}") == 2


def test_the_list_of_holders_is_bounded() -> None:
    made = [make(PAGE) for _ in range(holders.SHOWN_MAX + 3)]
    assert "; and 3 more" in refused(4 * MIB)
    for each in made:
        each.release()


def test_memory_of_another_pool_is_not_named() -> None:
    with make(PAGE, pool="high"):
        assert "held here: nothing" in refused(4 * MIB + 1)
        assert "in 1 descriptors" in refused(64 * MIB, None), "all pools were asked"


def test_no_memory_names_other_processes(main: MemoryPool) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from dma_rehearsal.guest.iobuffer.memory.carveout import CarveoutPool\n"
        "from dma_rehearsal.guest.iobuffer.memory.zones import Zone\n"
        f"pool = CarveoutPool(Zone('main', {main.zone.start}, {main.zone.size}), "
        "locks=Path(sys.argv[1]))\n"
        "held = pool.allocate(4096, 4096)\nprint('held', flush=True)\nsys.stdin.read()\n"
    )
    folder = main._path.parent
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        said = refused(4 * MIB)
        other.communicate("")
    assert (
        f"{main.zone.arena_size} bytes are held by other processes: process {other.pid} (" in said
    )
    assert "other processes" not in refused(4 * MIB + 1)


def test_a_process_that_cannot_be_seen() -> None:
    said = holders.of_others(Path("/nobody/has/this.lock"), 4096)
    assert said == "4096 bytes are held by other processes: which ones cannot be seen from here"
    assert holders.of_others(Path("/nobody/has/this.lock"), 0) == ""


class Full:
    """An access control without room."""

    def grant(self, address: int, length: int, direction: IODirection) -> object:
        raise IOReturnError(
            f"{length} bytes at {address:#x}, {direction.name}: FULL",
            code=IOReturn.kIOReturnNoResources,
        )

    def withdraw(self, grant: object) -> None: ...

    def reclaim(self) -> None: ...


def test_no_room_for_grants_names_what_is_on_the_bus() -> None:
    with make(PAGE):
        before, dma_platform.access_control = dma_platform.access_control, Full()
        try:
            with pytest.raises(IOReturnError) as full:
                make(64)
        finally:
            dma_platform.access_control = before
    assert "FULL; on the bus from here: 4096 bytes in 1 descriptors: IOBuffer" in str(full.value)
    assert full.value.reason in str(full.value)


# In use.


def busy(memory: IOBufferMemoryDescriptor) -> str:
    with pytest.raises(IOBusyError) as raised:
        memory.release()
    return raised.value.reason


def test_what_is_in_use_names_the_line_of_its_user() -> None:
    memory = make(PAGE)
    view = memory.view()
    assert f"still alive, the first of them taken at {HERE}" in busy(memory)
    view.release()
    memory.prepare()
    assert f"1 prepare() without complete(), at {HERE}" in busy(memory)
    for _ in range(5):
        memory.prepare()
    assert busy(memory).count(HERE) == 4
    assert "and 2 more" in busy(memory)
    for _ in range(6):
        memory.complete()
    mapped = memory.map()
    assert f"<IOMemoryMap 4096 bytes from 0 on at {mapped.getVirtualAddress():#x}" in busy(memory)
    assert f"made at {HERE}" in busy(memory)
    view = mapped.view()
    with pytest.raises(IOBusyError, match=f"1 view.s. of it alive, the first taken at {HERE}"):
        mapped.unmap()
    view.release()
    mapped.unmap()
    several = IOMultiMemoryDescriptor.withDescriptors([memory], kIODirectionIn)
    several.prepare()
    said = busy(memory)
    assert "<IOMultiMemoryDescriptor 4096 bytes in 1 entries" in said
    assert f"made at {HERE}" in said
    several.complete()
    several.release()
    memory.release()


class FullMapper:
    """A mapper with as many mappings as it takes."""

    def map(self, va: int, length: int, **_: object) -> interfaces.BusMapping:
        raise IOReturnError(
            f"mapping {length} bytes at {va:#x}: dma_entry_limit",
            code=IOReturn.kIOReturnNoResources,
        )


def test_no_room_for_mappings_names_what_is_on_the_bus() -> None:
    with make(2 * PAGE):
        before, dma_platform.iommu = dma_platform.iommu, FullMapper()
        try:
            with pytest.raises(IOReturnError) as full:
                make(64)
        finally:
            dma_platform.iommu = before
    assert "dma_entry_limit; on the bus from here: 8192 bytes in 1 descriptors" in str(full.value)
