# SPDX-License-Identifier: Apache-2.0
"""The trace of the rig's devices: kept in memory, test by test, for the host's verdict."""

from __future__ import annotations

from typing import Any

from dma_rehearsal.device.trace import Trace


class KeptTrace(Trace):
    """Keeps events as the device process would write them."""

    def __init__(self) -> None:
        super().__init__()
        self.on = True
        self.tests: set[str | None] = set()  # whose requests there were
        self.all_events: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []

    def event(self, device: str, event: str, **fields: object) -> None:
        """Keep it."""
        if event == "request":
            self.tests.add(self.test)
        time = len(self.all_events) / 1000  # each event a millisecond later than the one before
        facts = {"time": time, "device": device, "test": self.test, "event": event}
        self._events.append({**facts, **fields})
        self.all_events.append(self._events[-1])

    def take(self) -> list[dict[str, Any]]:
        """Return the events since the last time."""
        taken, self._events = self._events, []
        return taken
