# SPDX-License-Identifier: Apache-2.0
"""The guest has the programs of a package, and the kernel's modules that were asked for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

with_packages = pytest.mark.skipif(
    shutil.which("mke2fs") is None, reason="the run was given no packages"
)


def test_the_programs_are_there_when_they_were_asked_for() -> None:
    asked = Path("/etc/mke2fs.conf").exists()
    assert (shutil.which("mkfs.ext4") is not None) is asked
    assert not Path("/usr/share/doc/e2fsprogs").exists()


@with_packages
def test_a_file_system_is_made_and_mounted(tmp_path: Path) -> None:
    image, folder = tmp_path / "image", tmp_path / "mounted"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True, timeout=60)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True, timeout=60)
    try:
        (folder / "x").write_text("some words")
    finally:
        subprocess.run(["umount", str(folder)], check=True, timeout=60)
    subprocess.run(["e2fsck", "-f", "-n", str(image)], check=True, timeout=60)
    said = subprocess.run(
        ["debugfs", "-R", "cat x", str(image)], check=True, capture_output=True, timeout=60
    )
    assert said.stdout == b"some words"
