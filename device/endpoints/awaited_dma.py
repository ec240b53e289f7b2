# SPDX-License-Identifier: Apache-2.0
"""The DMAs of a bus that a coroutine awaits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from dma_rehearsal.device.endpoints.dma import PLAIN, Attributes, Data, DmaRefused, Outcome
from dma_rehearsal.device.endpoints.dma_queue import Started
from dma_rehearsal.device.endpoints.task import Awaited, Steps

R = TypeVar("R")


class _Asynchronous(Protocol):
    """The calls of a bus that these are made of."""

    def read_async(
        self,
        address: int,
        length: int,
        on_done: Callable[[bytes | DmaRefused], object],
        attributes: Attributes = PLAIN,
        *,
        by_message: bool = False,
    ) -> Started:
        """See ``Bus.read_async``."""

    def write_async(
        self,
        address: int,
        data: bytes,
        on_done: Callable[[bytes | DmaRefused], object],
        attributes: Attributes = PLAIN,
        *,
        by_message: bool = False,
    ) -> Started:
        """See ``Bus.write_async``."""

    def read_list_async(
        self,
        segments: Sequence[tuple[int, int]],
        on_done: Callable[[Outcome], object],
        attributes: Attributes = PLAIN,
    ) -> Started:
        """See ``Bus.read_list_async``."""

    def write_list_async(
        self,
        segments: Sequence[tuple[int, Data]],
        on_done: Callable[[Outcome], object],
        attributes: Attributes = PLAIN,
    ) -> Started:
        """See ``Bus.write_list_async``."""

    def drop(self, dma: Started) -> None:
        """See ``Bus.drop``."""


class _AwaitedDma(Awaited[R]):
    """A DMA to await: ``start`` starts it. It is dropped when its coroutine ends before it does."""

    what = "a DMA"

    def __init__(
        self, bus: _Asynchronous, start: Callable[[Callable[[Any], None]], Started]
    ) -> None:
        self._bus, self._start = bus, start

    def __await__(self) -> Steps[R]:
        """Wait."""
        self.awaited = True
        dma: Started | None = None

        def begin(resume: Callable[[Any], None]) -> None:
            nonlocal dma
            dma = self._start(resume)

        try:
            outcome = yield begin
        except GeneratorExit:
            if dma is not None:
                self._bus.drop(dma)
            raise
        if isinstance(outcome, BaseException):
            raise outcome
        result: R = outcome
        return result


class AwaitedDma:
    """A part of `Bus`: its asynchronous calls, for coroutines of ``Endpoint.start``.

    ``await`` starts the DMA. It returns when the DMA is done, and raises DmaRefused when it was
    refused. Order and limits are those of ``Bus.read_async``. A coroutine that is ended drops the
    DMA that it awaits (``Bus.drop``).
    """

    def reading(
        self: _Asynchronous,
        address: int,
        length: int,
        attributes: Attributes = PLAIN,
        *,
        by_message: bool = False,
    ) -> Awaited[bytes]:
        """Read memory: await the bytes. See ``read_async``."""
        return _AwaitedDma(
            self,
            lambda done: self.read_async(address, length, done, attributes, by_message=by_message),
        )

    def writing(
        self: _Asynchronous,
        address: int,
        data: bytes,
        attributes: Attributes = PLAIN,
        *,
        by_message: bool = False,
    ) -> Awaited[object]:
        """Write memory: await the end. See ``write_async``."""
        return _AwaitedDma(
            self,
            lambda done: self.write_async(address, data, done, attributes, by_message=by_message),
        )

    def reading_list(
        self: _Asynchronous, segments: Sequence[tuple[int, int]], attributes: Attributes = PLAIN
    ) -> Awaited[list[bytes]]:
        """Read segments (address, length): await a copy of each. See ``read_list_async``."""
        return _AwaitedDma(self, lambda done: self.read_list_async(segments, done, attributes))

    def writing_list(
        self: _Asynchronous, segments: Sequence[tuple[int, Data]], attributes: Attributes = PLAIN
    ) -> Awaited[object]:
        """Write segments (address, data): await the end. See ``write_list_async``."""
        return _AwaitedDma(self, lambda done: self.write_list_async(segments, done, attributes))

    def drained(self: _Asynchronous) -> Awaited[object]:
        """Await the end of every DMA that was started before, also of what a dropped one sent."""
        return _AwaitedDma(self, lambda done: self.read_list_async((), done))
