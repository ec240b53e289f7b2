# SPDX-License-Identifier: Apache-2.0
"""The trace: the events of a device as JSON lines, each written at once."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import TextIO


class Trace:
    """Writes events to a file; without a path it drops them. Safe from several threads.

    A guest decides how many events there are, so the file ends at ``limit`` bytes with an event
    that says so.
    """

    def __init__(self, path: Path | None = None, *, limit: int = 1 << 28) -> None:
        """Open ``path`` for writing; OSError when it cannot be."""
        self.on = path is not None  # whether events go anywhere
        self.test: str | None = None  # the test that runs, as every event says
        self._room = limit
        self._file: TextIO | None = path.open("w", buffering=1) if path else None
        self._start = time.monotonic()
        self._lock = threading.Lock()

    def event(self, device: str, event: str, **fields: object) -> None:
        """Write one line: seconds since the start, device, test, event and ``fields``."""
        if self._file is None:
            return
        seconds = round(time.monotonic() - self._start, 6)
        facts = {"time": seconds, "device": device, "test": self.test, "event": event}
        line = json.dumps({**facts, **fields})
        with self._lock:
            if self._room < 0 or self._file is None:
                return
            self._room -= len(line) + 1
            if self._room < 0:
                line = json.dumps({**facts, "event": "trace is full"})
            self._file.write(line + "\n")

    def close(self) -> None:
        """Close the file; what comes later goes nowhere."""
        with self._lock:
            file, self._file = self._file, None
        if file is not None:
            file.close()
