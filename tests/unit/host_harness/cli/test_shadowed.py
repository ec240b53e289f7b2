# SPDX-License-Identifier: Apache-2.0
"""A user's file may have the name of one of our folders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE
from dma_rehearsal.host_harness.machine.device_process import _endpoint_refused
from tests.runs import clean_environment


@pytest.mark.parametrize("module", ["dma_rehearsal.host_harness", "pytest"])
def test_device_py_of_a_project(tmp_path: Path, module: str) -> None:
    (tmp_path / "device.py").write_text(
        "from dma_rehearsal.device.endpoints.endpoint import Endpoint\n"
    )
    (tmp_path / "guest").mkdir()
    plugin = ["-p", "dma_rehearsal.host_harness.pytest_plugin"] if module == "pytest" else []
    done = subprocess.run(
        [sys.executable, "-m", module, *plugin, "--help"],
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=str(SOURCE)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


@pytest.mark.parametrize(
    ("log", "said", "hint"),
    [
        (
            "python -m dma_rehearsal.device: no module x\n  next: name MODULE:CLASS\n",
            "no module x",
            "name MODULE",
        ),
        (
            "python -m dma_rehearsal.device: 3000 MSI-X vectors\n",
            "3000 MSI-X vectors",
            "fix Nic: docs/tutorial",
        ),
        ("", "ENDPOINT=nic:Nic", "fix Nic"),
    ],
)
def test_hint_of_the_device_process_is_the_one_that_is_told(
    tmp_path: Path, log: str, said: str, hint: str
) -> None:
    (tmp_path / "device.log").write_text(log)
    error = _endpoint_refused("nic:Nic", tmp_path / "device.log")
    assert said in str(error)
    assert error.hint.startswith(hint)
    assert str(error).count("next: ") == 1
