# SPDX-License-Identifier: Apache-2.0
"""The device of the piece boundary."""

from examples.museum.engine import Engine

BOUNDARY = 1 << 16


class Device(Engine):
    """1234:0dab, whose address counter has 16 bits: at 64 KiB it wraps."""

    def fetch(self, address: int, length: int) -> bytes:
        """Read memory."""
        first = min(length, BOUNDARY - address % BOUNDARY)
        data = super().fetch(address, first)
        if first < length:
            data += super().fetch(address - address % BOUNDARY, length - first)
        return data

    def store(self, address: int, data: bytes) -> None:
        """Write memory."""
        first = min(len(data), BOUNDARY - address % BOUNDARY)
        super().store(address, data[:first])
        if first < len(data):
            super().store(address - address % BOUNDARY, data[first:])
