# SPDX-License-Identifier: Apache-2.0
"""Interrupts: MSI-X on every vector, and INTx; each as often as it is due, and nowhere else."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from dma_rehearsal.device.layout import ExerciserBar, Reg
from dma_rehearsal.guest.drivers.exerciser import Exerciser, IntxInterrupt
from dma_rehearsal.guest.iobuffer import IOBusyError
from dma_rehearsal.guest.iobuffer.os.driver import Interrupts
from dma_rehearsal.guest.linux import processors
from dma_rehearsal.guest.linux.kernel_cmdline import device_parameters
from dma_rehearsal.guest.session import SETTINGS
from dma_rehearsal.guest.testkit import Attest, CheckFailed
from dma_rehearsal.guest.testkit.config_space import MSIX, word
from dma_rehearsal.guest.testkit.interrupts import (
    WAIT_S,
    counts_after_settling,
    differences,
    every_vector,
    settle_msix,
)

MSIX_CONTROL, FUNCTION_MASK = 0x02, 1 << 14
GRANTED_MAX = 32  # vectors, by the driver; VFIO grants them all
HAS = device_parameters().vectors
TRIED = min(HAS, GRANTED_MAX)  # one by one
PULSES, PULSE_WAIT_S = 3, 0.5
STORM = 100  # interrupts; thousands are one, and others may share the line


@pytest.fixture
def granted(pytestconfig: pytest.Config) -> int:
    """Return how many vectors are due."""
    return HAS if pytestconfig.stash[SETTINGS].behind_iommu else TRIED


@pytest.mark.iommu_too
@pytest.mark.promise("MSI-X")
def test_msix_has_every_vector_of_the_device(
    device: Exerciser, attest: Attest, granted: int
) -> None:
    """The tests below are one for each of these; the last one says here that it is there."""
    has = device.pci.msix_vectors
    info = device.driver.info()
    with device.eventfd(max(info.vectors, 1) - 1) as last:
        device.interrupt(granted - 1)
        arrived = last.wait(WAIT_S)
    attest(
        "MSI-X",
        asked=f"{HAS} vectors, {granted} of them granted",
        attested=f"the device has {has}, {info.vectors} are granted; on the last: {arrived}",
        kept=(has, info.vectors) == (HAS, granted)
        and info.interrupts is Interrupts.MSIX
        and arrived == 1,
        evidence="interrupt",
    )


@pytest.mark.iommu_too
@pytest.mark.promise("MSI-X")
@pytest.mark.parametrize("vector", range(TRIED))
def test_msix_reaches_its_eventfd_once(device: Exerciser, attest: Attest, vector: int) -> None:
    with every_vector(device) as vectors:
        if vector >= len(vectors):
            raise CheckFailed(f"only {len(vectors)} vectors are granted")
        device.interrupt(vector)
        first = vectors[vector].wait(WAIT_S)
        counts, due = counts_after_settling(device, vectors, {vector: first})
    wrong = differences(counts, due)
    attest(
        "MSI-X",
        asked=f"vector {vector} of {len(vectors)}, once",
        attested=f"{counts[vector]} on it; {wrong or 'none on another'}",
        kept=not wrong,
        reason=wrong,
        evidence="interrupt",
    )


@pytest.mark.promise("MSI-X")
def test_function_mask_keeps_messages_pending(device: Exerciser, attest: Attest) -> None:
    """PCI Local Bus 3.0, 6.8.2.3: a bit of the array is set meanwhile, and one message goes.

    QEMU masks too, so it is the array that tells what the device does.
    """
    place = device.pci.capability(MSIX) + MSIX_CONTROL
    control = word(device.pci, place)
    array = device.pci.bar(ExerciserBar.MSIX_PBA)
    with device.eventfd(0) as vector, device.eventfd(1) as fence:
        device.pci.config_write(place, struct.pack("<H", control | FUNCTION_MASK))
        try:
            before = array[0]
            device.interrupt(0)
            device.interrupt(0)
            masked = array[0]
            processors.run_on_each()
            held = vector.wait(0)
        finally:
            device.pci.config_write(place, struct.pack("<H", control))
        freed = vector.wait(WAIT_S)
        settle_msix(device, fence)
        more, after = vector.wait(0), array[0]
    attest(
        "MSI-X",
        asked="vector 0, twice, while the function is masked",
        attested=f"{held} interrupts, pending bits {before:#x}, {masked:#x}; then {freed + more}, "
        f"{after:#x}",
        kept=(held, freed + more) == (0, 1) and (before, masked, after) == (0, 1, 0),
        evidence="interrupt",
    )


def line_state(device: Exerciser) -> str:
    """Say what Interrupt Status and Interrupt Disable are."""
    status = "up" if device.pci.interrupt_status else "down"
    return f"{status}, {'held back' if device.pci.interrupt_disable else 'let through'}"


def settled_count(device: Exerciser, line: IntxInterrupt) -> int:
    """Return the interrupts since the last count, when what the device sent has arrived.

    INTx is a message that the answer to a register read cannot overtake (PCI Express Base 5.0,
    section 2.4.1). QEMU hands it on a little later. There `line_state` tells: the line is up as
    long as Interrupt Status is set.
    """
    device.read_register(Reg.INTXCTL)
    processors.run_on_each()
    return line.wait(0)


@pytest.mark.any_device
@pytest.mark.promise("INTx")
def test_intx_is_a_level(device: Exerciser, attest: Attest) -> None:
    """One signal for each unmask while the line is up, and none when it is down."""
    seen: list[str] = []

    def step(name: str, count: int, due: int, state: str) -> None:
        found = line_state(device)
        seen.append(f"{name}: {count}")
        if (count, found) != (due, state):
            raise CheckFailed(f"{name}: {count} interrupts, {found}; not {due}, {state}")

    with device.intx() as line:
        step("at rest", settled_count(device, line), 0, "down, let through")
        line.assert_line()
        step("up", line.wait(WAIT_S), 1, "up, held back")
        step("still up", settled_count(device, line), 0, "up, held back")
        line.unmask()
        step("unmasked while up", line.wait(WAIT_S), 1, "up, held back")
        line.deassert()
        step("down", settled_count(device, line), 0, "down, held back")
        line.unmask()
        step("unmasked", settled_count(device, line), 0, "down, let through")
        line.assert_line()
        step("up again", line.wait(WAIT_S), 1, "up, held back")
    attest(
        "INTx",
        asked="one interrupt for each unmask while the line is up",
        attested=", ".join(seen),
        kept=True,
        evidence="interrupt",
    )


@pytest.mark.any_device
@pytest.mark.iommu_too
@pytest.mark.promise("INTx")
def test_interrupt_disable_holds_intx_back(device: Exerciser, attest: Attest) -> None:
    """PCI Local Bus 3.0, sections 6.2.2 and 6.2.3: Interrupt Status is set all the same."""
    with device.intx() as line:
        device.pci.interrupt_disable = True
        line.assert_line()
        held = settled_count(device, line)
        state = line_state(device)
        device.pci.interrupt_disable = False
        freed = line.wait(WAIT_S)
        line.deassert()
        line.unmask()
        after = settled_count(device, line)
    attest(
        "INTx",
        asked="held back by Interrupt Disable, Interrupt Status set",
        attested=f"{held} interrupts, {state}; {freed} when it is let through, {after} when down",
        kept=(held, freed, after) == (0, 1, 0) and state == "up, held back",
        evidence="interrupt",
    )


@pytest.mark.any_device
@pytest.mark.iommu_too
@pytest.mark.promise("INTx")
def test_intx_is_silent_while_msix_is_in_use(device: Exerciser, attest: Attest) -> None:
    """PCI Local Bus 3.0, section 6.8.2.3: and no vector fires in its place."""
    with every_vector(device) as vectors:
        device.write_register(Reg.INTXCTL, 1)
        try:
            up = device.pci.interrupt_status
            counts, due = counts_after_settling(device, vectors, {})
        finally:
            device.write_register(Reg.INTXCTL, 0)
        down = not device.pci.interrupt_status
    wrong = differences(counts, due)
    attest(
        "INTx",
        asked="no interrupt with MSI-X in use, Interrupt Status set",
        attested=f"{wrong or 'no vector fires'}; status set: {up}, then clear: {down}",
        kept=up and down and not wrong,
        evidence="interrupt",
    )


@pytest.mark.any_device
@pytest.mark.iommu_too
@pytest.mark.promise("INTx")
def test_intx_that_is_over_at_once_is_no_storm(device: Exerciser, attest: Attest) -> None:
    """The handler finds the line down, and an interrupt that nobody owns comes again and again.

    An access to the device ends it. So nothing accesses the device while the test waits for the
    interrupt; a board may well lose a pulse that short.
    """
    with device.intx() as line:
        before = device.pci.line_interrupts()
        signals = []
        for _ in range(PULSES):
            line.assert_line()
            line.deassert()
            signals.append(line.wait(PULSE_WAIT_S))
            line.unmask()
        happened = device.pci.line_interrupts() - before
        settled_count(device, line)
        line.unmask()
        line.assert_line()
        alive = line.wait(WAIT_S)
    attest(
        "INTx",
        asked=f"{PULSES} pulses: no storm",
        attested=f"{happened} interrupts, {sum(signals)} signalled; then {alive}",
        kept=happened <= STORM and max(signals) <= 1 and alive == 1,
        evidence="interrupt",
    )


@pytest.mark.any_device
@pytest.mark.promise("INTx")
def test_intx_goes_back_when_its_file_is_closed(device: Exerciser, attest: Attest) -> None:
    """Another open file takes INTx, keeps others out, and leaves with the line up."""
    refused = []
    with ExitStack() as stack:
        other = stack.enter_context(Exerciser())
        line = stack.enter_context(other.intx())
        forbidden: list[Callable[[], None]] = [
            lambda: device.driver.set_eventfd(0, line.fileno()),
            lambda: device.driver.set_interrupts(Interrupts.MSIX),
            device.driver.unmask,
        ]
        for what in forbidden:
            try:
                what()
                refused.append("no")
            except IOBusyError as error:
                refused.append(error.code.name)
        line.assert_line()
        taken = line.wait(WAIT_S)
        other.close()  # before the line's own close, which would tidy up
    try:
        info = device.driver.info()
        with every_vector(device) as vectors:
            counts, due = counts_after_settling(device, vectors, {})
    finally:
        device.write_register(Reg.INTXCTL, 0)
    wrong = differences(counts, due)
    attest(
        "INTx",
        asked="one file's, and MSI-X again when that is closed",
        attested=f"{taken} interrupts; others refused: {', '.join(refused)}; "
        f"then {info.interrupts.name}, {wrong or f'{len(vectors)} vectors'}",
        kept=taken == 1
        and set(refused) == {"kIOReturnBusy"}
        and info.interrupts is Interrupts.MSIX
        and len(vectors) == TRIED
        and not wrong,
        evidence="interrupt",
    )


@pytest.mark.promise("MSI-X")
def test_another_file_takes_no_vector(device: Exerciser, attest: Attest) -> None:
    """A vector that has an eventfd keeps it: nobody else puts one in its place, or takes it away.

    The vector beside it is free.
    """
    refused, one, two = [], 0, 1
    with Exerciser() as other, other.eventfd(one) as taken:

        def put() -> None:
            device.eventfd(one).close()

        for what in (put, lambda: device.driver.set_eventfd(one, -1)):
            try:
                what()
                refused.append("no")
            except IOBusyError as error:
                refused.append(error.code.name)
        with device.eventfd(two) as beside:
            for each in taken, beside:
                device.interrupt(each.vector)
            counts = [each.wait(WAIT_S) for each in (taken, beside)]
    with device.eventfd(one) as again:
        device.interrupt(one)
        counts.append(again.wait(WAIT_S))
    attest(
        "MSI-X",
        asked="a vector of another open file's; when that is closed",
        attested=f"refused: {', '.join(refused)}; {counts} interrupts",
        kept=refused == ["kIOReturnBusy"] * 2 and counts == [1, 1, 1],
        evidence="interrupt",
    )


@pytest.mark.iommu_too
@pytest.mark.promise("MSI-X")
def test_msix_works_again_after_intx(device: Exerciser, attest: Attest, granted: int) -> None:
    with device.intx() as line:
        line.assert_line()
        taken = settled_count(device, line)
    with every_vector(device) as vectors:
        last = vectors[-1].vector
        device.interrupt(last)
        first = vectors[-1].wait(WAIT_S)
        counts, due = counts_after_settling(device, vectors, {last: first})
    wrong = differences(counts, due)
    attest(
        "MSI-X",
        asked="every vector, after INTx",
        attested=f"INTx: {taken}; then vector {last} of {len(vectors)}: {counts[last]}",
        kept=len(vectors) == granted and not wrong,
        reason=wrong,
        evidence="interrupt",
    )
