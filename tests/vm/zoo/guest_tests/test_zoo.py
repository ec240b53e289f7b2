# SPDX-License-Identifier: Apache-2.0
"""Right drivers of the zoo: right data, and nothing to report, under every condition."""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from device_file import inverted, opened, pattern, written

from dma_rehearsal.guest.testkit.driver_rehearsal import DriverRehearsal

LENGTHS = [1, 63, 64, 65, 4095, 4096, 4097, 20000, 65536]
ZOO_MMAP_COPY, ZOO_MMAP_SHARE = ord("Z") << 8 | 1, ord("Z") << 8 | 2
ZOO_MMAP_SIZE = 65536


@pytest.mark.parametrize("narrow", [0, 1], ids=["64-bit", "32-bit"])
def test_streaming(driver: DriverRehearsal, narrow: int) -> None:
    with driver("zoo_stream", narrow=narrow), opened("zoo_stream") as file:
        for length in LENGTHS:
            written(file, pattern(length, length))
            assert os.read(file, 65536) == pattern(length, length)


def test_streaming_from_several_threads(driver: DriverRehearsal) -> None:
    def transfer(file: int, seed: int) -> int:
        for turn in range(5):
            written(file, pattern(3000, seed))
            found = os.read(file, 3000)
            assert found in [pattern(3000, each) for each in range(4)], (seed, turn)
        return seed

    with (
        driver("zoo_stream"),
        opened("zoo_stream") as file,
        ThreadPoolExecutor(4) as pool,
    ):
        assert list(pool.map(lambda seed: transfer(file, seed), range(4))) == [0, 1, 2, 3]


def test_bidirectional(driver: DriverRehearsal) -> None:
    with driver("zoo_bidirectional"), opened("zoo_bidirectional") as file:
        for length in 1, 64, 100, 4096:
            data = pattern(length, length)
            for _ in range(2):
                written(file, data)
                assert os.read(file, length) == inverted(data)


def test_small_objects(driver: DriverRehearsal) -> None:
    with driver("zoo_small"), opened("zoo_small") as file:
        data = pattern(24, 5)
        written(file, data)
        assert os.read(file, 24 * 16) == data * 16


def test_pinned_memory(driver: DriverRehearsal) -> None:
    pages = 12
    with (
        driver("zoo_pinned"),
        opened("zoo_pinned") as file,
        mmap.mmap(-1, pages * 4096) as source,
        mmap.mmap(-1, pages * 4096) as target,
    ):
        source[:] = pattern(pages * 4096)
        assert os.writev(file, [source]) == pages * 4096
        assert os.readv(file, [target]) == pages * 4096
        assert target[:] == source[:]
        with pytest.raises(OSError, match="Invalid argument"):
            os.writev(file, [memoryview(source)[1:4097]])


def test_memory_that_is_not_coherent(driver: DriverRehearsal) -> None:
    with driver("zoo_noncoherent"), opened("zoo_noncoherent") as file:
        for length in 100, 16384, 5000:
            written(file, pattern(length, length))
            assert os.read(file, length) == pattern(length, length)


def test_coherent_memory_in_a_program(driver: DriverRehearsal) -> None:
    half = ZOO_MMAP_SIZE // 2
    with (
        driver("zoo_mmap"),
        opened("zoo_mmap") as file,
        mmap.mmap(file, ZOO_MMAP_SIZE) as memory,
    ):
        for turn, command in enumerate([ZOO_MMAP_COPY, ZOO_MMAP_SHARE, ZOO_MMAP_COPY]):
            memory[:half] = pattern(half, turn)
            fcntl.ioctl(file, command)
            assert memory[half:] == pattern(half, turn)


def test_managed_memory_and_sleep(driver: DriverRehearsal) -> None:
    with driver("zoo_managed") as bound, opened("zoo_managed") as file:
        for length in 4096, 10, 16384:
            written(file, pattern(length, length))
            sleeping(bound.folder)
            assert os.read(file, length) == pattern(length, length)


def sleeping(folder: Path) -> None:
    """Wait until the device is in D3hot; its driver has let it sleep."""
    for _ in range(1000):
        if (folder / "power_state").read_text().strip() == "D3hot":
            return
        time.sleep(0.01)
    pytest.fail(f"the device is still in {(folder / 'power_state').read_text().strip()}")


def test_mappings_in_a_timer_and_an_interrupt(driver: DriverRehearsal) -> None:
    with driver("zoo_atomic"), opened("zoo_atomic") as file:
        for length in 256, 1, 4096, 1000:
            written(file, pattern(length, length))
            assert os.read(file, length) == inverted(pattern(length, length))


def test_bind_again(driver: DriverRehearsal) -> None:
    for _ in range(3):
        with driver("zoo_stream"), opened("zoo_stream") as file:
            written(file, b"again")
