# SPDX-License-Identifier: Apache-2.0
"""The cache model's place on the interconnect: every DMA of the other functions passes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from dma_rehearsal.device.cache_model.model import CacheModel
from dma_rehearsal.device.cache_model.names import MAX_OPERATION, Mode, NotTracked, Scattered, Span
from dma_rehearsal.device.endpoints.interconnect import Refusal
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.platform.file_memory import FileMemory
from dma_rehearsal.device.vfio_user.model import FileRange


class CachePath:
    """An ``interconnect.Caches`` before a model that is not off.

    ``tell`` is called when the model may have new reports.
    """

    def __init__(self, model: CacheModel, memory: FileMemory, tell: Callable[[], None]) -> None:
        self._model, self._memory, self._tell = model, memory, tell

    def check(self, file_ranges: Sequence[FileRange] | None, *, no_snoop: bool) -> Refusal | None:
        """Refuse a no-snoop request in strict mode to a line that no buffer tracks.

        And one that touches more pieces with different buffers than the model bounds it by.
        """
        if file_ranges is None:
            strict = no_snoop and self._model.mode is Mode.STRICT
            return Refusal(DmaReason.CACHE_UNTRACKED, 0) if strict else None
        for file_range in joined(file_ranges):
            for span in _spans(file_range):
                try:
                    self._model.check([span], no_snoop=no_snoop)
                except NotTracked as error:
                    address = file_range.address + error.offset - file_range.offset
                    return Refusal(DmaReason.CACHE_UNTRACKED, address)
                except Scattered as error:
                    address = file_range.address + error.offset - file_range.offset
                    return Refusal(DmaReason.CACHE_SCATTERED, address)
        return None

    def read(self, file_ranges: Sequence[FileRange], *, no_snoop: bool) -> bytes:
        """Let a device read."""
        with self._memory.lent(file_ranges):
            parts = [
                self._model.read([span], no_snoop=no_snoop)
                for file_range in joined(file_ranges)
                for span in _spans(file_range)
            ]
        self._tell()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, file_ranges: Sequence[FileRange], data: bytes, *, no_snoop: bool) -> None:
        """Let a device write."""
        at = 0
        with self._memory.lent(file_ranges):
            for file_range in joined(file_ranges):
                for span in _spans(file_range):
                    part = data if span.length == len(data) else data[at : at + span.length]
                    self._model.write([span], part, no_snoop=no_snoop)
                    at += span.length
        self._tell()


def joined(file_ranges: Sequence[FileRange]) -> list[FileRange]:
    """Join ranges that follow each other in their file."""
    found: list[FileRange] = []
    for file_range in file_ranges:
        last = found[-1] if found else None
        if last and last.file == file_range.file and last.offset + last.length == file_range.offset:
            found[-1] = replace(last, length=last.length + file_range.length)
        else:
            found.append(file_range)
    return found


def _spans(file_range: FileRange) -> Iterator[Span]:
    """Yield a range in parts that one operation of the model takes."""
    for start in range(0, file_range.length, MAX_OPERATION):
        length = min(MAX_OPERATION, file_range.length - start)
        yield Span(file_range.file, file_range.offset + start, length)
