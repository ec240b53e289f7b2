# SPDX-License-Identifier: Apache-2.0
"""PCI functions, the exerciser and the platform, on files that play sysfs and the BARs."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import cast

import pytest

from dma_rehearsal.device import layout
from dma_rehearsal.device.layout import (
    DmaAttribute,
    DmaDirection,
    DmaReason,
    DmaStatus,
    Ext,
    MemoryType,
    Plat,
    Reg,
    WitnessRun,
    WitnessStatus,
)
from dma_rehearsal.guest.drivers import exerciser, pci_sysfs
from dma_rehearsal.guest.drivers.exerciser import Exerciser, ExerciserError
from dma_rehearsal.guest.drivers.pci_bars import PciError
from dma_rehearsal.guest.drivers.pci_sysfs import PciFunction
from dma_rehearsal.guest.drivers.platform import command
from dma_rehearsal.guest.drivers.platform.command import PlatformDeviceError
from dma_rehearsal.guest.drivers.platform.device import PlatformDevice
from dma_rehearsal.guest.iobuffer import IOBusyError
from dma_rehearsal.guest.iobuffer.os.driver import DriverFunction, Interrupts, PciInfo
from dma_rehearsal.guest.linux.memory_types import Mtrrs

PAGE = 4096


class FakeFunction:
    """One folder of /sys/bus/pci/devices; registers are 32-bit words of the BARs' files."""

    def __init__(self, root: Path, address: str, vendor: int, device: int) -> None:
        self.folder = root / address
        self.folder.mkdir()
        (self.folder / "vendor").write_text(f"{vendor:#06x}\n")
        (self.folder / "device").write_text(f"{device:#06x}\n")
        (self.folder / "enable").write_text("0\n")
        (self.folder / "config").write_bytes(bytes(256))

    def bar(self, number: int, words: dict[int, int], size: int = PAGE) -> None:
        data = bytearray(size)
        for offset, value in words.items():
            struct.pack_into("<I", data, offset, value)
        (self.folder / f"resource{number}").write_bytes(data)

    def word(self, number: int, offset: int) -> int:
        data = (self.folder / f"resource{number}").read_bytes()
        return int(struct.unpack_from("<I", data, offset)[0])


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pci_sysfs, "DEVICES", tmp_path)
    return tmp_path


@pytest.fixture
def device(devices: Path) -> FakeFunction:
    fake = FakeFunction(devices, "0000:00:02.0", 0x13B5, 0xED01)
    fake.bar(0, {})
    fake.bar(1, {}, 0x10000)
    fake.bar(
        3,
        {
            Ext.MAGIC: layout.EXT_MAGIC,
            Ext.VERSION: layout.EXT_VERSION,
            Ext.FEATURES: 3,
            Ext.BUFFER_SIZE: 0x8000,
        },
    )
    return fake


@pytest.fixture
def platform(
    devices: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> FakeFunction:
    monkeypatch.setattr(command, "LOCKS", tmp_path_factory.mktemp("locks"))
    fake = FakeFunction(devices, "0000:00:03.0", 0x1234, 0xDA7A)
    fake.bar(0, {Plat.MAGIC: layout.PLATFORM_MAGIC, Plat.VERSION: layout.PLATFORM_VERSION})
    fake.bar(1, {}, layout.PLATFORM_RESULTS_SIZE)
    return fake


def test_a_window_of_a_bar(device: FakeFunction) -> None:
    device.bar(1, {0x8000: 5, 0x8FFC: 6}, 0x10000)
    function = PciFunction(device.folder)
    window = function.window(1, 0x8000, PAGE)
    assert (window[0], window[0xFFC], len(window.data)) == (5, 6, PAGE)
    window[0] = 7
    assert device.word(1, 0x8000) == 7
    with pytest.raises(PciError, match="cannot map 0x1000 bytes at 0x123 of BAR1"):
        function.window(1, 0x123, PAGE)
    with pytest.raises(PciError, match=r"0x1000 bytes at 0x0 of BAR2: .*No such file"):
        function.window(2, 0, PAGE)
    function.close()
    with pytest.raises(ValueError, match="released"):
        window[0]


def test_ports(device: FakeFunction) -> None:
    device.bar(4, {0: 0x1234_5678}, 16)
    function = PciFunction(device.folder)
    ports = function.ports(4)
    assert [ports.load(0), ports.load(2, 2), ports.load(3, 1)] == [0x1234_5678, 0x1234, 0x12]
    ports.store(4, 0xAABB_CCDD)
    ports.store(5, 0xEE, 1)
    assert device.word(4, 4) == 0xAABB_EEDD
    with pytest.raises(PciError, match="resource4: 4 bytes at 0x10: 0 bytes came; use 1, 2 or 4"):
        ports.load(16)
    with pytest.raises(PciError, match="cannot open BAR5"):
        function.ports(5)
    function.close()
    with pytest.raises(PciError, match="resource4: 1 bytes at 0x0: Bad file descriptor"):
        ports.store(0, 1, 1)


def test_rom(device: FakeFunction, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(Path, "write_text", lambda _path, text: written.append(text))
    (device.folder / "rom").write_bytes(b"\x55\xaaimage")
    assert PciFunction(device.folder).rom() == b"\x55\xaaimage"
    assert written == ["1", "0"]
    (device.folder / "rom").unlink()
    with pytest.raises(PciError, match="rom: No such file"):
        PciFunction(device.folder).rom()
    assert written == ["1", "0"] * 2


def test_find(devices: Path) -> None:
    for number in (3, 1, 2):
        FakeFunction(devices, f"0000:00:0{number}.0", 0x13B5, 0xED01)
    FakeFunction(devices, "0000:00:00.0", 0x1234, 0xED01)
    assert PciFunction.find(0x13B5, 0xED01).address == "0000:00:01.0"
    assert PciFunction.find(0x13B5, 0xED01, 2).address == "0000:00:03.0"
    with pytest.raises(PciError, match="13b5:ed01 number 3: 3 found"):
        PciFunction.find(0x13B5, 0xED01, 3)


def test_bar_addresses_of_32_and_64_bits(device: FakeFunction) -> None:
    """A 64-bit BAR has two registers; the second one is no BAR's first."""
    function = PciFunction(device.folder)
    bars = [0xFEB0_0000, 0x000C, 0x0000_0038, 0xC001, 0xFEC0_0004, 0]
    function.config_write(0x10, struct.pack("<6I", *bars))
    assert function.bar_address(0) == 0xFEB0_0000
    assert function.bar_address(1) == 0x38_0000_0000, "prefetchable, 64 bits, above 4 GiB"
    assert function.bar_address(3) == 0xC000, "I/O ports have two flags"
    assert function.bar_address(4) == 0xFEC0_0000, "64 bits, below 4 GiB"
    for number, words in (2, "upper half of BAR1"), (5, "upper half of BAR4"):
        with pytest.raises(PciError, match=words):
            function.bar_address(number)
    for number in -1, 6:
        with pytest.raises(PciError, match="0 to 5"):
            function.bar_address(number)
    function.config_write(0x10, struct.pack("<6I", 0, 0, 0, 0, 8, 4))
    assert function.bar_address(0) == 0, "not placed"
    assert function.bar_address(4) == 0, "prefetchable, 32 bits"
    with pytest.raises(PciError, match="the last register"):
        function.bar_address(5)


def test_command_register(device: FakeFunction) -> None:
    function = PciFunction(device.folder)
    function.enable()
    assert (device.folder / "enable").read_text() == "1"
    function.config_write(4, b"\x02\x01")
    assert not function.bus_master
    function.bus_master = True
    assert function.config_read(4, 2) == b"\x06\x01"
    function.bus_master = False
    assert function.config_read(4, 2) == b"\x02\x01"
    with pytest.raises(PciError, match="0 of 2 bytes at config 0x100"):
        function.config_read(0x100, 2)
    assert function.driver_node() is None
    (device.folder / "misc" / "dma-rehearsal-pci7").mkdir(parents=True)
    assert function.driver_node() == Path("/dev/dma-rehearsal-pci7")


def test_interrupt_bits(device: FakeFunction) -> None:
    function = PciFunction(device.folder)
    function.config_write(4, b"\x06\x01\x08\x00")
    assert function.interrupt_status
    assert not function.interrupt_disable
    function.interrupt_disable = True
    assert function.config_read(4, 4) == b"\x06\x05\x08\x00"
    function.interrupt_disable = False
    function.config_write(6, b"\xf7\xff")
    assert function.config_read(4, 2) == b"\x06\x01"
    assert not function.interrupt_status


def test_msix_vectors(device: FakeFunction) -> None:
    function = PciFunction(device.folder)
    assert function.msix_vectors == 0
    function.config_write(0x34, b"\x41")  # the two lowest bits are reserved
    function.config_write(0x40, b"\x10\x84\x00\x00")
    function.config_write(0x84, b"\x11\x00\x0f\xc0")
    assert function.msix_vectors == 16
    function.config_write(0x84, b"\x01\x40")
    with pytest.raises(PciError, match="no end"):
        _ = function.msix_vectors


def test_line_interrupts(
    device: FakeFunction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pci_sysfs, "INTERRUPTS", tmp_path / "irq")
    function = PciFunction(device.folder)
    with pytest.raises(PciError, match="of its line"):
        function.line_interrupts()
    (device.folder / "irq").write_text("22\n")
    counts = tmp_path / "irq" / "22" / "per_cpu_count"
    counts.parent.mkdir(parents=True)
    counts.write_text("40,2\n")
    assert function.line_interrupts() == 42
    counts.write_text("none\n")
    with pytest.raises(PciError, match="of its line"):
        function.line_interrupts()


def test_bar(device: FakeFunction) -> None:
    with PciFunction(device.folder) as function:
        bar = function.bar(0)
        assert function.bar(0) is bar
        bar[0x10] = 0x12345678
        bar.set64(0x18, 0x1122334455667788)
        assert bar.get64(0x18) == 0x1122334455667788
        bar.set64(0x24, 0x99AABBCCDDEEFF00)  # not a multiple of 8
        assert (bar.get64(0x24), bar[0x24], bar[0x28]) == (
            *(0x99AABBCCDDEEFF00, 0xDDEEFF00, 0x99AABBCC),
        )
        assert bytes(bar.data[0x10:0x14]) == b"\x78\x56\x34\x12"
        held = bar.data[:4]
        with pytest.raises(BufferError):
            function.close()
        held.release()
        with pytest.raises(PciError, match="cannot map BAR5"):
            function.bar(5)


def test_exerciser_of_another_kind(device: FakeFunction) -> None:
    device.bar(3, {Ext.MAGIC: 0xFFFFFFFF, Ext.VERSION: 0xFFFFFFFF})
    with pytest.raises(ExerciserError, match="0xffffffff"):
        Exerciser()


def test_exerciser_basics(device: FakeFunction) -> None:
    with Exerciser() as board:
        assert board.buffer_size == 0x8000
        assert len(board.buffer) == 0x8000
        assert layout.ExtFeature.RECORD in board.features
        board.interrupt(5)
        assert device.word(0, Reg.MSICTL) == 0x8000_0005
        with pytest.raises(ExerciserError, match="vector 2048"):
            board.interrupt(2048)
        with pytest.raises(ExerciserError, match="not bound"):
            board.eventfd(0)


class FakeDriver:
    """Records what it is asked."""

    def __init__(self, refuses: str = "") -> None:
        self.calls: list[object] = []
        self.closed = False
        self._refuses = refuses

    def info(self) -> PciInfo:
        return PciInfo(16, True, Interrupts.MSIX)

    def set_interrupts(self, kind: Interrupts) -> None:
        self.calls.append(kind)

    def set_eventfd(self, vector: int, fd: int) -> None:
        if self._refuses == "eventfd":
            raise IOBusyError("held")
        self.calls.append((vector, fd >= 0))

    def unmask(self) -> None:
        self.calls.append("unmask")

    def close(self) -> None:
        self.closed = True


def test_intx(device: FakeFunction) -> None:
    with Exerciser() as board:
        driver = FakeDriver()
        board._driver = cast(DriverFunction, driver)
        board.write_register(Reg.INTXCTL, 1)
        with board.intx() as line:
            assert device.word(0, Reg.INTXCTL) == 0, "the earlier signal is not an interrupt"
            line.assert_line()
            assert device.word(0, Reg.INTXCTL) == 1
            line.unmask()
            os.eventfd_write(line.fileno(), 1)
            assert line.wait(5) == 1
        line.close()
        assert device.word(0, Reg.INTXCTL) == 0
        intx, msix = Interrupts.INTX, Interrupts.MSIX
        assert driver.calls == [intx, (0, True), "unmask", (0, False), msix]


@pytest.mark.usefixtures("device")
def test_intx_that_is_refused_gives_msix_back() -> None:
    with Exerciser() as board:
        driver = FakeDriver(refuses="eventfd")
        board._driver = cast(DriverFunction, driver)
        with pytest.raises(IOBusyError):
            board.intx()
        assert driver.calls == [Interrupts.INTX, Interrupts.MSIX]


@pytest.mark.usefixtures("device")
def test_intx_outlives_its_driver() -> None:
    """Closing the driver's file gave everything back; nothing is left to do but the eventfd."""
    with Exerciser() as board:
        driver = FakeDriver()
        board._driver = cast(DriverFunction, driver)
        line = board.intx()
        board.close()
        line.close()
        assert driver.calls == [Interrupts.INTX, (0, True)]


def test_a_dma_that_never_ends(device: FakeFunction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exerciser, "DMA_TIMEOUT", 0.02)
    with Exerciser() as board, pytest.raises(ExerciserError, match="still reads 0x31"):
        board.dma(0x1_2345_6780, 100, write_memory=True, offset=8, no_snoop=True)
    assert device.word(0, Reg.DMA_BUS_ADDR_LO) == 0x2345_6780
    assert device.word(0, Reg.DMA_BUS_ADDR_HI) == 1
    assert device.word(0, Reg.DMA_LEN) == 100
    assert device.word(0, Reg.DMA_OFFSET) == 8


@pytest.mark.usefixtures("device")
def test_records() -> None:
    with Exerciser() as board:
        ext = board.pci.bar(3)
        with pytest.raises(ExerciserError, match="DMA 7 left no record"):
            board.record(7)
        for offset, value in {
            Ext.RECORD_VALID: 1,
            Ext.RECORD_SEQUENCE: 7,
            Ext.RECORD_STATUS: 2,
            Ext.RECORD_REASON: 3,
            Ext.RECORD_ADDRESS_LO: 0x1000,
            Ext.RECORD_ADDRESS_HI: 1,
            Ext.RECORD_LENGTH: 64,
            Ext.RECORD_DIRECTION: 1,
            Ext.RECORD_ATTRIBUTES: 3,
            Ext.RECORD_OFFSET: 4,
        }.items():
            ext[offset] = value
        record = board.record(7, DmaStatus.OK)
        assert record.address == 0x1_0000_1000
        assert record.reason is DmaReason.UNMAPPED
        assert record.direction is DmaDirection.WRITE_MEMORY
        assert record.attributes == DmaAttribute.NO_SNOOP | DmaAttribute.NO_SNOOP_ASKED
        assert (record.status, record.recorded_status) == (DmaStatus.OK, DmaStatus.INTERNAL)
        assert not record.ok
        ext[Ext.RECORD_REASON] = 0xFFFF
        with pytest.raises(ExerciserError, match="record 7"):
            board.record(7)


def test_witness(platform: FakeFunction) -> None:
    run = WitnessRun(
        0x7000_0000, 0xC00_0000, PAGE, PAGE, MemoryType.WC, MemoryType.WC, MemoryType.WB, 1,
        True, True, True,
    )  # fmt: skip
    with PlatformDevice() as device:
        assert (platform.folder / "enable").read_text() == "1"
        assert device.pci.bus_master
        control = device.pci.bar(0)
        control[Plat.WITNESS_RUN_COUNT] = 2
        control[Plat.WITNESS_PAGE_COUNT] = 9
        device.pci.bar(1).data[:64] = run.pack() * 2
        report = device.witness(0x1_0444_6000, 0x7F12_3456_7000, 0x2_0000_1000, 5)
        assert report.status is WitnessStatus.OK
        assert report.runs == (run, run)
        assert (report.pages, report.fault_va) == (9, None)
        assert control.get64(Plat.WITNESS_ROOT_LO) == 0x1_0444_6000
        assert control.get64(Plat.WITNESS_VA_LO) == 0x7F12_3456_7000
        assert control.get64(Plat.WITNESS_LENGTH_LO) == 0x2_0000_1000
        assert control[Plat.WITNESS_LEVELS] == 5
        control[Plat.WITNESS_STATUS] = WitnessStatus.NOT_PRESENT
        control.set64(Plat.WITNESS_FAULT_VA_LO, 0x7000_1000)
        assert device.witness(0, 0x7000_0000, 8192).fault_va == 0x7000_1000
        control[Plat.WITNESS_RUN_COUNT] = layout.WITNESS_RUN_MAX + 1
        with pytest.raises(PlatformDeviceError, match="more than BAR1 holds"):
            device.witness(0, 0, 1)
        control[Plat.WITNESS_STATUS] = 0xFFFFFFFF
        with pytest.raises(PlatformDeviceError, match="0xffffffff"):
            device.witness(0, 0, 1)


@pytest.mark.usefixtures("platform")
def test_memory_types_reach_their_registers() -> None:
    with PlatformDevice() as device:
        ranges = ((0xC000_0000, 0xFF_C000_0800), (0x1_0000_0006, 0x2_0000_0800))
        device.set_memory_types(0x0407_0506_0007_0106, Mtrrs(0xC06, ranges, tuple(range(11)), 40))
        control = device.pci.bar(0)
        assert control.get64(Plat.PAT_LO) == 0x0407_0506_0007_0106
        assert control.get64(Plat.MTRR_DEF_TYPE_LO) == 0xC06
        assert (control[Plat.PHYSICAL_BITS], control[Plat.MTRR_COUNT]) == (40, 2)
        assert control.get64(Plat.MTRR_RANGES + 16) == 0x1_0000_0006
        assert control.get64(Plat.MTRR_RANGES + 24) == 0x2_0000_0800
        assert control.get64(Plat.MTRR_FIXED + 80) == 10


def test_platform_of_another_kind(platform: FakeFunction) -> None:
    platform.bar(0, {Plat.MAGIC: layout.PLATFORM_MAGIC, Plat.VERSION: 0x2_0000})
    with pytest.raises(PlatformDeviceError, match="0x20000"):
        PlatformDevice()


@pytest.mark.usefixtures("platform")
def test_platform_without_a_protection_unit() -> None:
    with PlatformDevice() as device, pytest.raises(PlatformDeviceError, match="no protection unit"):
        _ = device.protection
