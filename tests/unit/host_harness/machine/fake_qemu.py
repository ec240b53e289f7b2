# SPDX-License-Identifier: Apache-2.0
"""A monitor whose QEMU saves machine states and loads them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dma_rehearsal.host_harness.machine.qmp import MonitorError

MACHINE_BYTES = b"QEVM and so on"


def _for_its_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class FakeQemu:
    """A monitor whose QEMU saves and loads; ``fails`` names commands that it refuses."""

    def __init__(self, panicked: int) -> None:
        self.panicked = panicked
        self.said: list[str] = []
        self.fails: dict[str, str] = {}
        self.migration = {"status": "completed"}
        self.on_migrate: Callable[[], object] = lambda: None

    def command(self, name: str, **arguments: Any) -> Any:
        self.said.append(name)
        if name in self.fails:
            raise MonitorError(f"{name}: {self.fails[name]}")
        if name in ("migrate", "migrate-incoming"):
            path = Path(arguments["channels"][0]["addr"]["filename"])
            if name == "migrate":
                with open(path, "wb", opener=_for_its_owner) as file:
                    file.write(MACHINE_BYTES)
            else:
                assert path.read_bytes() == MACHINE_BYTES
            self.on_migrate()
        return self.migration if name == "query-migrate" else {}
