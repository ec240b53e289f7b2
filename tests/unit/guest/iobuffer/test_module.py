# SPDX-License-Identifier: Apache-2.0
"""The kernel module's files as the library speaks to them: every number that goes over, and back.

The module is a fake here, which looks at requests byte by byte.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dma_rehearsal.guest.iobuffer.base.errors import (
    IOBusyError,
    IOCannotWireError,
    IODeviceError,
    IOReturn,
    IOReturnError,
    IOUnsupportedError,
)
from dma_rehearsal.guest.iobuffer.base.options import CacheMode
from dma_rehearsal.guest.iobuffer.os import driver, uapi
from dma_rehearsal.guest.iobuffer.os.driver import (
    Driver,
    DriverFunction,
    Interrupts,
    PageTableEntry,
    PciInfo,
)
from dma_rehearsal.guest.iobuffer.os.pin import KernelMap, Pin

PAGE = 4096
PHYSICAL = 0x0C00_1000
ROOT = 0x12_3000
Answer = Callable[[bytearray], int]


class Module:
    """Answers ioctls by their command, and keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, bytes]] = []
        self.errors: dict[int, int] = {}
        self.memory = bytearray(range(256)) * 16
        self.pages = [PAGE * number for number in (5, 6, 9, 8, 3)]
        self.pin = (5, 4 * PAGE, 10, uapi.PIN_WRITE)  # pages, length, offset, flags
        self.map = (0xFFFF_C900_0000_1010, ROOT, 100, 5, CacheMode.INHIBIT)
        self.function: tuple[int, ...] = (uapi.VERSION, 16, 1, Interrupts.MSIX)
        self.version = uapi.VERSION

    def ioctl(self, fd: int, command: int, request: bytearray | bytes = b"") -> int:
        """Stand for fcntl.ioctl()."""
        os.fstat(fd)  # of an open file
        self.asked.append((command, bytes(request)))
        if command in self.errors:
            raise OSError(self.errors[command], os.strerror(self.errors[command]))
        mutable = request if isinstance(request, bytearray) else bytearray(request)
        if command in (uapi.PIN, uapi.KMAP, uapi.PIN_KMAP):
            return os.memfd_create("of the module")
        tells: dict[int, tuple[struct.Struct, tuple[int, ...]]] = {
            uapi.INFO: (uapi.INFO_STRUCT, (self.version, 3)),
            uapi.PIN_INFO: (uapi.PIN_INFO_STRUCT, self.pin),
            uapi.KMAP_INFO: (uapi.KMAP_INFO_STRUCT, self.map),
            uapi.PCI_INFO: (uapi.PCI_INFO_STRUCT, self.function),
        }
        if command in tells:
            record, values = tells[command]
            record.pack_into(mutable, 0, *values)
            return 0
        does: dict[int, Answer] = {
            uapi.QUERY: self._query,
            uapi.READ: self._copy_out,
            uapi.WRITE: self._copy_in,
            uapi.PIN_PAGES: self._pin_pages,
        }
        return does[command](mutable) if command in does else 0

    def _query(self, request: bytearray) -> int:
        address, *rest = uapi.QUERY_STRUCT.unpack(request)
        assert rest == [0, 0, 0, 0]
        uapi.QUERY_STRUCT.pack_into(request, 0, address, ROOT, PHYSICAL | 0x67, 1, 4)
        return 0

    def _place(self, request: bytearray) -> tuple[int, int, int]:
        physical, length, user, mode, reserved = uapi.COPY_STRUCT.unpack(request)
        assert (mode, reserved) == (CacheMode.WRITE_COMBINE, 0)
        return physical - PHYSICAL, length, user

    def _copy_out(self, request: bytearray) -> int:
        start, length, user = self._place(request)
        ctypes.memmove(user, bytes(self.memory[start : start + length]), length)
        return 0

    def _copy_in(self, request: bytearray) -> int:
        start, length, user = self._place(request)
        self.memory[start : start + length] = ctypes.string_at(user, length)
        return 0

    def _pin_pages(self, request: bytearray) -> int:
        first, user, count, reserved = uapi.PIN_PAGES_STRUCT.unpack(request)
        assert reserved == 0
        found = self.pages[first : first + min(count, 2)]  # two at a time
        ctypes.memmove(user, b"".join(p.to_bytes(8, "little") for p in found), 8 * len(found))
        return len(found)

    def requests(self, command: int) -> list[bytes]:
        """Return what was asked with a command."""
        return [request for each, request in self.asked if each == command]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Module:
    made = Module()
    monkeypatch.setattr(fcntl, "ioctl", made.ioctl)
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "dma-rehearsal"
    file.touch()
    return file


@pytest.fixture
def opened(module: Module, path: Path) -> Iterator[Driver]:
    del module
    with Driver(path) as made:
        yield made


def test_another_version_is_refused_and_its_file_closed(module: Module, path: Path) -> None:
    module.version = uapi.VERSION + 1
    with pytest.raises(IODeviceError, match=rf"version {uapi.VERSION + 1}, .* {uapi.VERSION}$"):
        Driver(path)
    module.function = (uapi.VERSION - 1, 0, 0, 0)
    with pytest.raises(IODeviceError, match=rf"version {uapi.VERSION - 1}, .* {uapi.VERSION}$"):
        DriverFunction(path)


def test_zones_are_counted(opened: Driver) -> None:
    assert opened.zones == 3


def test_page_table_entries(opened: Driver, module: Module) -> None:
    assert opened.query(0x7000_1234) == PageTableEntry(0x7000_1234, ROOT, PHYSICAL | 0x67, 1, 4)
    module.errors[uapi.QUERY] = errno.EFAULT
    with pytest.raises(IODeviceError, match="0x7000") as caught:
        opened.query(0x7000)
    assert caught.value.code is IOReturn.kIOReturnVMError
    assert caught.value.address == 0x7000


@pytest.mark.parametrize("length", [1, 100, PAGE])
def test_kernel_copies(opened: Driver, module: Module, length: int) -> None:
    mode = CacheMode.WRITE_COMBINE
    assert opened.read(PHYSICAL, length, mode) == module.memory[:length]
    data = bytes(reversed(range(256)))[: min(length, 256)]
    before = bytes(module.memory)
    opened.write(PHYSICAL + 7, data, mode)
    assert module.memory == before[:7] + data + before[7 + len(data) :]


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.EBUSY, IOBusyError, IOReturn.kIOReturnBusy),
        (errno.EOPNOTSUPP, IOUnsupportedError, IOReturn.kIOReturnUnsupported),
        (errno.EINVAL, IODeviceError, IOReturn.kIOReturnBadArgument),
        (errno.ENOMEM, IOReturnError, IOReturn.kIOReturnNoMemory),
    ],
)
@pytest.mark.parametrize("what", ["read", "write", "map"])
def test_refused_copies_and_mappings(
    opened: Driver,
    module: Module,
    number: int,
    kind: type[IOReturnError],
    code: IOReturn,
    what: str,
) -> None:
    module.errors = dict.fromkeys((uapi.READ, uapi.WRITE, uapi.KMAP), number)
    calls: dict[str, Callable[[], object]] = {
        "read": lambda: opened.read(PHYSICAL, 8, CacheMode.COPYBACK),
        "write": lambda: opened.write(PHYSICAL, bytes(8), CacheMode.COPYBACK),
        "map": lambda: opened.kernel_map(PHYSICAL, 8, CacheMode.COPYBACK),
    }
    with pytest.raises(kind) as caught:
        calls[what]()
    assert (caught.value.code, caught.value.length) == (code, 8)
    assert caught.value.address == (None if number == errno.ENOMEM else PHYSICAL)


def test_a_range_that_is_none_reaches_no_kernel(opened: Driver, module: Module) -> None:
    top = 1 << 64
    for address, length in ((0, 0), (-1, 8), (top, 1), (top - 8, 9), (0, -1)):
        with pytest.raises(IODeviceError) as caught:
            opened.pin(address, length)
        assert caught.value.code is IOReturn.kIOReturnBadArgument
        assert (caught.value.address, caught.value.length) == (address, length)
    for physical, length in ((-1, 8), (top, 8), (0, -1), (0, top)):
        with pytest.raises(IODeviceError):
            opened.kernel_map(physical, length, CacheMode.COPYBACK)
    assert not module.requests(uapi.PIN)
    assert not module.requests(uapi.KMAP)
    opened.pin(top - 8, 8).close()
    opened.kernel_map(top - 1, 0, CacheMode.COPYBACK).close()
    opened.kernel_map(0, top - 1, CacheMode.COPYBACK).close()


@pytest.mark.parametrize("write", [True, False])
def test_pins(opened: Driver, module: Module, write: bool) -> None:
    module.pin = (5, 4 * PAGE, 10, uapi.PIN_WRITE if write else 0)
    with opened.pin(0x7000_0010, 4 * PAGE, write=write) as pin:
        asked = uapi.PIN_STRUCT.pack(0x7000_0010, 4 * PAGE, uapi.PIN_WRITE if write else 0, 0)
        assert module.requests(uapi.PIN) == [asked]
        assert (pin.pages, pin.length, pin.offset, pin.writable) == (5, 4 * PAGE, 10, write)
        assert pin.segments() == [
            *((5 * PAGE + 10, 2 * PAGE - 10), (9 * PAGE, PAGE), (8 * PAGE, PAGE), (3 * PAGE, 10)),
        ]
        assert [uapi.PIN_PAGES_STRUCT.unpack(each)[0] for each in module.requests(uapi.PIN_PAGES)]
        with pin.kernel_map() as window:
            assert (window.address, window.length) == module.map[:1] + module.map[2:3]
            assert (window.root, window.levels, window.mode) == (ROOT, 5, CacheMode.INHIBIT)
        assert window.closed
        fd = pin.fileno()
    assert pin.closed
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


@pytest.mark.parametrize(
    ("number", "said", "limit"),
    [
        (errno.EFAULT, "is not mapped writable", None),
        (errno.EOPNOTSUPP, "backing store", None),
        (errno.E2BIG, "at most", uapi.PIN_MAX),
        (errno.EPERM, "not permitted", None),
    ],
)
def test_refused_pins(
    opened: Driver, module: Module, number: int, said: str, limit: int | None
) -> None:
    module.errors[uapi.PIN] = number
    with pytest.raises(IOCannotWireError, match=said) as caught:
        opened.pin(0x7000_0000, PAGE)
    assert (caught.value.address, caught.value.length) == (0x7000_0000, PAGE)
    assert caught.value.limit == limit


def test_refused_pages_and_kernel_maps_of_a_pin(opened: Driver, module: Module) -> None:
    with opened.pin(0x7000_0000, PAGE) as pin:
        module.errors = {uapi.PIN_PAGES: errno.EINVAL, uapi.PIN_KMAP: errno.ENOMEM}
        with pytest.raises(IODeviceError) as caught:
            pin.segments()
        assert caught.value.code is IOReturn.kIOReturnBadArgument
        for number, code in (
            (errno.ENOMEM, IOReturn.kIOReturnNoMemory),
            (errno.EINVAL, IOReturn.kIOReturnBadArgument),
            (errno.ENODEV, IOReturn.kIOReturnNotAttached),
            (errno.EIO, IOReturn.kIOReturnError),
        ):
            module.errors[uapi.PIN_KMAP] = number
            with pytest.raises(IODeviceError) as caught:
                pin.kernel_map()
            assert (caught.value.code, caught.value.length) == (code, pin.length)


@pytest.mark.parametrize("kind", [Pin, KernelMap])
def test_a_descriptor_that_is_none_of_these_is_closed(
    module: Module, kind: type[Pin] | type[KernelMap]
) -> None:
    module.errors = dict.fromkeys((uapi.PIN_INFO, uapi.KMAP_INFO), errno.ENOTTY)
    fd = os.memfd_create("no pin")
    with pytest.raises(IODeviceError) as caught:
        kind.from_fd(fd)
    assert caught.value.code is IOReturn.kIOReturnBadArgument
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


def test_kernel_maps_of_a_carve_out(opened: Driver, module: Module) -> None:
    with opened.kernel_map(PHYSICAL + 16, 100, CacheMode.INHIBIT):
        asked = uapi.KMAP_STRUCT.pack(PHYSICAL + 16, 100, CacheMode.INHIBIT, 0)
        assert module.requests(uapi.KMAP) == [asked]


def test_bytes_of_a_window_end_where_it_does(opened: Driver) -> None:
    with opened.kernel_map(PHYSICAL, 100, CacheMode.INHIBIT) as window:
        window.write(96, b"abcd")
        assert window.read(95, 5) == b"\0abcd"
        for offset, length in ((97, 4), (-1, 1), (0, -1), (101, 0)):
            with pytest.raises(IODeviceError) as caught:
                window.read(offset, length)
            assert caught.value.code is IOReturn.kIOReturnBadArgument
        with pytest.raises(IODeviceError):
            window.write(97, b"abcd")
        assert window.read(100, 0) == b""


def test_a_mapping_says_place_and_mode(opened: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int, bool]] = []

    def mapping(fd: int, length: int, offset: int, placement: object, *, uncached: bool) -> None:
        del placement
        asked.append((fd, length, offset, uncached))

    monkeypatch.setattr(driver, "Mapping", mapping)
    opened.map(PHYSICAL, 2 * PAGE, CacheMode.WRITE_THRU)
    offset = CacheMode.WRITE_THRU << uapi.MODE_SHIFT | PHYSICAL
    assert asked == [(opened.fileno(), 2 * PAGE, offset, False)]


def test_what_the_function_is_asked(module: Module, path: Path) -> None:
    with DriverFunction(path) as function:
        assert function.info() == PciInfo(16, True, Interrupts.MSIX)
        module.function = (uapi.VERSION, 1, 0, Interrupts.INTX)
        assert function.info() == PciInfo(1, False, Interrupts.INTX)
        function.set_bus_master(True)
        function.set_bus_master(False)
        function.set_eventfd((1 << 32) - 1, 7)
        function.set_eventfd(0, -1)
        function.set_interrupts(Interrupts.INTX)
        function.unmask()
        for vector in (-1, 1 << 32):
            with pytest.raises(IODeviceError) as caught:
                function.set_eventfd(vector, 7)
            assert caught.value.code is IOReturn.kIOReturnBadArgument
    assert module.requests(uapi.BUS_MASTER) == [b"\1\0\0\0", b"\0\0\0\0"]
    assert module.requests(uapi.EVENTFD) == [
        b"\xff\xff\xff\xff\7\0\0\0",
        b"\0\0\0\0\xff\xff\xff\xff",
    ]
    assert module.requests(uapi.SET_INTERRUPTS) == [b"\2\0\0\0"]
    assert module.requests(uapi.UNMASK) == [b""]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EBUSY, IOReturn.kIOReturnBusy),
        (errno.EOPNOTSUPP, IOReturn.kIOReturnUnsupported),
        (errno.EINVAL, IOReturn.kIOReturnBadArgument),
        (errno.ENODEV, IOReturn.kIOReturnNotAttached),
        (errno.EIO, IOReturn.kIOReturnError),
    ],
)
def test_what_the_function_refuses(module: Module, path: Path, number: int, code: IOReturn) -> None:
    with DriverFunction(path) as function:
        module.errors[uapi.EVENTFD] = number
        with pytest.raises(IOReturnError) as caught:
            function.set_eventfd(0, 7)
    assert caught.value.code is code
