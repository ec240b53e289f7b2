# SPDX-License-Identifier: Apache-2.0
"""The choice of the accelerator."""

from __future__ import annotations

from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment import accelerator, qemu
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure, Status


def test_kvm_that_is_insisted_on_and_fails_is_status_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMA_REHEARSAL_CACHE", str(tmp_path))
    with pytest.raises(EnvironmentFailure, match="ACCEL=kvm") as failure:
        accelerator.choose(qemu.Qemu(("false",), "", ""), Path("/none"), "kvm")
    assert failure.value.status is Status.ENVIRONMENT
