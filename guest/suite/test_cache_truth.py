# SPDX-License-Identifier: Apache-2.0
"""Devices that do not snoop: what they see, and what the CPU sees of them, in each cache mode."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

import pytest

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.guest.drivers.exerciser import Exerciser
from dma_rehearsal.guest.drivers.platform.cache_unit import CacheModelMode
from dma_rehearsal.guest.iobuffer import (
    CacheMode,
    IOBufferMemoryDescriptor,
    IODirection,
    kernel_task,
    kIODirectionIn,
    kIODirectionInOut,
    kIODirectionOut,
)
from dma_rehearsal.guest.testkit import (
    Attest,
    CheckFailed,
    DmaChecker,
    NonCoherent,
    Patterns,
    difference,
)
from dma_rehearsal.guest.testkit.board import EFFECTIVE
from dma_rehearsal.guest.testkit.config_space import DEVICE_CONTROL, PCI_EXPRESS, word
from dma_rehearsal.guest.testkit.noncoherent import (
    LINE,
    make_owned_by_device,
    name_bytes,
    noncoherent_board,
)

pytestmark = pytest.mark.any_device

LENGTH = 4 * LINE
PROMISE = "cache maintenance"
ENABLE_NO_SNOOP = 1 << 11
# The modes in which a store goes to memory by itself, and in which a load comes from there.
STORES_THROUGH = {CacheMode.WRITE_THRU, CacheMode.WRITE_COMBINE, CacheMode.INHIBIT}
LOADS_THROUGH = {CacheMode.WRITE_COMBINE, CacheMode.INHIBIT}
NAMES = {
    CacheMode.DEFAULT: "kIOMapDefaultCache",
    CacheMode.INHIBIT: "kIOMapInhibitCache",
    CacheMode.WRITE_THRU: "kIOMapWriteThruCache",
    CacheMode.COPYBACK: "kIOMapCopybackCache",
    CacheMode.WRITE_COMBINE: "kIOMapWriteCombineCache",
}
modes = pytest.mark.parametrize("mode", list(EFFECTIVE), ids=lambda mode: mode.name)
asked = pytest.mark.parametrize("mode", list(NAMES), ids=lambda mode: mode.name)


@pytest.mark.promise(PROMISE)
@pytest.mark.parametrize("synced", [False, True], ids=["without sync", "with sync"])
@asked
def test_store_then_no_snoop_read(
    noncoherent: NonCoherent, data: Patterns, attest: Attest, mode: CacheMode, synced: bool
) -> None:
    old, new = data.take(LENGTH), data.take(LENGTH)
    memory = make_owned_by_device(noncoherent, mode, kIODirectionInOut, old)
    memory.writeBytes(0, new)
    if synced:
        memory.sync_for_device()
    seen = name_bytes(noncoherent.reads(memory, 0, LENGTH), old, new)
    due = "new bytes" if synced or mode in STORES_THROUGH else "old bytes"
    memory.sync_for_device()
    after = name_bytes(noncoherent.reads(memory, 0, LENGTH), old, new)
    attest(
        PROMISE,
        asked=f"{mode.name}: CPU store, {'sync, ' * synced}no-snoop read: {due}",
        attested=seen,
        kept=(seen, after) == (due, "new bytes"),
        reason=f"the device reads {seen}; after sync_for_device() {after}",
        facts={"mode": NAMES[mode], **({} if synced else {"no-snoop": f"read: {seen}"})},
        evidence="cache",
    )


@pytest.mark.promise(PROMISE)
@pytest.mark.parametrize("synced", [False, True], ids=["without sync", "with sync"])
@asked
def test_no_snoop_write_then_load(
    noncoherent: NonCoherent, data: Patterns, attest: Attest, mode: CacheMode, synced: bool
) -> None:
    old, new = data.take(LENGTH), data.take(LENGTH)
    memory = make_owned_by_device(noncoherent, mode, kIODirectionInOut, old)
    noncoherent.writes(memory, 0, new)
    if synced:
        memory.sync_for_cpu()
    seen = name_bytes(memory.readBytes(0, LENGTH), old, new)
    due = "new bytes" if synced or mode in LOADS_THROUGH else "old bytes"
    memory.sync_for_cpu()
    after = name_bytes(memory.readBytes(0, LENGTH), old, new)
    attest(
        PROMISE,
        asked=f"{mode.name}: no-snoop write, {'sync, ' * synced}CPU load: {due}",
        attested=seen,
        kept=(seen, after) == (due, "new bytes"),
        reason=f"the CPU loads {seen}; after sync_for_cpu() {after}",
        facts={"mode": NAMES[mode], **({} if synced else {"no-snoop": f"written: {seen}"})},
        evidence="cache",
    )


@contextmanager
def no_snoop_disabled(device: Exerciser) -> Iterator[None]:
    """Clear Enable No Snoop (PCI Express Base 5.0, 7.5.3.4) within the ``with``."""
    place = device.pci.capability(PCI_EXPRESS) + DEVICE_CONTROL
    before = word(device.pci, place)
    device.pci.config_write(place, struct.pack("<H", before & ~ENABLE_NO_SNOOP))
    try:
        yield
    finally:
        device.pci.config_write(place, struct.pack("<H", before))


def transmit(
    board: NonCoherent, memory: IOBufferMemoryDescriptor, data: Patterns, mode: CacheMode,
    *, snooped: bool, asked: bool, sync_first: bool,
) -> None:  # fmt: skip
    """The CPU stores, and the device reads before or after the sync."""
    old = memory.readBytes(0, LENGTH)
    new = data.take(LENGTH)
    memory.writeBytes(0, new)
    if sync_first:
        memory.sync_for_device()
    seen = name_bytes(board.reads(memory, 0, LENGTH, no_snoop=asked), old, new)
    due = "new bytes" if snooped or sync_first or mode in STORES_THROUGH else "old bytes"
    memory.sync_for_device()
    if seen != due:
        raise CheckFailed(
            f"{mode.name}, snooped {snooped}, sync {'before' if sync_first else 'after'} the read: "
            f"the device reads {seen}; due: {due}"
        )


def receive(
    board: NonCoherent, memory: IOBufferMemoryDescriptor, data: Patterns, mode: CacheMode,
    *, snooped: bool, asked: bool, sync_first: bool,
) -> None:  # fmt: skip
    """The device writes, and the CPU loads after or before the sync."""
    old = memory.readBytes(0, LENGTH)
    new = data.take(LENGTH)
    memory.sync_for_device()
    board.writes(memory, 0, new, no_snoop=asked)
    if sync_first:
        memory.sync_for_cpu()
    seen = name_bytes(memory.readBytes(0, LENGTH), old, new)
    due = "new bytes" if snooped or sync_first or mode in LOADS_THROUGH else "old bytes"
    memory.sync_for_cpu()
    after = name_bytes(memory.readBytes(0, LENGTH), old, new)
    if (seen, after) != (due, "new bytes"):
        raise CheckFailed(
            f"{mode.name}, snooped {snooped}, sync {'before' if sync_first else 'after'} the load: "
            f"the CPU loads {seen}, {after} after the sync; due: {due}, and then new bytes"
        )


@pytest.mark.promise(PROMISE)
@pytest.mark.parametrize("enabled", [True, False], ids=["enabled", "EnableNoSnoop clear"])
@pytest.mark.parametrize(
    "direction", [kIODirectionIn, kIODirectionOut, kIODirectionInOut], ids=["In", "Out", "InOut"]
)
@modes
def test_snoop_and_order_in_each_direction(
    noncoherent: NonCoherent, data: Patterns, attest: Attest, mode: CacheMode,
    direction: IODirection, enabled: bool,
) -> None:  # fmt: skip
    """Snooped or not, the sync before or after: with EnableNoSnoop clear all of it is snooped.

    Nothing is where the profile says that no cache follows the device.
    """
    memory = make_owned_by_device(noncoherent, mode, direction, data.take(LENGTH))
    ways = [receive] * bool(int(direction) & 1) + [transmit] * bool(int(direction) & 2)
    cells = list(product(ways, (False, True), (False, True)))

    def run() -> None:
        for way, asked, sync_first in cells:
            snooped = noncoherent.bench.limits.coherent and not (asked and enabled)
            way(
                *(noncoherent, memory, data, mode),
                snooped=snooped,
                asked=asked,
                sync_first=sync_first,
            )

    if enabled:
        run()
    else:
        with no_snoop_disabled(noncoherent.bench.device):
            run()
    snoop = "no-snoop" if enabled else "EnableNoSnoop clear"
    attest(
        PROMISE,
        asked=f"{mode.name}, direction {int(direction)}, {snoop}",
        attested=f"{len(cells)} accesses as due: snooped or not, the sync before or after",
        kept=True,
        evidence="cache",
    )


@pytest.mark.snooped
@pytest.mark.unlimited("alignment")
@pytest.mark.promise(PROMISE)
@modes
def test_snooped_write_then_no_snoop_read(
    noncoherent: NonCoherent, data: Patterns, attest: Attest, mode: CacheMode
) -> None:
    """A snooped write reaches memory as well, and takes nothing else of the line along."""
    old, new = data.take(LENGTH), data.take(LINE // 2)
    memory = make_owned_by_device(noncoherent, mode, kIODirectionInOut, old)
    noncoherent.writes(memory, LINE + 7, new, no_snoop=False)
    due = old[: LINE + 7] + new + old[LINE + 7 + len(new) :]
    seen = noncoherent.reads(memory, 0, LENGTH)
    loaded = memory.readBytes(0, LENGTH)
    attest(
        PROMISE,
        asked=f"{mode.name}: snooped write of {len(new)} bytes, no-snoop read of the lines",
        attested=name_bytes(seen, old, due),
        kept=seen == due == loaded,
        reason=f"device: {difference(due, seen)}; CPU: {difference(due, loaded)}",
        evidence="cache",
    )


@pytest.mark.promise(PROMISE)
@pytest.mark.usefixtures("noncoherent")
def test_untracked_memory_moves_nothing(bench: DmaChecker, data: Patterns, attest: Attest) -> None:
    """In strict mode, not even the tracked part."""
    old = data.take(LINE)
    address = bench.staging.getPhysicalAddress()
    bench.staging.writeBytes(0, old)
    reasons = [
        bench.refused_dma(
            DmaReason.CACHE_UNTRACKED, address, LINE, write_memory=write, no_snoop=True
        ).reason
        for write in (False, True)
    ]
    wrong = difference(old, bench.staging.readBytes(0, LINE))
    attest(
        PROMISE,
        asked="no-snoop access to memory that no buffer tracks",
        attested=", ".join(each.name for each in reasons),
        kept=reasons == [DmaReason.CACHE_UNTRACKED] * 2 and not wrong,
        reason=wrong,
        evidence="refusal",
    )


@pytest.mark.kernel
@pytest.mark.promise(PROMISE)
def test_buffer_of_the_kernel(noncoherent: NonCoherent, data: Patterns, attest: Attest) -> None:
    """Tracked through the kernel's own mapping; it stores, the device reads without a snoop."""
    memory = noncoherent.buffer(kIODirectionInOut, LENGTH, task=kernel_task)
    first, second = data.take(LENGTH), data.take(LENGTH)
    memory.writeBytes(0, first)
    memory.sync_for_device()
    memory.writeBytes(0, second)
    stale = name_bytes(noncoherent.reads(memory, 0, LENGTH), first, second)
    memory.sync_for_device()
    fresh = name_bytes(noncoherent.reads(memory, 0, LENGTH), first, second)
    attest(
        PROMISE,
        asked="kernel_task: the kernel stores, no-snoop read before and after the sync",
        attested=f"{stale}, {fresh}",
        kept=(stale, fresh) == ("old bytes", "new bytes"),
        evidence="cache",
    )


@pytest.mark.unlimited("alignment", "segments")
@pytest.mark.promise(PROMISE)
def test_chance_is_the_seed_s(bench: DmaChecker, data: Patterns, attest: Attest) -> None:
    """Evictions show device bytes early or not: the same seed does the same, another one differs.

    With every sync in its place the data are right all the same, and nothing is reported.
    """
    size = 64 * LINE
    old, new = data.take(size), data.take(size)
    runs = []
    for seed in (5, 5, 6):
        with noncoherent_board(bench, CacheModelMode.SEEDED, seed=seed) as board:
            memory = make_owned_by_device(board, CacheMode.COPYBACK, kIODirectionInOut, old)
            board.writes(memory, 0, new)
            memory.sync_for_device()
            early = memory.readBytes(0, size)
            memory.sync_for_cpu()
            if memory.readBytes(0, size) != new:
                raise CheckFailed(f"seed {seed}: other bytes than the device wrote, after the sync")
            runs.append(early)
    lines = [
        sum(run[at : at + LINE] == new[at : at + LINE] for at in range(0, size, LINE))
        for run in runs
    ]
    attest(
        PROMISE,
        asked="seeds 5, 5, 6: which of 64 lines show the device's bytes without a sync",
        attested=f"{lines} lines",
        kept=runs[0] == runs[1] != runs[2] and all(0 < each < 64 for each in lines),
        reason="the runs of one seed differ, or those of two do not, or no line is evicted",
        evidence="cache",
    )
