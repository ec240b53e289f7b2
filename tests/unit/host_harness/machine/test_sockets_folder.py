# SPDX-License-Identifier: Apache-2.0
"""The folder of a VM's sockets."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.machine import sockets_folder
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure


def test_sockets_go_where_their_names_have_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with ExitStack() as stack:
        folder = sockets_folder.make(stack)
        assert folder.parent == Path("/tmp")
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()
    monkeypatch.setattr("os.access", lambda *_: False)
    with (
        ExitStack() as stack,
        pytest.raises(EnvironmentFailure, match="no folder can hold the sockets"),
    ):
        sockets_folder.make(stack)
