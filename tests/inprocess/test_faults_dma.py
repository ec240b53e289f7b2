# SPDX-License-Identifier: Apache-2.0
"""Each fault of DMA commands breaks what its name says, as a device on the bus sees it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dma_rehearsal.guest.faults import dma
from dma_rehearsal.guest.iobuffer.base.options import IODirection
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.descriptors import sub_descriptor
from dma_rehearsal.guest.iobuffer.dma.bounce_buffer import Bounce
from dma_rehearsal.guest.iobuffer.dma.command import IODMACommand, MappingOptions, Specification
from dma_rehearsal.guest.iobuffer.dma.prepared_transfer import Prepared
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.host_harness.faults import find
from tests.inprocess.rig.machine import Machine
from tests.inprocess.rig.suite_run import SuiteRunner
from tests.unit.guest.scattered import IN, OUT, Bus, Scattered

pytest_plugins = ["pytester"]

HIGH = 0x1_4000_0000
CONTENT = bytes(range(1, 201))


@pytest.fixture(autouse=True)
def _sound_again() -> Iterator[None]:
    sound = [
        (kind, name, getattr(kind, name))
        for kind, name in (
            (Bounce, "copy_back"),
            (Bounce, "copy_out"),
            (Specification, "reaches"),
            (Specification, "_piece"),
            (Prepared, "generate"),
            (sub_descriptor, "hold"),
            (IODMACommand, "_is_non_coherent"),
            (Prepared, "check_generated"),
            (Prepared, "newer"),
        )
    ]
    yield
    for kind, name, method in sound:
        setattr(kind, name, method)


@pytest.fixture
def bus() -> Iterator[Bus]:
    made = Bus()
    yield made
    made.close()


def narrow(bus: Bus, memory: Scattered) -> IODMACommand:
    command = IODMACommand(
        Specification.of_device(address_bits=32, boundary=64), bounce_allocator=bus.bounce
    )
    memory.prepare()
    command.setMemoryDescriptor(memory)
    return command


def written(bus: Bus) -> bytes:
    """Return the bytes of memory above the limit after a device has written there."""
    memory = Scattered(bus, [HIGH], len(CONTENT), IN)
    with narrow(bus, memory) as command:
        bus.write(command.genIOVMSegments(0, 99)[0], CONTENT)
    memory.complete()
    return memory.readBytes(0, len(CONTENT))


def read(bus: Bus) -> tuple[bytes, bytes]:
    """Return the bytes that a device reads of such memory, and its bytes afterwards."""
    memory = Scattered(bus, [HIGH], len(CONTENT), OUT)
    memory.writeBytes(0, CONTENT)
    with narrow(bus, memory) as command:
        seen = bus.read(command.genIOVMSegments(0, 99)[0])
    memory.complete()
    return seen, memory.readBytes(0, len(CONTENT))


def segments(bus: Bus) -> list[tuple[int, int]]:
    memory = Scattered(bus, [HIGH], PAGE, OUT)
    with narrow(bus, memory) as command:
        found, _ = command.genIOVMSegments(0, 99)
    memory.complete()
    return found


def granted_for_a_part(bus: Bus) -> list[tuple[int, int]]:
    """Return the grants while 8 bytes of a page are prepared."""
    memory = Scattered(bus, [HIGH], PAGE, OUT)
    granted: list[tuple[int, int]] = []

    class Control:
        def grant(self, address: int, length: int, _: IODirection) -> object:
            granted.append((address, length))
            return granted

        def withdraw(self, grant: object) -> None:
            assert grant is granted

        def reclaim(self) -> None: ...

    before, dma_platform.access_control = dma_platform.access_control, Control()
    try:
        with sub_descriptor.IOSubMemoryDescriptor.withSubRange(memory, 8, 8, OUT) as part:
            part.prepare()
    finally:
        dma_platform.access_control = before
    return granted


def test_sound(bus: Bus) -> None:
    assert written(bus) == CONTENT
    bus.live[-1].release()
    assert read(bus) == (CONTENT, CONTENT)
    bus.live[-1].release()
    assert granted_for_a_part(bus) == [(HIGH + 8, 8)]
    bus.live[-1].release()
    found = segments(bus)
    assert len(found) == PAGE // 64
    assert max(found)[0] < 1 << 32


@pytest.mark.parametrize("name", dma.IMPLEMENTATIONS)
def test_fault(bus: Bus, name: str) -> None:
    dma.IMPLEMENTATIONS[name]()
    if name == "allocator-bounce-not-copied-back":
        assert written(bus) == bytes(len(CONTENT))
    elif name == "allocator-bounce-wrong-direction":
        assert read(bus) == (bytes(len(CONTENT)), bytes(len(CONTENT)))
    elif name == "allocator-mask-ignored":
        assert segments(bus)[0] == (HIGH, 64)
    elif name == "allocator-part-grants-all":
        assert granted_for_a_part(bus) != [(HIGH + 8, 8)]
    elif name == "allocator-non-coherent-ignored":
        specification = Specification(mapping=MappingOptions.kNonCoherent)
        with IODMACommand(specification) as command:
            assert not command._is_non_coherent()
    elif name == "allocator-list-cut-unnoticed":
        memory = Scattered(bus, [HIGH], PAGE, OUT)
        command = narrow(bus, memory)
        command.genIOVMSegments(0, 1)
        command.complete()
        memory.complete()
    elif name == "allocator-bounce-data-forgotten":
        memory = Scattered(bus, [HIGH], PAGE, IN)
        with narrow(bus, memory):
            assert memory._newer_elsewhere(0, PAGE) == ""
        memory.complete()
    else:
        assert [length for _, length in segments(bus)] == [PAGE]


@pytest.mark.fires("name", neighbour="tests/inprocess/test_whole_suite.py::test_sound_devices")
@pytest.mark.parametrize("name", dma.IMPLEMENTATIONS)
def test_the_guests_tests_see_it(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    dma.IMPLEMENTATIONS[name]()
    fault = find(name)
    selected = fault.tests[0].removesuffix(".py")
    broken = SuiteRunner(pytester, monkeypatch).run(Machine, "-k", selected).broken
    assert broken == set(fault.promises)
