# SPDX-License-Identifier: Apache-2.0
"""The last close of a function's file stops the function: no DMA outlives who could start it."""

from __future__ import annotations

import mmap
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.device.layout import HOLD_ON, DmaCtl, DmaReason, Ext, Reg
from dma_rehearsal.guest.drivers.exerciser import Exerciser, find
from dma_rehearsal.guest.drivers.exerciser_features import HeldDma, held_dma
from dma_rehearsal.guest.faults.driver import driver_fault
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.os.driver import Driver
from dma_rehearsal.guest.linux.page_frames import HUGE, MAP_HUGETLB
from dma_rehearsal.guest.testkit import Attest, DmaChecker, OtherProcess, Patterns, difference
from dma_rehearsal.guest.testkit.pinning import address_of, device_sees, mapped, used_hugepages

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.unprotected,
    pytest.mark.unlimited("addresses"),  # pages are wherever the kernel finds them
]

STOPPED = "stopped at the last close"
OUTLIVED = "pages outlive their device's work"
STEP = 256  # bytes
RESET_TRIES = 50  # of one close, dma_rehearsal_pci.c


def second() -> Exerciser:
    """Open the exerciser that no fixture holds."""
    return Exerciser(find(1))


@pytest.fixture(autouse=True)
def at_rest() -> Iterator[None]:
    """Reset the function afterwards: a test that fails leaves no DMA in flight to the next."""
    yield
    with second() as device:
        device.reset()


def holds_a_dma(
    memory: mmap.mmap, content: bytes, *, pin_first: bool = False, forks: bool = False
) -> Callable[..., Any]:
    """Return what a process does that will be killed with a DMA to ``memory`` in flight.

    ``pin_first``: in which order it opens the files, and so in which the kernel closes them.
    ``forks``: it has a child by then, which lives on, and whose process id it says.
    """

    def body(ask: Callable[[], Any]) -> Iterator[Any]:
        with Driver() as driver:
            pin = driver.pin(address_of(memory), PAGE) if pin_first else None
            device = second()
            pin = pin or driver.pin(address_of(memory), PAGE)
            device.buffer[:PAGE] = content
            with held_dma(device, pin.segments()[0][0], PAGE, write_memory=True) as dma:
                dma.step(STEP)
                yield dma.moved
                ask()
                yield lives_on() if forks else 0
                ask()

    return body


def lives_on() -> int:
    """Fork a child that does nothing until it is killed, and return its process id."""
    begun, begins = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(begins, b"!")
        signal.alarm(120)
        signal.pause()
        os._exit(0)
    os.read(begun, 1)
    return child


@pytest.mark.promise(STOPPED)
@pytest.mark.parametrize("pin_first", [False, True], ids=["function first", "pin first"])
def test_a_killed_process_leaves_no_dma_in_flight(
    bench: DmaChecker, data: Patterns, attest: Attest, pin_first: bool
) -> None:
    """Nothing moves afterwards, neither when STEP is written nor for the next one who opens it."""
    old, new = data.take(PAGE), data.take(PAGE)
    with mapped("memfd", PAGE) as memory:
        memory[:] = old
        with OtherProcess(holds_a_dma(memory, new, pin_first=pin_first)) as other:
            moved = other.hear()
            with bench.device.expects(DmaReason.BUS_MASTER_OFF, count=1):
                other.kill()
        function = find(1)
        bus_master = function.bus_master
        with second() as device:
            again = device.bus_master
            left = device.extension[Ext.HELD_LEFT]
            device.extension[Ext.HOLD] = HOLD_ON
            device.extension[Ext.STEP] = PAGE
            device.extension[Ext.HOLD] = 0
            busy = bool(device.control[Reg.DMACTL] & DmaCtl.TRIGGER_MASK)
        wrong = difference(new[:STEP] + old[STEP:], memory[:])
    attest(
        STOPPED,
        asked=f"killed after {moved} of {PAGE} bytes: bus mastering off, and nothing is left of it",
        attested=f"bus mastering {bus_master}, {left} bytes to go, busy {busy}; then {again}",
        kept=(moved, bus_master, again, left, busy) == (STEP, False, True, 0, False) and not wrong,
        reason=wrong,
    )


@pytest.mark.promise(STOPPED)
@pytest.mark.parametrize("tries", [3, RESET_TRIES + 3], ids=["in time", "at the next open"])
def test_a_reset_that_finds_the_device_busy_is_tried_again(
    bench: DmaChecker, data: Patterns, attest: Attest, tries: int
) -> None:
    """Without bus mastering nothing moves, but the next one who opens it finds a device at rest."""
    busy = Path("/sys/module/dma_rehearsal/parameters/busy_resets")
    old, new = data.take(PAGE), data.take(PAGE)
    with mapped("memfd", PAGE) as memory:
        memory[:] = old
        with OtherProcess(holds_a_dma(memory, new)) as other:
            moved = other.hear()
            busy.write_text(f"{tries}")
            with bench.device.expects(DmaReason.BUS_MASTER_OFF, count=1):
                other.kill()
        left = int(busy.read_text())
        with second() as device:
            holds = device.extension[Ext.HOLD]
        wrong = difference(new[:STEP] + old[STEP:], memory[:])
    attest(
        STOPPED,
        asked=f"killed after {moved} of {PAGE} bytes, and {tries} tries of the reset are refused",
        attested=f"{tries - left} were refused at the close; the next one finds HOLD {holds:#x}",
        kept=(moved, left, holds) == (STEP, max(0, tries - RESET_TRIES), 0) and not wrong,
        reason=wrong,
    )


@pytest.mark.promise(STOPPED)
def test_a_function_that_nobody_has_opened_does_no_dma(data: Patterns, attest: Attest) -> None:
    """The driver takes the function, and turns bus mastering on when a process opens it."""
    function, content = find(1), data.take(PAGE)
    driver = Path("/sys/bus/pci/drivers/dma_rehearsal")
    (driver / "unbind").write_text(function.address)
    unbound = function.bus_master
    (driver / "bind").write_text(function.address)
    bound = function.bus_master
    with mapped("memfd", PAGE) as memory, Driver() as other:
        with other.pin(address_of(memory), PAGE) as pin, second() as device:
            device.buffer[:PAGE] = content
            record = device.dma(pin.segments()[0][0], PAGE, write_memory=True)
        wrong = difference(content, memory[:])
    attest(
        STOPPED,
        asked="bus mastering without a driver, with one, and when a process has opened the file",
        attested=f"{unbound}, {bound}, {record.reason.name}",
        kept=(unbound, bound, record.ok) == (False, False, True) and not wrong,
        reason=wrong,
    )


@pytest.mark.promise(STOPPED)
def test_a_child_that_lives_on_keeps_no_dma_in_flight(
    bench: DmaChecker, data: Patterns, attest: Attest
) -> None:
    """A fork does not get the function's file: the killed process's close is the last one."""
    old, new = data.take(PAGE), data.take(PAGE)
    with mapped("memfd", PAGE) as memory:
        memory[:] = old
        with OtherProcess(holds_a_dma(memory, new, forks=True)) as other:
            moved = other.hear()
            other.tell()
            child = other.hear()
            try:
                with bench.device.expects(DmaReason.BUS_MASTER_OFF, count=1):
                    other.kill()
                bus_master = find(1).bus_master
            finally:
                os.kill(child, signal.SIGKILL)
        wrong = difference(new[:STEP] + old[STEP:], memory[:])
    attest(
        STOPPED,
        asked=f"killed after {moved} of {PAGE} bytes, and its child lives: bus mastering off",
        attested=f"bus mastering {bus_master}",
        kept=(moved, bus_master) == (STEP, False) and not wrong,
        reason=wrong,
    )


@pytest.mark.promise(STOPPED)
def test_a_function_that_somebody_else_has_open_goes_on(data: Patterns, attest: Attest) -> None:
    """The neighbour's DMA in flight ends as it began, though a process that shares it is killed."""

    def body(ask: Callable[[], Any]) -> Iterator[Any]:
        with second() as device:
            yield device.bus_master
            ask()

    old, new = data.take(PAGE), data.take(PAGE)
    with mapped("memfd", PAGE) as memory, Driver() as driver, second() as device:
        memory[:] = old
        device.buffer[:PAGE] = new
        with driver.pin(address_of(memory), PAGE) as pin:
            before = device.dma_count
            device.extension[Ext.HOLD] = HOLD_ON
            device.start_dma(pin.segments()[0][0], PAGE, write_memory=True)
            dma = HeldDma(device, before)
            dma.step(STEP)
            with OtherProcess(body) as other:
                other.hear()
                other.kill()
            on, moved = device.bus_master, dma.moved
            dma.step(PAGE)
            record = dma.record()
            device.extension[Ext.HOLD] = 0
        wrong = difference(new, memory[:])
    attest(
        STOPPED,
        asked="one of two that have it open is killed, and the other one's DMA goes on",
        attested=f"bus mastering {on}; {moved}, then {record.moved} bytes, {record.reason.name}",
        kept=on and moved == STEP and record.ok and not wrong,
        reason=wrong,
    )


def pins_a_huge_page(content: bytes, *, closes: bool) -> Callable[..., Any]:
    """Return what a process does that pins a huge page, and then may close the pin."""

    def body(ask: Callable[[], Any]) -> Iterator[Any]:
        memory = mmap.mmap(-1, HUGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_HUGETLB)
        memory[: len(content)] = content
        with Driver() as driver:
            pin = driver.pin(address_of(memory), HUGE)
            yield pin.segments()[0][0]
            ask()
            if closes:
                pin.close()
            yield
            ask()

    return body


@pytest.mark.promise(OUTLIVED)
@pytest.mark.parametrize("closes", [False, True], ids=["killed", "closed, then killed"])
def test_pinned_pages_of_the_dead_wait_for_the_device(
    bench: DmaChecker, data: Patterns, attest: Attest, closes: bool
) -> None:
    """A function that was open by then may still do DMA there: they stay until it stops."""
    bench.device.driver.close()  # what processes of earlier tests left comes back
    assert bench.device.driver.info().bus_master
    with mapped("hugetlb", HUGE):
        used, content = used_hugepages(), data.take(PAGE)
        with OtherProcess(pins_a_huge_page(content, closes=closes)) as other:
            place = [(other.hear(), PAGE)]
            device_sees(bench, place, content)
            other.tell()
            other.hear()
            other.kill()
        waiting = used_hugepages() - used
        if waiting:
            device_sees(bench, place, content)
        bench.device.driver.close()
        bus_master = bench.device.bus_master
        left = used_hugepages() - used
        again = bench.device.driver.info().bus_master  # opens it anew
    attest(
        OUTLIVED,
        asked=f"a page whose pin was {'closed' if closes else 'left'} by a killed process",
        attested=f"{waiting} held while the function runs, {left} after its last close",
        kept=(waiting, left, bus_master, again) == (0 if closes else 1, 0, False, True),
        reason=f"{waiting} held, then {left}; bus mastering {bus_master}, then {again}",
    )


@pytest.mark.promise("unpinned pages")
def test_a_fault_that_comes_or_goes_meanwhile_unpins_once(
    bench: DmaChecker, data: Patterns, attest: Attest
) -> None:
    """Whether a pin holds its pages is decided when it is made."""
    content = data.take(PAGE)
    with mapped("hugetlb", HUGE) as memory, Driver() as driver:
        before = used_hugepages()
        memory[:PAGE] = content
        used = used_hugepages()
        with driver_fault("pin_does_not_pin"):
            broken = driver.pin(address_of(memory), HUGE)
        broken.close()
        kept = memory[:PAGE] == content and used_hugepages() == used
        whole = driver.pin(address_of(memory), HUGE)
        device_sees(bench, [(whole.segments()[0][0], PAGE)], content)
        memory.close()
        with driver_fault("pin_does_not_pin"):
            whole.close()
        left = used_hugepages() - before
    attest(
        "unpinned pages",
        asked="a pin made with the fault and ended without it, and the other way round",
        attested=f"the page is {'there' if kept else 'gone'}; {left} pages stay pinned",
        kept=kept and left == 0,
    )
