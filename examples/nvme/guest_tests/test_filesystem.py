# SPDX-License-Identifier: Apache-2.0
"""A file system and fio on the namespace, also while the controller is reset.

PACKAGES=fio,e2fsprogs gives the guest the two programs.
"""

from __future__ import annotations

import ctypes
import json
import os
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
        *("--verify=crc32c", "--verify_fatal=1", "--verify_backlog=64"),
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
        found = fio(disk(bound.function), seconds)
        assert found["read"]["total_ios"] > 0, "it verified something"


def controller_reset(function: str) -> None:
    (controller,) = Path(f"/sys/bus/pci/devices/{function}/nvme").iterdir()
    (controller / "reset_controller").write_text("1")


def function_level_reset(function: str) -> None:
    folder = Path(f"/sys/bus/pci/devices/{function}")
    (folder / "reset_method").write_text("flr")
    (folder / "reset").write_text("1")


@pytest.mark.parametrize("reset", [controller_reset, function_level_reset])
def test_resets_under_load_lose_no_data(driver, reset: Callable[[str], None]):
    """The driver gives each command that a reset ended to the controller again."""
    with driver("nvme") as bound:
        device = disk(bound.function)
        failed: list[BaseException] = []

        def load() -> None:
            try:
                fio(device, 3)
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=load)
        thread.start()
        resets = 0
        while thread.is_alive():
            thread.join(0.5)
            if thread.is_alive():
                reset(bound.function)
                resets += 1
        assert resets >= 2
        assert not failed, failed
        os.close(os.open(device, os.O_RDONLY))
