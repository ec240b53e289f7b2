# SPDX-License-Identifier: Apache-2.0
"""The requests that the pools of the kernel's memory refuse, up to the byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dma_rehearsal.guest.iobuffer.base.errors import IODeviceError, IOReturn
from dma_rehearsal.guest.iobuffer.base.options import CacheMode
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.memory import kernel_pools
from dma_rehearsal.guest.iobuffer.memory.kernel_pools import (
    HUGE_PAGE,
    HugePool,
    PageablePool,
    PinnedPool,
)
from dma_rehearsal.guest.iobuffer.memory.pool import Pool, Request

AVAILABLE = 64 << 20
SIZE = AVAILABLE // 2
PLAIN = Request(PAGE)


@pytest.fixture(autouse=True)
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Memory that is available, and the folder of the huge pages of 2 MiB."""
    told = tmp_path / "meminfo"
    told.write_text(f"MemFree: 1 kB\nMemAvailable:  {AVAILABLE >> 10} kB\nMemTotal: 9 kB\n")
    monkeypatch.setattr(kernel_pools, "MEMINFO", told)
    folder = tmp_path / "hugepages-2048kB"
    folder.mkdir()
    monkeypatch.setattr(kernel_pools, "HUGE_PAGES", folder)
    return folder


@pytest.mark.parametrize("pool", [PageablePool(), PinnedPool(), HugePool()], ids=lambda p: p.name)
def test_what_all_refuse(pool: Pool) -> None:
    plain = replace(PLAIN, pageable=pool.name == "pageable")
    assert pool.size == pool.free_size() == SIZE
    assert pool.refuses(replace(plain, capacity=SIZE)) == ""
    assert f"at most {SIZE} bytes" in pool.refuses(replace(plain, capacity=SIZE + 1))
    own = "pageable" if plain.pageable else "wired"
    assert pool.refuses(replace(plain, pageable=not plain.pageable)) == f"its memory is {own}"
    for mode in CacheMode.INHIBIT, CacheMode.WRITE_THRU, CacheMode.WRITE_COMBINE:
        assert mode.name in pool.refuses(replace(plain, mode=mode))


def test_nothing_is_available_where_the_kernel_does_not_say(
    kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = kernel / "meminfo"
    told.write_text("MemFree: 100 kB\n")
    monkeypatch.setattr(kernel_pools, "MEMINFO", told)
    assert PinnedPool().size == 0


@pytest.mark.parametrize(("pool", "most"), [(PinnedPool(), PAGE), (HugePool(), HUGE_PAGE)])
def test_contiguous_up_to_a_page(pool: Pool, most: int) -> None:
    for capacity in 1, most - 1, most:
        assert pool.refuses(Request(capacity, contiguous=True)) == ""
    assert pool.refuses(Request(most + 1, contiguous=True)) == (
        f"its memory is contiguous for {most} bytes"
    )
    assert pool.refuses(Request(2 * most)) == ""


@pytest.mark.parametrize(("pool", "most"), [(PinnedPool(), PAGE), (HugePool(), HUGE_PAGE)])
def test_aligned_up_to_a_page(pool: Pool, most: int) -> None:
    for alignment in 1, most // 2, most:
        assert pool.refuses(Request(64, alignment)) == ""
    assert pool.refuses(Request(64, 2 * most)) == f"its memory is aligned to {most} bytes"


def test_purgeable_memory_is_private(kernel: Path) -> None:
    pool, purgeable = PageablePool(), Request(PAGE, pageable=True, purgeable=True)
    assert pool.refuses(purgeable) == ""
    assert "private" in pool.refuses(replace(purgeable, shared=True))
    assert "private" in pool.refuses(replace(purgeable, mapped=False))
    shared = replace(purgeable, purgeable=False, shared=True, mapped=False)
    assert pool.refuses(shared) == ""
    kernel.rmdir()
    assert "no huge pages" in HugePool().refuses(PLAIN)


@pytest.mark.parametrize(
    ("surplus", "limit", "count", "wanted"),
    [(0, 0, 1, 17), (3, 4, 1, 4), (3, 3, 1, 20), (3, 5, 3, 22), (0, 9, 9, 9)],
)
def test_the_kernel_may_make_as_many_huge_pages(
    kernel: Path, surplus: int, limit: int, count: int, wanted: int
) -> None:
    """So many more than there are, and some to spare; a limit that will do is left alone."""
    (kernel / "surplus_hugepages").write_text(f"{surplus}\n")
    (kernel / "nr_overcommit_hugepages").write_text(f"{limit}\n")
    HugePool()._allow(count)
    assert int((kernel / "nr_overcommit_hugepages").read_text()) == wanted


def test_a_limit_that_cannot_be_changed() -> None:
    with pytest.raises(IODeviceError, match="nr_overcommit_hugepages") as caught:
        HugePool()._allow(1)
    assert caught.value.code is IOReturn.kIOReturnNoResources
