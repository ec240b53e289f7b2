# SPDX-License-Identifier: Apache-2.0
"""The DMAs of a bus that a coroutine awaits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from dma_rehearsal.device.endpoints.dma import PLAIN, Attributes, Data, DmaRefused, Outcome
from dma_rehearsal.device.endpoints.task import Awaited


class _Asynchronous(Protocol):
    """The calls of a bus that these are made of."""

    def read_async(
        self,
        address: int,
        length: int,
        on_done: Callable[[bytes | DmaRefused], None],
        attributes: Attributes = PLAIN,
        *,
        by_message: bool = False,
    ) -> None:
        """See ``Bus.read_async``."""

    def write_async(
        self,
        address: int,
        data: bytes,
        on_done: Callable[[bytes | DmaRefused], None],
        attributes: Attributes = PLAIN,
        *,
        by_message: bool = False,
    ) -> None:
        """See ``Bus.write_async``."""

    def read_list_async(
        self,
        segments: Sequence[tuple[int, int]],
        on_done: Callable[[Outcome], None],
        attributes: Attributes = PLAIN,
    ) -> None:
        """See ``Bus.read_list_async``."""

    def write_list_async(
        self,
        segments: Sequence[tuple[int, Data]],
        on_done: Callable[[Outcome], None],
        attributes: Attributes = PLAIN,
    ) -> None:
        """See ``Bus.write_list_async``."""


class AwaitedDma:
    """A part of `Bus`: its asynchronous calls, for coroutines of ``Endpoint.start``.

    ``await`` starts the DMA. It returns when the DMA is done, and raises DmaRefused when it was
    refused. Order and limits are those of ``Bus.read_async``.
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
        return Awaited(
            lambda done: self.read_async(address, length, done, attributes, by_message=by_message)
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
        return Awaited(
            lambda done: self.write_async(address, data, done, attributes, by_message=by_message)
        )

    def reading_list(
        self: _Asynchronous, segments: Sequence[tuple[int, int]], attributes: Attributes = PLAIN
    ) -> Awaited[list[bytes]]:
        """Read segments (address, length): await a copy of each. See ``read_list_async``."""
        return Awaited(lambda done: self.read_list_async(segments, done, attributes))

    def writing_list(
        self: _Asynchronous, segments: Sequence[tuple[int, Data]], attributes: Attributes = PLAIN
    ) -> Awaited[object]:
        """Write segments (address, data): await the end. See ``write_list_async``."""
        return Awaited(lambda done: self.write_list_async(segments, done, attributes))
