# SPDX-License-Identifier: Apache-2.0
"""Under a real guest, an endpoint is unplugged in every way, and comes back."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.runs import check, run, run_in

HERE = Path(__file__).parent


def test_unplug_and_replug(tmp_path: Path) -> None:
    done = run_in(
        shutil.copytree(HERE / "hotplug/guest_tests", tmp_path / "project"),
        tmp_path / "runs",
        *("--tests", "test_hotplug.py"),
        ENDPOINT="tests.vm.hot_endpoint:Hot",
        HOTPLUG="1",
    )
    assert done.status == 0
    assert "4 passed, 0 failed" in done.output


def test_nvme_loses_its_controller_in_the_middle_of_io(tmp_path: Path) -> None:
    done = run_in(
        shutil.copytree(HERE / "hotplug_nvme/guest_tests", tmp_path / "project"),
        tmp_path / "runs",
        *("--tests", "test_hot_nvme.py"),
        ENDPOINT="tests.vm.hot_nvme:HotNvme",
        HOTPLUG="1",
        DRIVER="nvme",
    )
    assert done.status == 0
    assert "2 passed, 0 failed" in done.output


def test_msix_is_refused_before_qemu_can_abort(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        *("--tests", "examples/nvme/guest_tests"),
        ENDPOINT="examples.nvme.controller:Nvme",
        HOTPLUG="1",
    )
    check(done, 2)
    assert "HOTPLUG=1: exerciser has MSI-X, and QEMU aborts when" in done.output + done.errors
    assert "messages = 1 (MSI)" in done.output + done.errors
