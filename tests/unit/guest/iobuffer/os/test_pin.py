# SPDX-License-Identifier: Apache-2.0
"""Pins and kernel mappings in Python, without the module: segments, errors, descriptors."""

from __future__ import annotations

import array
import errno
import os
import resource
from pathlib import Path

import pytest

from dma_rehearsal.guest.iobuffer import IOReturn
from dma_rehearsal.guest.iobuffer.base.errors import IOCannotWireError, IODeviceError
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.os import uapi
from dma_rehearsal.guest.iobuffer.os.driver import DriverFunction
from dma_rehearsal.guest.iobuffer.os.pin import KernelMap, Pin, _Bytes, cannot_wire
from dma_rehearsal.guest.iobuffer.os.uapi import PIN_MAX


class FakePin(Pin):
    """A pin with the pages that it is given, and a file for its bytes."""

    def __init__(self, pages: list[int], offset: int, length: int) -> None:
        fd = os.memfd_create("pin")
        os.ftruncate(fd, length)
        _Bytes.__init__(self, fd, "pin")
        self.pages, self.offset, self.length, self.writable = len(pages), offset, length, True
        self._addresses = array.array("Q", pages)

    def _page_addresses(self) -> array.array[int]:
        return self._addresses


@pytest.mark.parametrize(
    ("pages", "offset", "length", "segments"),
    [
        ([5], 0, PAGE, [(5 * PAGE, PAGE)]),
        ([5], 7, 1, [(5 * PAGE + 7, 1)]),
        ([5, 6], PAGE - 1, 2, [(5 * PAGE + PAGE - 1, 2)]),
        ([6, 5], PAGE - 1, 2, [(6 * PAGE + PAGE - 1, 1), (5 * PAGE, 1)]),
        ([5, 5], 0, 2 * PAGE, [(5 * PAGE, PAGE), (5 * PAGE, PAGE)]),
        (
            [3, 4, 5, 9, 8],
            10,
            4 * PAGE,
            [(3 * PAGE + 10, 3 * PAGE - 10), (9 * PAGE, PAGE), (8 * PAGE, 10)],
        ),
    ],
)
def test_segments_are_merged_and_cut(
    pages: list[int], offset: int, length: int, segments: list[tuple[int, int]]
) -> None:
    with FakePin([page * PAGE for page in pages], offset, length) as pin:
        assert pin.segments() == segments
        assert sum(size for _, size in pin.segments()) == length


def test_bytes_stay_within_the_pin() -> None:
    with FakePin([PAGE], 0, 100) as pin:
        pin.write(90, bytes(range(10)))
        assert pin.read(0, 100) == bytes(90) + bytes(range(10))
        for offset, length in ((91, 10), (100, 1), (-1, 2), (0, -1)):
            with pytest.raises(IODeviceError, match="of 100") as caught:
                pin.read(offset, length)
            assert caught.value.code == IOReturn.kIOReturnBadArgument
        with pytest.raises(IODeviceError, match="11 bytes at offset 90"):
            pin.write(90, bytes(11))
    assert repr(pin) == "<Pin closed: 100 bytes in 1 pages>"
    assert pin.fileno() == -1


@pytest.mark.parametrize(
    ("number", "words", "limit"),
    [
        (errno.EFAULT, "not mapped writable", None),
        (errno.EOPNOTSUPP, "backing store", None),
        (errno.E2BIG, "one pin has at most", PIN_MAX),
        (errno.ENOMEM, "RLIMIT_MEMLOCK", 65536),
        (errno.EINTR, "Interrupted", None),
    ],
)
def test_reason_and_limit_of_a_refusal(
    monkeypatch: pytest.MonkeyPatch, number: int, words: str, limit: int | None
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (65536, 65536))
    error = cannot_wire(OSError(number, os.strerror(number)), 0x1000, 12, write=True)
    assert isinstance(error, IOCannotWireError)
    assert error.code == IOReturn.kIOReturnCannotWire
    assert (error.address, error.length, error.limit) == (0x1000, 12, limit)
    assert words in error.reason


def test_without_a_limit_memory_is_what_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    unlimited = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda _: (unlimited, unlimited))
    error = cannot_wire(OSError(errno.ENOMEM, "x"), 0, 1, write=False)
    assert "RLIMIT_MEMLOCK" not in error.reason


@pytest.mark.parametrize("kind", [Pin, KernelMap])
def test_another_file_is_refused_and_closed(kind: type[Pin] | type[KernelMap]) -> None:
    fd = os.memfd_create("other")
    with pytest.raises(IODeviceError) as caught:
        kind.from_fd(fd)
    assert caught.value.code == IOReturn.kIOReturnBadArgument
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_forked_child_keeps_no_pin_of_its_parent() -> None:
    """Pages stay pinned until the last copy of the descriptor is closed."""
    with FakePin([PAGE], 0, 100) as pin:
        fd = pin.fileno()
        child = os.fork()
        if child == 0:
            try:
                os.fstat(fd)
            except OSError:
                os._exit(0 if pin.closed else 2)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        os.fstat(fd)


def test_a_forked_child_closes_a_function_before_what_is_pinned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The last close of the function stops it; pages go back after that."""
    monkeypatch.setattr(DriverFunction, "_get", lambda *_: (uapi.VERSION, 1, 0, 1))
    (tmp_path / "function").touch()
    closed: list[int] = []
    close = os.close

    def note(fd: int) -> None:
        closed.append(fd)
        close(fd)

    monkeypatch.setattr(os, "close", note)
    with (
        FakePin([PAGE], 0, 100) as pin,
        DriverFunction(tmp_path / "function") as function,
        FakePin([PAGE], 0, 100) as other,
    ):
        fds = {pin.fileno(), other.fileno()}, function.fileno()
        child = os.fork()
        if child == 0:
            first = closed.index(fds[1]) if fds[1] in closed else -1
            os._exit(0 if fds[0] == set(closed[first + 1 :]) and function.closed else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        os.fstat(fds[1])
