# SPDX-License-Identifier: Apache-2.0
"""KEEP=1 keeps a VM in which tests ran, and none in which a selection left nothing to run."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dma_rehearsal.host_harness.process.errors import NoVerdict, Status
from dma_rehearsal.host_harness.process.progress import Progress
from dma_rehearsal.host_harness.session.run import wait_while_kept


@pytest.mark.parametrize(
    ("status", "polled", "words"),
    [
        (Status.FAILED, ["kept"], "the VM is kept, for 12 hours at most"),
        (Status.USAGE, [], "no test ran, so the VM is not kept"),
    ],
)
def test_vm_is_kept_after_tests_alone(
    tmp_path: Path, status: Status, polled: list[str], words: str
) -> None:
    asked: list[str] = []
    said = io.StringIO()

    def poll(phase: str, _seconds: float) -> None:
        asked.append(phase)
        raise NoVerdict("kept", "the guest ended")

    vm = SimpleNamespace(deadlines={"kept": 12 * 3600.0}, poll=poll)
    run: Any = SimpleNamespace(vm=vm, folder=tmp_path, status=status, progress=Progress(said))
    wait_while_kept(run)
    assert asked == polled
    assert words in said.getvalue()
