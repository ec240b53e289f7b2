# SPDX-License-Identifier: Apache-2.0
"""A cache model over a little memory, and a CPU that stores while the model works."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import pytest

from dma_rehearsal.device.cache_model import names
from dma_rehearsal.device.cache_model.model import CacheModel, MakeModel
from dma_rehearsal.device.cache_model.names import Direction, Mode, Span
from dma_rehearsal.device.cache_model.reports import Report, ReportKind
from dma_rehearsal.device.layout import MemoryType
from tests.unit.device.cache_model.cache_sequences import Memory

WB, WT, WC, UC = MemoryType.WB, MemoryType.WT, MemoryType.WC, MemoryType.UC
LINE = 64
OLD, NEW = b"\x11", b"\x22"
EVERY_LINE = [pytest.param(each, id=f"{each}B") for each in names.LINE_SIZES]


class SmallCache:
    """A model over 16 lines of one backing, "ram", filled with OLD."""

    def __init__(
        self,
        mode: Mode = Mode.STRICT,
        line: int = LINE,
        seed: int = 1,
        model: MakeModel = CacheModel,
    ) -> None:
        self.ram = bytearray(OLD * 16 * line)
        self.line = line
        self.memory = Memory({"ram": self.ram})
        self.model = model(self.memory, mode, line, seed)

    def track(
        self,
        kind: MemoryType = WB,
        offset: int = 0,
        length: int | None = None,
        tag: int = 7,
        direction: Direction = Direction.IN_OUT,
    ) -> None:
        span = Span("ram", offset, self.line if length is None else length)
        self.model.track(tag, direction, [(span, kind)])

    def clean_buffer(self, kind: MemoryType = WB, length: int | None = None) -> None:
        """Track a buffer and clean it, as a mapping and the first prepare do."""
        self.track(kind, 0, length)
        self.model.clean_range(7, 0, self.line if length is None else length)

    def read(self, offset: int, length: int, *, no_snoop: bool = True) -> bytes:
        return self.model.read([Span("ram", offset, length)], no_snoop=no_snoop)

    def write(self, offset: int, data: bytes, *, no_snoop: bool = True) -> None:
        self.model.write([Span("ram", offset, len(data))], data, no_snoop=no_snoop)

    def kinds(self) -> list[ReportKind]:
        return [each.kind for each in self.model.reports.take()]

    def report(self) -> Report:
        (found,) = self.model.reports.take()
        return found


def stores_while_read(memory: Memory, store: Callable[[], None]) -> None:
    sound = memory.read

    def read(backing: Hashable, offset: int, length: int) -> bytes:
        copied = sound(backing, offset, length)
        store()
        return copied

    memory.read = read  # type: ignore[method-assign]
