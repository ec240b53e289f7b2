# SPDX-License-Identifier: Apache-2.0
"""Uncached memory: each access is aligned, and the C library's memcpy and memset make none."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator

import pytest

from dma_rehearsal.guest.iobuffer import CacheMode
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.os import uncached
from dma_rehearsal.guest.iobuffer.os.driver import Driver
from dma_rehearsal.guest.iobuffer.os.virtual_memory import Mapping

PLACES = range(17)


@pytest.fixture
def memory() -> Iterator[Mapping]:
    mapping = Mapping(-1, 32 * PAGE)
    yield mapping
    mapping.close()


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 23, 64, 65, 20 * PAGE])
def test_every_access_is_at_its_alignment(memory: Mapping, length: int) -> None:
    for place in PLACES:
        at = 0
        for _, offset, items in uncached._items(memory.address + place, length):
            assert offset == at
            size = ctypes.sizeof(items._type_)
            assert ctypes.addressof(items) == memory.address + place + at
            assert ctypes.addressof(items) % size == 0
            assert size in (1, uncached.WORD)
            assert size == uncached.WORD or ctypes.sizeof(items) < uncached.WORD
            at += ctypes.sizeof(items)
        assert at == length


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 23, 64, 65, 20 * PAGE])
def test_bytes_come_and_go_and_those_beside_stay(memory: Mapping, length: int) -> None:
    data = bytes(1 + index % 251 for index in range(length))
    for place in PLACES:
        around = slice(0, place + length + 9)
        memory.write(0, b"\xee" * around.stop)
        uncached.store(memory.address + place, data)
        expected = b"\xee" * place + data + b"\xee" * 9
        assert memory.read(0, around.stop) == expected
        assert uncached.load(memory.address + place, length) == data
        uncached.zero(memory.address + place, length)
        assert memory.read(0, around.stop) == b"\xee" * place + bytes(length) + b"\xee" * 9


def test_a_mapping_that_is_uncached_keeps_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    mappings = [Mapping(-1, PAGE), Mapping(-1, PAGE, uncached=True)]

    def fault(*_: object) -> None:
        raise OSError("bus error")

    for name in "memset", "memmove", "string_at":
        monkeypatch.setattr(ctypes, name, fault)
    plain, careful = mappings
    careful.write(3, b"abcdefghij")
    careful.zero(5, 2)
    assert careful.read(2, 12) == b"\0ab\0\0efghij\0"
    with pytest.raises(OSError, match="bus error"):
        plain.write(3, b"x")
    with pytest.raises(OSError, match="bus error"):
        plain.zero(5, 2)
    with pytest.raises(OSError, match="bus error"):
        plain.read(2, 1)
    for each in mappings:
        each.close()


@pytest.mark.parametrize("mode", [CacheMode.INHIBIT, CacheMode.WRITE_COMBINE, CacheMode.COPYBACK])
def test_the_drivers_uncached_mappings_are_such(mode: CacheMode) -> None:
    driver = Driver.__new__(Driver)
    driver._fd = os.memfd_create("carve-out")
    mapping = driver.map(PAGE, PAGE, mode)
    assert mapping._uncached is (mode is CacheMode.INHIBIT)
    mapping.close()
    os.close(driver._fd)
