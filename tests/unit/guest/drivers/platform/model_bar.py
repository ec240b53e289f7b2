# SPDX-License-Identifier: Apache-2.0
"""BAR0 of the platform, answered by the model."""

from __future__ import annotations

from dma_rehearsal.device.platform.platform import Platform
from dma_rehearsal.device.platform.protection import Protection
from dma_rehearsal.device.trace import Trace
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
