# SPDX-License-Identifier: Apache-2.0
"""The timers of a saved state: the time that each named timer has left.

They are behind the bytes of the endpoint's `StatePart`s: a mark, and for each name, in alphabetical
order, the nanoseconds left. The mark has the number of this format, and a checksum of the parts and
names, so that the state of another version of the device is refused.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence

from dma_rehearsal.device.vfio_user.timers import MAX_NAMED_S, Timers

FORMAT = 1
_MAGIC = b"DMATIMER"
_MARK = struct.Struct("<8sII")  # magic, format, layout
_NOT_SET = (1 << 64) - 1
_NS = 1_000_000_000


class SavedTimers:
    """Saves and loads named timers. ``layout`` says what the state has besides them."""

    def __init__(self, timers: Callable[[], Timers], names: Sequence[str], layout: str) -> None:
        self._timers, self._names = timers, sorted(names)
        self._layout = zlib.crc32(f"{layout} {self._names}".encode())
        self._left = struct.Struct(f"<{len(names)}Q")
        self.size = _MARK.size + self._left.size if names else 0

    def save(self) -> bytes:
        """Return the time that each has left."""
        if not self._names:
            return b""
        left = self._timers().left()
        values = [round(left[name] * _NS) if name in left else _NOT_SET for name in self._names]
        return _MARK.pack(_MAGIC, FORMAT, self._layout) + self._left.pack(*values)

    def parse(self, data: bytes) -> dict[str, float]:
        """Return the seconds that each has left which is set.

        ValueError for the state of another version, and for a time that no timer has.
        """
        if not self._names:
            return {}
        magic, number, layout = _MARK.unpack_from(data)
        if magic != _MAGIC or number != FORMAT:
            raise ValueError(
                f"its timers are not of format {FORMAT}: it was saved by another version of the "
                "device, or by another device; save it again with this one"
            )
        if layout != self._layout:
            raise ValueError(
                "it was saved by a version of the device with another state, or with other timers "
                f"than {', '.join(self._names)}; save it again with this one"
            )
        left = {}
        for name, value in zip(self._names, self._left.unpack_from(data, _MARK.size), strict=True):
            if value == _NOT_SET:
                continue
            if value > MAX_NAMED_S * _NS:
                raise ValueError(f"its timer {name} has {value} ns left, more than {MAX_NAMED_S} s")
            left[name] = value / _NS
        return left

    def load(self, left: dict[str, float]) -> None:
        """Set each named timer as ``left`` says; the others are not set."""
        if self._names:
            self._timers().restore(left)
