# SPDX-License-Identifier: Apache-2.0
"""The choice of a QEMU: the user's own, if it has the device that a run needs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment import qemu
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure


def test_qemu_that_lacks_vfio_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "qemu"
    fake.write_text("#!/bin/sh\necho 'name \"e1000\", bus PCI'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("QEMU", str(fake))
    with pytest.raises(EnvironmentFailure, match="no vfio-user-pci"):
        qemu.find(lambda _text: None)


def test_qemu_with_vfio_user_on_the_path_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "qemu-system-x86_64"
    fake.write_text(
        "#!/bin/sh\ncase $1 in --version) echo 'QEMU emulator version 10.1.0 (x)';; "
        "*) echo 'name \"vfio-user-pci\", bus PCI'; echo 'name \"edu\", bus PCI';; esac\n"
    )
    fake.chmod(0o755)
    monkeypatch.delenv("QEMU", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = qemu.find(lambda _text: None)
    assert (found.command, found.version) == ((str(fake),), "10.1.0")
