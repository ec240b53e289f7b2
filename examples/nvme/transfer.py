# SPDX-License-Identifier: Apache-2.0
"""The data of a command, to and from the memory that its PRPs describe."""

from __future__ import annotations

from itertools import accumulate, pairwise

from dma_rehearsal.device.endpoints import DmaRefused
from dma_rehearsal.device.endpoints.bus import Bus
from examples.nvme import prp
from examples.nvme.layout import TRANSFER_MAX, Command, CommandFailed, Status


class Transfer:
    """Moves data by a function's bus. A refused DMA ends the command, not the controller."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def check(self, length: int) -> None:
        """CommandFailed for more than MDTS allows."""
        if length > TRANSFER_MAX:
            raise CommandFailed(Status.INVALID_FIELD)

    def from_host(self, command: Command, length: int) -> bytes:
        """Return a copy of the command's data. CommandFailed."""
        try:
            return b"".join(self._bus.read_list(self._ranges(command, length)))
        except DmaRefused as refusal:
            raise CommandFailed(Status.DATA_TRANSFER_ERROR) from refusal

    def to_host(self, command: Command, data: bytes) -> None:
        """Store the data where the command wants it. CommandFailed."""
        try:
            ranges = self._ranges(command, len(data))
            starts = accumulate((length for _, length in ranges), initial=0)
            parts = [data[start:end] for start, end in pairwise(starts)]
            self._bus.write_list(
                [(address, part) for (address, _), part in zip(ranges, parts, strict=True)]
            )
        except DmaRefused as refusal:
            raise CommandFailed(Status.DATA_TRANSFER_ERROR) from refusal

    def _ranges(self, command: Command, length: int) -> list[tuple[int, int]]:
        return prp.ranges(self._bus.read, command.prp1, command.prp2, length)
