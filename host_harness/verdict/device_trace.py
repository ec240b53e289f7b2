# SPDX-License-Identifier: Apache-2.0
"""Follows the device's trace, which is the host's evidence for "kept"."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dma_rehearsal.host_harness.process.errors import NoVerdict

_LINE_MAX = 1 << 20  # bytes; the longest list in a trace takes a fifth of it
_EVENTS_MAX = 1 << 19  # of one test, as many as a whole trace may have


class DeviceTrace:
    """Follows the file that the device process writes, event by event."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._line = 0

    def take(self) -> list[dict[str, Any]]:
        """Return the events since the last call.

        The device writes an event before it acknowledges what caused it, so a test's events are
        there when its report is. An unfinished line is returned by the next call. NoVerdict for a
        line that is not an event: the device's actions are then unknown.
        """
        found: list[dict[str, Any]] = []
        for event in map(self._event, self._lines()):
            if len(found) >= _EVENTS_MAX:
                raise self._unusable(f"more than {_EVENTS_MAX} events in one test")
            found.append(event)
        return found

    def _lines(self) -> Iterator[bytes]:
        """Read whole lines, in bounded memory."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self._offset)
            while (line := file.readline(_LINE_MAX + 1)).endswith(b"\n"):
                self._offset += len(line)
                self._line += 1
                yield line
            if len(line) > _LINE_MAX:
                self._line += 1
                raise self._unusable(f"an event of more than {_LINE_MAX} bytes")

    def _event(self, line: bytes) -> dict[str, Any]:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise self._unusable(f"not an event: {error}") from error
        if not isinstance(event, dict) or not isinstance(event.get("event"), str):
            raise self._unusable("an event without a name")
        return event

    def _unusable(self, why: str) -> NoVerdict:
        return NoVerdict(
            "test",
            f"the device's trace cannot be followed: line {self._line}: {why}",
            f"look into {self._path}",
        )
