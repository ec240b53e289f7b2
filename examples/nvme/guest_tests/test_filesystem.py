# SPDX-License-Identifier: Apache-2.0
"""A file system and fio on the namespace, also while the controller is reset.

PACKAGES=fio,e2fsprogs gives the guest the two programs.
"""

from __future__ import annotations

import ctypes
import json
import random
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_nvme import disk, everywhere

FILES, FILE_MAX = 40, 300_000  # bytes
FIO_LIMIT_S = 120.0

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def mounted(device: Path, folder: Path) -> Iterator[Path]:
    """Mount an ext4 file system; unmount it at the end."""
    folder.mkdir(exist_ok=True)
    if _libc.mount(bytes(device), bytes(folder), b"ext4", 0, None):
        raise OSError(ctypes.get_errno(), f"mount {device}")
    try:
        yield folder
    finally:
        if _libc.umount2(bytes(folder), 0):
            raise OSError(ctypes.get_errno(), f"unmount {folder}")


def sums(folder: Path) -> dict[str, int]:
    return {each.name: zlib.crc32(each.read_bytes()) for each in folder.iterdir()}


@everywhere
def test_a_directory_of_files_survives_an_unbind(driver, data, tmp_path):
    folder = tmp_path / "mounted"
    chosen = random.Random(FILES)
    with driver("nvme") as bound:
        device = disk(bound.function)
        subprocess.run(["mkfs.ext4", "-q", "-F", device], check=True)
        with mounted(device, folder):
            files = folder / "files"
            files.mkdir()
            for number in range(FILES):
                (files / f"{number}").write_bytes(data.take(chosen.randrange(FILE_MAX)))
            written = sums(files)
        with mounted(device, folder):
            assert sums(folder / "files") == written
    with driver("nvme") as bound, mounted(disk(bound.function), folder):
        assert sums(folder / "files") == written


def fio(device: Path, seconds: float, **options: object) -> dict[str, object]:
    """Write at random and verify what was written; return what fio says of the job."""
    command = [
        *("fio", "--name=verify", f"--filename={device}", "--direct=1", "--rw=randwrite"),
        *("--ioengine=libaio", "--iodepth=16", "--size=8m", "--bsrange=4k-64k"),
        *("--verify=crc32c", "--verify_fatal=1", "--verify_backlog=16"),
        *("--time_based", f"--runtime={seconds}", "--output-format=json"),
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds + FIO_LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, object] = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    assert found["error"] == 0
    return found


@pytest.mark.parametrize("seconds", [3, 30], ids=["3s", "30s"])
@pytest.mark.rehearse(coherent=(True, False))
def test_fio_verifies(driver, seconds):
    with driver("nvme") as bound:
        # A rate that each machine can have bounds the trace, which has every DMA.
        found = fio(disk(bound.function), seconds, rate_iops=300)
        assert found["read"]["total_ios"] > 0, "it verified something"


def controller_reset(function: str) -> None:
    (controller,) = Path(f"/sys/bus/pci/devices/{function}/nvme").iterdir()
    (controller / "reset_controller").write_text("1")


def function_level_reset(function: str) -> None:
    folder = Path(f"/sys/bus/pci/devices/{function}")
    (folder / "reset_method").write_text("flr")
    (folder / "reset").write_text("1")


class Load:
    """fio in the background: ``failed`` has what it ended with."""

    def __init__(self, device: Path, seconds: float) -> None:
        self._device, self._seconds = device, seconds
        self.failed: list[BaseException] = []
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            fio(self._device, self._seconds)
        except BaseException as error:
            self.failed.append(error)


def wait_for_requests(device: Path, load: Load) -> None:
    """Return when the driver has requests under way."""
    while not sum(map(int, Path("/sys/class/block", device.name, "inflight").read_text().split())):
        assert load.thread.is_alive(), load.failed


@pytest.mark.parametrize("reset", [controller_reset, function_level_reset])
def test_resets_under_load_lose_no_data(driver, reset: Callable[[str], None]):
    """The driver gives each command that a reset ended to the controller again."""
    with driver("nvme") as bound:
        device = disk(bound.function)
        load = Load(device, 3)
        wait_for_requests(device, load)
        while load.thread.is_alive():
            reset(bound.function)
            load.thread.join(0.5)
        assert not load.failed, load.failed


def test_a_removal_in_mid_io_ends_it(driver):
    """The function goes from the bus, and is there again after a scan, with what it stored."""
    with driver("nvme") as bound:
        device = disk(bound.function)
        load = Load(device, FIO_LIMIT_S)
        wait_for_requests(device, load)
        (bound.folder / "remove").write_text("1")
        load.thread.join(FIO_LIMIT_S / 2)
        assert load.failed, "fio saw the disk go"
        assert not bound.folder.exists()
        Path("/sys/bus/pci/rescan").write_text("1")
        assert bound.folder.exists()
    with driver("nvme") as bound:
        fio(disk(bound.function), 1)
