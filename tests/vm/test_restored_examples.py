# SPDX-License-Identifier: Apache-2.0
"""Tests of a user's own say the same from a saved state as in a guest that boots cold."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE
from tests.comparison import records, run_each_start, unlike
from tests.runs import Run, run_in

EXAMPLES = {  # the options of a run
    "checksum": {"ENDPOINT": "examples.checksum.checksum_device:Checksum"},
    "driver_project": {},
    "nvme": {
        "ENDPOINT": "examples.nvme.controller:Nvme",
        "DRIVER": "nvme",
        "PACKAGES": "fio,e2fsprogs",
    },
    "own_driver": {
        "ENDPOINT": "examples.own_driver.mirror_device:Mirror",
        "MODULE": "examples/own_driver/driver",
    },
    "virtio_blk": {
        "ENDPOINT": "examples.virtio_blk.blk_device:VirtioBlk",
        "DRIVER": "virtio_pci",
        "KERNEL_MODULES": "virtio_blk",
    },
}


# A block layer cuts and joins transfers as memory is scattered, so the numbers of mappings differ.
BY_OUTCOMES = ("nvme", "virtio_blk")


def test_every_example_is_here() -> None:
    folders = {each.parent.name for each in (SOURCE / "examples").glob("*/guest_tests")}
    assert folders == {*EXAMPLES}


@pytest.mark.full
@pytest.mark.parametrize("example", EXAMPLES)
def test_example_says_the_same_from_each_start(example: str, tmp_path: Path) -> None:
    number = itertools.count(1)

    def start(state: str) -> Run:
        runs = tmp_path / str(next(number))
        settings = {**EXAMPLES[example], "SEED": "0x5eed", "STATE": state}
        tests = "--tests", f"examples/{example}/guest_tests", "-k", "not 30s"
        return run_in(SOURCE, runs, *tests, **settings)

    runs = run_each_start(start)
    assert [each.status for each in runs] == [0] * len(runs)
    assert re.search(r"\b[1-9]\d* passed, 0 failed", runs[0].output)
    compared = records(runs)
    if example in BY_OUTCOMES:
        outcomes = [{name: test.outcome for name, test in each.tests.items()} for each in compared]
        assert all(each == outcomes[0] for each in outcomes)
    else:
        assert unlike(compared) == ""
