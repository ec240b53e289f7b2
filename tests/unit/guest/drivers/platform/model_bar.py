# SPDX-License-Identifier: Apache-2.0
"""BARs of the platform, answered by the model."""

from __future__ import annotations

from dma_rehearsal.device.platform.platform import Platform
from dma_rehearsal.device.platform.protection import Protection
from dma_rehearsal.device.trace import Trace
from tests.unit.device.cache_model.cache_board import CacheBoard
from tests.unit.device.fakes import answer


class ModelBar:
    """BAR0 of a platform; ``read`` can be made to answer otherwise."""

    def __init__(self) -> None:
        self.unit = Protection(capacity=4, fault_capacity=3)
        self.platform = Platform(Trace(), protection=self.unit)
        answer(self.platform)
        self.answers: dict[int, int] = {}

    def __getitem__(self, offset: int) -> int:
        read = int.from_bytes(self.platform.region_read(0, offset, 4), "little")
        return self.answers.get(offset, read)

    def __setitem__(self, offset: int, value: int) -> None:
        self.platform.region_write(0, offset, value.to_bytes(4, "little"))

    def set64(self, offset: int, value: int) -> None:
        self[offset], self[offset + 4] = value & 0xFFFF_FFFF, value >> 32

    def get64(self, offset: int) -> int:
        return self[offset] | self[offset + 4] << 32

    def block(self, offset: int, length: int) -> bytes:
        return b"".join(self[at].to_bytes(4, "little") for at in range(offset, offset + length, 4))


class BoardBar:
    """A BAR of a board's platform; ``answers`` of registers come before the model's."""

    def __init__(self, board: CacheBoard, number: int) -> None:
        self._board, self._number = board, number
        self.answers: dict[int, int] = {}

    def __getitem__(self, offset: int) -> int:
        read = self._board.platform.region_read(self._number, offset, 4)
        return self.answers.get(offset, int.from_bytes(read, "little"))

    def __setitem__(self, offset: int, value: int) -> None:
        self._board.platform.region_write(self._number, offset, value.to_bytes(4, "little"))

    def set64(self, offset: int, value: int) -> None:
        self[offset], self[offset + 4] = value & 0xFFFF_FFFF, value >> 32

    def get64(self, offset: int) -> int:
        return self[offset] | self[offset + 4] << 32

    @property
    def data(self) -> memoryview:
        size = self._board.platform.region_size(self._number)
        return memoryview(self._board.platform.region_read(self._number, 0, size))
