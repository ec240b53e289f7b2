# SPDX-License-Identifier: Apache-2.0
"""The PCI functions under test go before a state is saved, and are found again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dma_rehearsal.guest.agent import pci_functions
from dma_rehearsal.guest.agent.pci_functions import AttachFailed
from tests.unit.guest.agent import fake_pci
from tests.unit.guest.agent.fake_pci import EDU, EXERCISER, OTHER, PLATFORM, FakePci, configuration


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePci:
    found = FakePci(tmp_path / "pci")
    fake_pci.use(found, monkeypatch)
    return found


def test_functions_are_neither_bridges_nor_qemus_virtio(bus: FakePci) -> None:
    assert [folder.name for folder in pci_functions.functions()] == [EXERCISER, EDU, PLATFORM]
    assert bus.removed() == []
    # A model of a virtio device: its state is not in QEMU.
    model = "0000:00:04.0"
    bus.add(model, 0x1AF4, 0x1042, fake_pci.OTHER)
    assert model not in [folder.name for folder in pci_functions.functions()]
    (bus.bus / "devices" / model / "subsystem_vendor").write_text("0x1234\n")
    assert model in [folder.name for folder in pci_functions.functions()]


def test_fingerprint_has_what_tests_may_have_seen(bus: FakePci) -> None:
    exerciser, edu, _ = pci_functions.fingerprint()
    assert exerciser == {
        "address": EXERCISER,
        "vendor": 0x13B5,
        "device": 0xED01,
        "subsystem_vendor": 0x13B5,
        "subsystem_device": 1,
        "revision": 2,
        "class": OTHER,
        "resources": [[0xC0000000, 0xC0000FFF, 0x40200], *[[0, 0, 0]] * 6],
        "interrupts": {"pin": 1, "msi": 4, "msix": 16},
        "driver": "dma_rehearsal",
    }
    assert edu["driver"] is None
    assert json.loads(json.dumps(exerciser)) == exerciser
    (bus.devices / EXERCISER / "resource").write_text("0x20000000 0x20000fff 0x0\n")
    assert pci_functions.fingerprint()[0] != exerciser


def test_list_of_capabilities_without_an_end_is_left(bus: FakePci) -> None:
    space = bytearray(configuration([(0x11, 3)]))
    space[0x41] = 0x40
    (bus.devices / EDU / "config").write_bytes(space)
    assert pci_functions.fingerprint()[1]["interrupts"]["msix"] == 4
    space[0x06] = 0  # the status says that there is no list
    (bus.devices / EDU / "config").write_bytes(space)
    assert pci_functions.fingerprint()[1]["interrupts"] == {"pin": 1, "msi": 0, "msix": 0}


def test_all_functions_under_test_are_removed(bus: FakePci) -> None:
    before = pci_functions.fingerprint()
    bus.process(7, opens="/dev/hvc0", maps="/usr/bin/python3")
    assert pci_functions.detach() is None
    assert bus.removed() == [EXERCISER, EDU, PLATFORM]
    removed = json.loads(pci_functions.DETACHED.read_text())
    assert removed == [{**each, "line": 0} for each in before]


def _resource(bus: FakePci) -> str:
    return str(bus.devices / EXERCISER / "resource0")


def _configuration(bus: FakePci) -> str:
    return str(bus.devices / fake_pci.ROOT_PORT / PLATFORM / "config")


def _device_file(bus: FakePci) -> str:
    """Return a device file of this machine, as one that belongs to a function of the bus."""
    status = Path("/dev/null").stat()
    number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    folder = bus.devices / EXERCISER / "uio" / "uio5"
    folder.mkdir(parents=True)
    (bus.root / "char" / number).symlink_to(folder)
    return "/dev/null"


HELD: list[Callable[[FakePci], str]] = [
    _resource,
    _configuration,
    _device_file,
    lambda _: "/dev/dma-rehearsal-pci0",
    lambda _: "/dev/dma-rehearsal",
    lambda _: "/dev/vfio/3",
    lambda _: "anon_inode:[vfio-device]",
]


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("held", HELD)
def test_nothing_is_removed_while_a_process_holds_a_function(
    bus: FakePci, held: Callable[[FakePci], str], mapped: bool
) -> None:
    path = held(bus)
    bus.process(41)
    bus.process(42, **{"maps" if mapped else "opens": path})
    refused = pci_functions.detach()
    assert refused == f"process 42 (holder) has {path} open or mapped"
    assert bus.removed() == []
    assert not pci_functions.DETACHED.exists()


def test_process_that_ends_meanwhile_holds_nothing(bus: FakePci) -> None:
    (bus.processes / "77").mkdir()
    (bus.processes / "self").mkdir()
    assert pci_functions.detach() is None


def _go(bus: FakePci, *addresses: str) -> None:
    for address in addresses:
        (bus.bus / "devices" / address).unlink()


def test_functions_are_back_after_a_scan(bus: FakePci) -> None:
    assert pci_functions.detach() is None
    assert pci_functions.attach(0.0) == pci_functions.fingerprint()
    assert (bus.bus / "rescan").read_text() == "1"
    assert not pci_functions.DETACHED.exists()


def _command(bus: FakePci, address: str) -> int:
    space = (bus.bus / "devices" / address / "config").read_bytes()
    return int.from_bytes(space[4:6], "little")


def test_functions_respond_to_accesses_as_after_a_boot(bus: FakePci) -> None:
    """A user of sysfs reads zeros from a function that does not decode its BARs."""
    pci_functions.detach()
    pci_functions.attach(0.0)
    assert [_command(bus, each) for each in (EXERCISER, EDU, PLATFORM)] == [0x103] * 3
    assert _command(bus, fake_pci.VIRTIO) == 0, "QEMU has its state"


def _set_line(bus: FakePci, address: str, line: int) -> None:
    config = bus.devices / address / "config"
    space = bytearray(config.read_bytes())
    space[0x3C] = line
    config.write_bytes(space)


def test_interrupt_line_is_as_the_firmware_has_set_it(bus: FakePci) -> None:
    for address in (EXERCISER, EDU):
        _set_line(bus, address, 11)
    assert pci_functions.detach() is None
    for address in (EXERCISER, EDU):
        _set_line(bus, address, 0)
    space = bytearray((bus.devices / EDU / "config").read_bytes())
    space[0x3D] += 1  # another function, with another pin
    (bus.devices / EDU / "config").write_bytes(space)
    pci_functions.attach(0.0)
    lines = [(bus.devices / each / "config").read_bytes()[0x3C] for each in (EXERCISER, EDU)]
    assert lines == [11, 0]


def test_other_bits_of_the_command_register_stay(bus: FakePci) -> None:
    space = bytearray(configuration([]))
    space[4:6] = (0x0400).to_bytes(2, "little")  # without INTx
    (bus.devices / EDU / "config").write_bytes(space)
    pci_functions.attach(0.0)
    assert _command(bus, EDU) == 0x503


def test_function_with_a_bar_that_has_no_address_does_not_respond(bus: FakePci) -> None:
    (bus.devices / EDU / "resource").write_text("0x0 0xfff 0x20040200\n")
    pci_functions.attach(0.0)
    assert _command(bus, EDU) == 0
    assert _command(bus, EXERCISER) == 0x103


def test_scan_without_a_removal_finds_what_is_there(bus: FakePci) -> None:
    assert [each["address"] for each in pci_functions.attach(0.0)] == [EXERCISER, EDU, PLATFORM]
    assert (bus.bus / "rescan").read_text() == "1"


def test_second_removal_does_not_forget_what_the_first_removed(bus: FakePci) -> None:
    pci_functions.detach()
    _go(bus, EXERCISER, EDU, PLATFORM)
    assert pci_functions.detach() is None
    with pytest.raises(AttachFailed, match=f"{EXERCISER} is missing"):
        pci_functions.attach(0.0)


@pytest.mark.parametrize("lost", [EXERCISER, PLATFORM])
def test_function_that_does_not_come_back_is_named(bus: FakePci, lost: str) -> None:
    pci_functions.detach()
    _go(bus, lost)
    with pytest.raises(AttachFailed, match=f"{lost} is missing"):
        pci_functions.attach(0.0)


def test_driver_that_does_not_bind_again_is_named(bus: FakePci) -> None:
    pci_functions.detach()
    (bus.devices / EXERCISER / "driver").unlink()
    with pytest.raises(AttachFailed, match=f"{EXERCISER} has no driver, and had dma_rehearsal"):
        pci_functions.attach(0.0)


def test_another_device_in_its_place_needs_no_driver(bus: FakePci) -> None:
    """One booted state serves each profile; the driver does not know the ids of most."""
    pci_functions.detach()
    (bus.devices / EXERCISER / "driver").unlink()
    (bus.devices / EXERCISER / "device").write_text("0x10fb")
    assert pci_functions.attach(0.0)[0]["device"] == 0x10FB


def test_driver_that_binds_late_is_waited_for(
    bus: FakePci, monkeypatch: pytest.MonkeyPatch
) -> None:
    pci_functions.detach()
    driver = bus.devices / EXERCISER / "driver"
    target = driver.readlink()
    driver.unlink()
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            driver.symlink_to(target)

    monkeypatch.setattr(time, "sleep", sleep)
    assert pci_functions.attach()[0]["driver"] == "dma_rehearsal"
    assert len(waits) == 2
