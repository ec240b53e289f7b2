# SPDX-License-Identifier: Apache-2.0
"""The module's pins, used directly: pages stay, and everybody sees the same."""

from __future__ import annotations

import mmap
import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.os.driver import Driver
from dma_rehearsal.guest.iobuffer.os.pin import Pin
from dma_rehearsal.guest.linux import page_frames
from dma_rehearsal.guest.linux.page_frames import HUGE, MAP_HUGETLB, PageRegion
from dma_rehearsal.guest.linux.swap import zram_swap
from dma_rehearsal.guest.testkit import Attest, DmaChecker, Patterns, difference
from dma_rehearsal.guest.testkit.pinning import (
    PINNED,
    address_of,
    device_sees,
    device_stores,
    mapped,
    used_hugepages,
)

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.unprotected,
    pytest.mark.any_device,
    pytest.mark.unlimited("addresses"),  # pages are wherever the kernel finds them
]

UNPINNED = "unpinned pages"


@pytest.mark.unlimited("alignment")
@pytest.mark.promise(PINNED)
@pytest.mark.parametrize("kind", ["anonymous", "memfd", "hugetlb"])
def test_process_kernel_and_device_see_the_same_bytes(
    bench: DmaChecker, data: Patterns, attest: Attest, kind: str
) -> None:
    offset, length = 3 * PAGE + 100, 20 * PAGE + 77
    with mapped(kind, 30 * PAGE) as memory:
        sent, received, stored = (data.take(length) for _ in range(3))
        memory[offset : offset + length] = sent
        with bench.driver.pin(address_of(memory) + offset, length) as pin:
            segments = pin.segments()
            assert kind == "hugetlb" or len(segments) > 10, "so that their order matters"
            device_sees(bench, segments, sent)
            found = difference(sent, pin.read(0, length))
            assert not found, f"the kernel finds other bytes than the process stored: {found}"
            device_stores(bench, segments, received)
            found = difference(received, memory[offset : offset + length])
            assert not found, f"the process finds other bytes than the device stored: {found}"
            with pin.kernel_map() as kernel:
                kernel.write(0, stored)
                device_sees(bench, segments, stored)
                assert memory[offset : offset + length] == stored
                pin.write(1000, sent[:9000])
                assert kernel.read(1000, 9000) == sent[:9000]
    attest(
        PINNED,
        asked=f"{length} bytes of {kind} memory from offset {offset % PAGE} of a page on",
        attested=f"{len(segments)} segments, each read and written by the device",
        kept=True,
    )


def collapse(*regions: PageRegion) -> None:
    for region in regions:
        region.collapse()


def page_out(*regions: PageRegion) -> None:
    for region in regions:
        region.page_out()


def moved(before: list[int | None], after: list[int | None]) -> int:
    """Return how many pages have moved, or have no frame any more."""
    if before == after:
        return 0
    return sum(a is not None and a != b for a, b in zip(before, after, strict=True))


def pages_moved(
    move: Callable[..., None], control: PageRegion, pinned: PageRegion
) -> tuple[int, int]:
    """Have the kernel move pages of both; return how many of each it moved."""
    before = control.frames(), pinned.frames()
    move(control, pinned)
    after = control.frames(), pinned.frames()
    return moved(before[0], after[0]), moved(before[1], after[1])


@pytest.mark.promise(PINNED)
@pytest.mark.parametrize(
    ("move", "beside", "length"),
    [(collapse, HUGE, HUGE), (page_out, 64 * PAGE, 64 * PAGE)],
    ids=["collapse", "paging out"],
)
def test_pinned_pages_stay(
    bench: DmaChecker,
    data: Patterns,
    attest: Attest,
    move: Callable[..., None],
    beside: int,
    length: int,
) -> None:
    with zram_swap(16), PageRegion(beside) as control, PageRegion(length) as pinned:
        expected = data.take(length)
        pinned.write(0, expected)
        with bench.driver.pin(pinned.address, length) as pin:
            segments = pin.segments()
            others, ours = pages_moved(move, control, pinned)
            assert others > 0, (
                "nothing was moved at all, so this does not show that pinned pages stay"
            )
            if ours:
                attest.broken(
                    PINNED,
                    asked=f"{pin.pages} pages stay, by {move.__name__}",
                    attested=f"{ours} moved",
                    reason="a device would reach the old ones",
                )
            device_sees(bench, segments, expected)
            assert pinned.read(0, length) == expected
    attest(
        PINNED,
        asked=f"{length // PAGE} pages stay, by {move.__name__}",
        attested=f"0 moved, and {others} unpinned ones",
        kept=True,
    )


@pytest.mark.promise(PINNED)
def test_compaction_leaves_pinned_pages(bench: DmaChecker, data: Patterns, attest: Attest) -> None:
    """Of the pages between holes every other run is pinned.

    Compaction moves what is low in memory, if there is room higher up: so take most of memory.
    """
    part = HUGE // 4
    with PageRegion(128 * HUGE, holes=True) as region, ExitStack() as stack:
        runs = range(HUGE - part, region.length, HUGE)
        pins = {
            offset: stack.enter_context(bench.driver.pin(region.address + offset, part))
            for offset in runs[::2]
        }
        expected = data.take(part)
        region.write(runs[0], expected)
        before = {offset: region.frames(offset, part) for offset in runs}
        page_frames.compact_memory()
        ours = others = 0
        for offset in runs:
            count = moved(before[offset], region.frames(offset, part))
            ours, others = (ours + count, others) if offset in pins else (ours, others + count)
        asked = f"{len(pins) * part // PAGE} pages stay, by compaction"
        assert others > 0, "nothing was moved at all, so this does not show that pinned pages stay"
        if ours:
            attest.broken(
                PINNED,
                asked=asked,
                attested=f"{ours} moved",
                reason="a device would reach the old ones",
            )
        device_sees(bench, pins[runs[0]].segments(), expected)
    attest(PINNED, asked=asked, attested=f"0 moved, and {others} unpinned ones", kept=True)


@pytest.mark.promise(UNPINNED)
def test_unpinned_pages_move_again(bench: DmaChecker, data: Patterns, attest: Attest) -> None:
    length = 64 * PAGE
    with zram_swap(16), PageRegion(length) as region:
        expected = data.take(length)
        region.write(0, expected)
        with bench.driver.pin(region.address, length) as pin:
            device_sees(bench, pin.segments(), expected)
            kernel = pin.kernel_map()
        with kernel:
            before = region.frames()
            region.page_out()
            assert region.frames() == before, "a kernel mapping of the pin holds it"
        region.page_out()
        away = region.frames().count(None)
        assert region.read(0, length) == expected
    attest(
        UNPINNED,
        asked="64 pages can be paged out after the last close",
        attested=f"{away} were",
        kept=away == length // PAGE,
    )


@pytest.mark.promise(UNPINNED)
def test_a_pin_outlives_its_process_and_leaks_nothing(
    bench: DmaChecker, data: Patterns, attest: Attest
) -> None:
    """The killed process's huge page stays as long as a process has the descriptor."""
    with mapped("hugetlb", HUGE):
        expected = data.take(PAGE)
        used = used_hugepages()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            child = os.fork()
            if child == 0:
                try:
                    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_HUGETLB
                    memory = mmap.mmap(-1, HUGE, flags)
                    memory[:PAGE] = expected
                    with Driver() as driver:
                        pin = driver.pin(address_of(memory), HUGE)
                    socket.send_fds(theirs, [b"x"], [pin.fileno()])
                    signal.pause()
                finally:
                    os._exit(1)
            try:
                _, fds, _, _ = socket.recv_fds(ours, 1, 1)
            finally:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        with Pin.from_fd(fds[0]) as pin:
            device_sees(bench, [(pin.segments()[0][0], PAGE)], expected)
            assert pin.read(0, PAGE) == expected
            held = used_hugepages() - used
        left = used_hugepages() - used
    attest(
        UNPINNED,
        asked="a killed process's pin: held while we have it, then given back",
        attested=f"{held} huge page held, then {left}",
        kept=(held, left) == (1, 0),
    )
