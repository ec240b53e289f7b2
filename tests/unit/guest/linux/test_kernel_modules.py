# SPDX-License-Identifier: Apache-2.0
"""Parameters of kernel modules on the command line, and how a module that fails is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from dma_rehearsal.guest.linux import kernel_modules
from dma_rehearsal.guest.linux.kernel_modules import load, parameters

LINE = "quiet dma_rehearsal.zones=1M@16M dma_rehearsal.fault=x rehearsal.shells=2 msr.a=1\n"


def test_parameters_are_those_of_one_module() -> None:
    assert parameters("dma_rehearsal", LINE) == "zones=1M@16M fault=x"
    assert parameters("rehearsal", LINE) == "shells=2"
    assert parameters("zram", LINE) == ""


def test_a_file_that_is_not_a_module_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_modules, "MODULES", tmp_path)
    (tmp_path / "zram.ko").write_text("not a module")
    with pytest.raises(OSError, match="loading zram num_devices=0: "):
        load("zram", "num_devices=0")
    with pytest.raises(FileNotFoundError, match=r"lzo-rle\.ko"):
        load("lzo-rle", "")
