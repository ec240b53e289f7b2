# SPDX-License-Identifier: Apache-2.0
"""A guest's RAM in a file: whole, small, and checked on the way back."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.host_harness.machine import ram_file
from dma_rehearsal.host_harness.machine.ram_file import Extent, Filling, RamFileError
from tests.processes import wait_until

SIZE = 16 << 20


@pytest.fixture
def ram() -> Iterator[int]:
    """RAM of a small guest, all zeros."""
    descriptor = os.memfd_create("ram")
    os.ftruncate(descriptor, SIZE)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def other() -> Iterator[int]:
    """RAM of the same size, to be filled."""
    descriptor = os.memfd_create("ram")
    os.ftruncate(descriptor, SIZE)
    yield descriptor
    os.close(descriptor)


def fill(path: Path, extents: list[Extent], ram: int) -> None:
    filling = Filling(path, extents, ram)
    filling.start()
    try:
        filling.finish(20)
    finally:
        filling.close()


def whole(ram: int) -> bytes:
    return os.pread(ram, SIZE, 0)


def test_ram_comes_back_as_it_was(tmp_path: Path, ram: int, other: int) -> None:
    numbers = random.Random(1)
    for page in numbers.sample(range(SIZE // PAGE), 900):
        os.pwrite(ram, numbers.randbytes(numbers.choice((1, 100, PAGE))), page * PAGE)
    extents = ram_file.write(ram, tmp_path / "ram")
    fill(tmp_path / "ram", extents, other)
    assert whole(other) == whole(ram)
    assert sum(each.length for each in extents) == (tmp_path / "ram").stat().st_size
    assert [Extent.from_json(each.as_json(), SIZE) for each in extents] == extents


def test_pages_of_zeros_are_left_out(tmp_path: Path, ram: int, other: int) -> None:
    os.pwrite(ram, bytes(SIZE), 0)  # allocated, and zeros all the same
    assert ram_file.write(ram, tmp_path / "zeros") == []
    os.pwrite(ram, b"first", 0)
    os.pwrite(ram, b"last", SIZE - 4)
    extents = ram_file.write(ram, tmp_path / "ram")
    assert [(each.offset, each.length) for each in extents] == [(0, PAGE), (SIZE - PAGE, PAGE)]
    assert (tmp_path / "ram").stat().st_size == 2 * PAGE
    fill(tmp_path / "ram", extents, other)
    assert os.fstat(other).st_blocks * 512 == 2 * PAGE


@pytest.mark.parametrize(("gap", "count"), [(8, 1), (9, 2)])
def test_short_gaps_do_not_make_more_extents(
    tmp_path: Path, ram: int, gap: int, count: int
) -> None:
    os.pwrite(ram, bytes(40 * PAGE), 0)  # a hole ends an extent in any case
    for page in (10, 11 + gap):
        os.pwrite(ram, b"x", page * PAGE)
    assert len(ram_file.write(ram, tmp_path / "ram")) == count


def test_extents_have_a_size_that_fits_a_cpus_cache(tmp_path: Path, ram: int, other: int) -> None:
    os.pwrite(ram, b"x" * SIZE, 0)
    extents = ram_file.write(ram, tmp_path / "ram")
    assert {each.length for each in extents} == {1 << 20}
    fill(tmp_path / "ram", extents, other)
    assert whole(other) == whole(ram)


def test_file_system_that_knows_no_holes(
    tmp_path: Path, ram: int, other: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that all of a file is data (lseek(2))."""
    os.pwrite(ram, b"x", 5 * PAGE)

    def all_data(_descriptor: int, offset: int, how: int) -> int:
        return offset if how == os.SEEK_DATA else SIZE

    monkeypatch.setattr(os, "lseek", all_data)
    extents = ram_file.write(ram, tmp_path / "ram")
    assert [(each.offset, each.length) for each in extents] == [(5 * PAGE, PAGE)]
    fill(tmp_path / "ram", extents, other)
    assert whole(other) == whole(ram)


def test_damaged_file_is_noticed(tmp_path: Path, ram: int, other: int) -> None:
    path = tmp_path / "ram"
    os.pwrite(ram, b"x" * 3 * PAGE, 0)
    extents = ram_file.write(ram, path)
    sound = path.read_bytes()

    path.write_bytes(sound[:-1] + b"y")
    with pytest.raises(RamFileError, match="ram: its contents changed"):
        fill(path, extents, other)
    path.write_bytes(sound[:-1])
    with pytest.raises(RamFileError, match="ram: it is truncated"):
        fill(path, extents, other)
    path.unlink()
    with pytest.raises(RamFileError, match=r"ram: .*No such file"):
        fill(path, extents, other)
    path.write_bytes(sound)
    fill(path, extents, other)
    assert whole(other) == whole(ram)


def test_bytes_of_a_damaged_extent_do_not_reach_the_guest(
    tmp_path: Path, ram: int, other: int
) -> None:
    os.pwrite(ram, b"x" * PAGE, 0)
    extents = ram_file.write(ram, tmp_path / "ram")
    (tmp_path / "ram").write_bytes(b"y" * PAGE)
    with pytest.raises(RamFileError):
        fill(tmp_path / "ram", extents, other)
    assert whole(other) == bytes(SIZE)


@pytest.mark.parametrize(
    "value",
    [
        *(None, {}, [], [0, PAGE, 0], [0, PAGE, 0, 0, 0], ["0", PAGE, 0, 0], [0, PAGE, -1, 0]),
        *([0, 0, 0, 0], [SIZE, PAGE, 0, 0], [0, (1 << 20) + 1, 0, 0], [0, True, 0, 0]),
    ],
)
def test_extent_that_cannot_be_one(value: object) -> None:
    with pytest.raises(RamFileError):
        Extent.from_json(value, SIZE)
    assert Extent.from_json([0, 1 << 20, 0, 0], SIZE).length == 1 << 20


def test_full_disk_is_an_os_error(
    tmp_path: Path, ram: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.pwrite(ram, b"x", 0)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        ram_file.write(ram, tmp_path / "ram")


def test_disk_that_takes_too_long_is_an_os_error(tmp_path: Path, ram: int) -> None:
    os.pwrite(ram, b"x" * SIZE, 0)
    with pytest.raises(TimeoutError, match=r"is not written within 0 s"):
        ram_file.write(ram, tmp_path / "ram", 0)
    assert issubclass(TimeoutError, OSError), "the cache then goes on without the entry"


def test_file_that_is_there_is_not_overwritten(tmp_path: Path, ram: int) -> None:
    (tmp_path / "ram").write_text("of another")
    with pytest.raises(FileExistsError):
        ram_file.write(ram, tmp_path / "ram")


def test_disk_that_is_too_slow_for_a_restore(
    tmp_path: Path, ram: int, other: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.pwrite(ram, b"x", 0)
    extents = ram_file.write(ram, tmp_path / "ram")
    read = threading.Event()
    monkeypatch.setattr(os, "pread", lambda *_: read.wait(20) and b"")
    filling = Filling(tmp_path / "ram", extents, other)
    filling.start()
    with pytest.raises(RamFileError, match=r"ram: it is not read within 0\.01 s"):
        filling.finish(0.01)
    read.set()
    filling.close()


def test_filling_that_is_given_up_leaves_the_descriptor_alone(
    tmp_path: Path, ram: int, other: int
) -> None:
    os.pwrite(ram, b"x" * SIZE, 0)
    extents = ram_file.write(ram, tmp_path / "ram")
    filling = Filling(tmp_path / "ram", extents, other)
    filling.start()
    filling.close()
    before = os.fstat(other).st_blocks
    os.pwrite(ram, bytes(PAGE), 0)
    assert os.fstat(other).st_blocks == before
    Filling(tmp_path / "ram", extents, other).close()  # one that was not begun


def test_filling_that_is_given_up_reads_no_more(
    tmp_path: Path, ram: int, other: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.pwrite(ram, b"x" * SIZE, 0)
    extents = ram_file.write(ram, tmp_path / "ram")
    filling = Filling(tmp_path / "ram", extents, other)
    read: list[int] = []
    begun, told = threading.Event(), threading.Event()

    def pread(_descriptor: int, length: int, place: int) -> bytes:
        read.append(place)
        begun.set()
        told.wait(20)
        return bytes(length)

    monkeypatch.setattr(os, "pread", pread)
    filling.start()
    begun.wait(20)
    closing = threading.Thread(target=filling.close)
    closing.start()
    wait_until("it is told", lambda: filling._stopped)
    told.set()
    closing.join(20)
    assert len(read) < len(extents)
