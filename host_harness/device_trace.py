"""What the device did during a test, by the device's own trace: the host's ground for a "kept"."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# What QEMU or the kernel make a device do, whoever runs, and what the allocator tells the platform:
# none of it moves or looks at a byte.
_HOUSEKEEPING = {
    *("attach", "detach", "command", "power", "reset"),
    *("grant", "withdraw", "withdraw owner", "protection"),
}


class DeviceTrace:
    """Follows the file that the device process writes, event by event."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def take(self) -> list[dict[str, Any]]:
        """Return the events since the last call, without housekeeping.

        The device writes an event before it acknowledges what caused it, so the events of a test
        are there when its report is.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        events = [json.loads(line) for line in whole.splitlines()]
        return [each for each in events if each.get("event") not in _HOUSEKEEPING]
