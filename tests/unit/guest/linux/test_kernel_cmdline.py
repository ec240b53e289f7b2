# SPDX-License-Identifier: Apache-2.0
"""The words that describe the device, how it is found, and the soak run."""

from __future__ import annotations

from pathlib import Path

import pytest

from dma_rehearsal.device.exerciser import profile
from dma_rehearsal.guest.drivers import exerciser
from dma_rehearsal.guest.drivers.pci_sysfs import PciFunction
from dma_rehearsal.guest.linux import kernel_cmdline
from dma_rehearsal.guest.linux.kernel_cmdline import (
    DeviceParameters,
    device_parameters,
    repeat_count,
)
from dma_rehearsal.host_harness.machine import kernel_cmdline as host_cmdline


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kernel_cmdline, "CMDLINE", tmp_path / "cmdline")
    monkeypatch.setattr(kernel_cmdline, "PARAMETERS", tmp_path / "parameters")
    return tmp_path / "cmdline"


def test_nothing_said_is_the_plain_exerciser(line: Path) -> None:
    assert device_parameters() == DeviceParameters(0x13B5, 0xED01, 16, None)
    line.write_text("quiet panic=-1 rehearsal.other=4 rehearsal.alone\n")
    assert device_parameters().is_plain


def test_words_of_the_harness_are_understood(line: Path) -> None:
    found = profile.find("coherent-64")
    line.write_text(f"quiet {' '.join(host_cmdline.device_parameters(found))} x=1\n")
    segments = frozenset({"segments"})
    assert device_parameters() == DeviceParameters(0x8086, 0x10FB, 64, found.crc32, True, segments)
    assert not device_parameters().is_plain
    line.write_text(" ".join(host_cmdline.device_parameters(profile.find("soc-30"))))
    assert device_parameters().limits == {"addresses", "segments"}
    assert not device_parameters().coherent


@pytest.mark.parametrize(
    "word",
    [
        "device=13b5",
        "device=x:y",
        "vectors=many",
        "profile=",
        "device=",
        "limits=speed",
        "coherent=x",
    ],
)
def test_word_that_cannot_be_is_named(line: Path, word: str) -> None:
    line.write_text(f"rehearsal.{word}")
    with pytest.raises(ValueError, match=r"write rehearsal\.device=13b5:ed01"):
        device_parameters()


@pytest.mark.parametrize("said", ["", "rehearsal.device=1022:2000"])
def test_only_a_device_that_the_driver_does_not_know_is_bound(
    line: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    line.write_text(said)
    bound: list[bool] = []
    asked: list[tuple[int, int]] = []

    def find(vendor: int, device: int, index: int) -> PciFunction:  # noqa: ARG001
        asked.append((vendor, device))
        return PciFunction(line.parent)

    monkeypatch.setattr(PciFunction, "find", find)
    monkeypatch.setattr(PciFunction, "bind", lambda _: bound.append(True))
    exerciser.find()
    assert asked == [(0x1022, 0x2000) if said else (0x13B5, 0xED01)]
    assert bound == [True] * bool(said)


def test_tests_repeat_more_in_a_soak_run(line: Path) -> None:
    line.write_text("quiet rehearsal.soak=0")
    assert repeat_count(3, 500) == 3
    line.write_text("quiet rehearsal.soak=1")
    assert repeat_count(3, 500) == 500


def test_parameters_of_the_run_win_over_the_command_line(line: Path) -> None:
    line.write_text("rehearsal.vectors=4 rehearsal.soak=1 vectors=5\n")
    assert device_parameters().vectors == 4
    line.with_name("parameters").write_text("rehearsal.vectors=8 other.vectors=9\n")
    assert device_parameters().vectors == 8
    assert repeat_count(3, 500) == 500
    line.with_name("parameters").write_text("rehearsal.vectors=8 rehearsal.soak=0\n")
    assert repeat_count(3, 500) == 3
    line.unlink()
    assert device_parameters().vectors == 8
