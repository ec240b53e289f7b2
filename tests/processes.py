# SPDX-License-Identifier: Apache-2.0
"""Processes of this machine, as tests look for them."""

from __future__ import annotations

import os
import time
from pathlib import Path


def processes_that_name(text: str) -> list[str]:
    """Return the command lines of live processes that mention ``text``."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if text in words and int(folder.name) != os.getpid():
            found.append(words)
    return found


def wait_until(what: str, condition: object, limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"{what} within {limit_s} s"
        time.sleep(0.05)
