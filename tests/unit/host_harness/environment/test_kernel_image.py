# SPDX-License-Identifier: Apache-2.0
"""The ELF kernel in a bzImage, packed in each way."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment import kernel_image
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure

KERNEL = b"\x7fELF" + bytes(5000)


def bzimage(packed: bytes) -> bytes:
    """Return a bzImage with one sector of set-up and a stub of 100 bytes before the payload."""
    header = bytearray(2 * 512 + 100)
    header[0x1F1] = 1
    header[0x202:0x206] = b"HdrS"
    header[0x248:0x24C] = (100).to_bytes(4, "little")
    header[0x24C:0x250] = len(packed).to_bytes(4, "little")
    return bytes(header) + packed + b"more"


def _program(*words: str) -> Callable[[bytes], bytes]:
    def pack(data: bytes) -> bytes:
        if shutil.which(words[0]) is None:
            pytest.skip(f"needs {words[0]}")
        return subprocess.run(words, input=data, stdout=subprocess.PIPE, check=True).stdout

    return pack


_SIZE = len(KERNEL).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("pack", "size"),
    [
        (gzip.compress, b""),  # its own end is the size
        (lzma.compress, _SIZE),
        (lambda data: lzma.compress(data, lzma.FORMAT_ALONE), _SIZE),
        (bz2.compress, _SIZE),
        (_program("zstd", "-qc"), _SIZE),
        (_program("lz4", "-lqc"), _SIZE),
    ],
    ids=["gzip", "xz", "lzma", "bzip2", "zstd", "lz4"],
)
def test_each_packing(tmp_path: Path, pack: Callable[[bytes], bytes], size: bytes) -> None:
    (tmp_path / "bzImage").write_bytes(bzimage(pack(KERNEL) + size))
    kernel_image.extract(tmp_path / "bzImage", tmp_path / "vmlinux")
    assert (tmp_path / "vmlinux").read_bytes() == KERNEL


def test_unknown_packing_names_those_that_are_known(tmp_path: Path) -> None:
    (tmp_path / "bzImage").write_bytes(bzimage(b"\x89LZO"))
    with pytest.raises(EnvironmentFailure, match=r"compression of .*bzImage is not known") as error:
        kernel_image.extract(tmp_path / "bzImage", tmp_path / "vmlinux")
    assert "KERNEL_ZSTD" in error.value.hint


def test_file_that_is_not_a_bzimage(tmp_path: Path) -> None:
    (tmp_path / "bzImage").write_bytes(bytes(1000))
    with pytest.raises(EnvironmentFailure, match="is not a bzImage"):
        kernel_image.extract(tmp_path / "bzImage", tmp_path / "vmlinux")
