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
from dma_rehearsal.device.vfio_user.model import Place


class CachePath:
    """An ``interconnect.Caches`` before a model that is not off.

    ``tell`` is called when the model may have new reports.
    """

    def __init__(self, model: CacheModel, memory: FileMemory, tell: Callable[[], None]) -> None:
        self._model, self._memory, self._tell = model, memory, tell

    def check(self, places: Sequence[Place] | None, *, no_snoop: bool) -> Refusal | None:
        """Refuse a no-snoop request in strict mode to a line that no buffer tracks.

        And one that touches more pieces with different buffers than the model bounds it by.
        """
        if places is None:
            strict = no_snoop and self._model.mode is Mode.STRICT
            return Refusal(DmaReason.CACHE_UNTRACKED, 0) if strict else None
        for place in joined(places):
            for span in _spans(place):
                try:
                    self._model.check([span], no_snoop=no_snoop)
                except NotTracked as error:
                    address = place.address + error.offset - place.offset
                    return Refusal(DmaReason.CACHE_UNTRACKED, address)
                except Scattered as error:
                    address = place.address + error.offset - place.offset
                    return Refusal(DmaReason.CACHE_SCATTERED, address)
        return None

    def read(self, places: Sequence[Place], *, no_snoop: bool) -> bytes:
        """Let a device read."""
        with self._memory.lent(places):
            parts = [
                self._model.read([span], no_snoop=no_snoop)
                for place in joined(places)
                for span in _spans(place)
            ]
        self._tell()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, places: Sequence[Place], data: bytes, *, no_snoop: bool) -> None:
        """Let a device write."""
        at = 0
        with self._memory.lent(places):
            for place in joined(places):
                for span in _spans(place):
                    part = data if span.length == len(data) else data[at : at + span.length]
                    self._model.write([span], part, no_snoop=no_snoop)
                    at += span.length
        self._tell()


def joined(places: Sequence[Place]) -> list[Place]:
    """Join places that follow each other in their file."""
    found: list[Place] = []
    for place in places:
        last = found[-1] if found else None
        if last and last.file == place.file and last.offset + last.length == place.offset:
            found[-1] = replace(last, length=last.length + place.length)
        else:
            found.append(place)
    return found


def _spans(place: Place) -> Iterator[Span]:
    """Yield a place in parts that one operation of the model takes."""
    for start in range(0, place.length, MAX_OPERATION):
        length = min(MAX_OPERATION, place.length - start)
        yield Span(place.file, place.offset + start, length)
