# SPDX-License-Identifier: Apache-2.0
"""The device of the piece read_of_receive_buffer."""

from examples.museum.engine import Engine


class Device(Engine):
    """1234:0dab. It reads the first word of a buffer before it fills it, as firmware does."""

    def store(self, address: int, data: bytes) -> None:
        """Write memory."""
        self.fetch(address, min(8, len(data)))
        super().store(address, data)
