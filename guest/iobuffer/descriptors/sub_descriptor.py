# SPDX-License-Identifier: Apache-2.0
"""IOSubMemoryDescriptor: a part of another descriptor's memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Self

from dma_rehearsal.guest.iobuffer.base.errors import IOBadArgumentError, IOUnsupportedError
from dma_rehearsal.guest.iobuffer.base.options import IODirection, IOOptions
from dma_rehearsal.guest.iobuffer.base.ranges import Segment
from dma_rehearsal.guest.iobuffer.descriptors.derived import (
    DerivedMemoryDescriptor,
    clipped_pages,
    hold,
    let_go,
)
from dma_rehearsal.guest.iobuffer.descriptors.memory_descriptor import (
    IOMemoryDescriptor,
    MapRequest,
    Part,
    as_direction,
)
from dma_rehearsal.guest.iobuffer.descriptors.memory_map import IOMemoryMap
from dma_rehearsal.guest.iobuffer.descriptors.multi_descriptor import has_guards
from dma_rehearsal.guest.iobuffer.descriptors.preparation import Preparation


class IOSubMemoryDescriptor(DerivedMemoryDescriptor):
    """``length`` bytes of a parent. Made by `withSubRange`; parts of parts are fine.

    `prepare` wires the parent, and lets devices reach just this part. Meanwhile the parent can
    be neither released nor completed to the last.
    """

    def __init__(
        self, parent: IOMemoryDescriptor, offset: int, length: int, direction: IODirection
    ) -> None:
        """Arguments that `withSubRange` has checked."""
        super().__init__(direction)
        self._parent = parent
        self._offset = offset
        self._length = self._record.length = length
        self._held: list[Preparation] = []

    @classmethod
    def withSubRange(
        cls, of: IOMemoryDescriptor, offset: int, length: int, direction: int | IOOptions
    ) -> Self:
        """Return ``length`` bytes of ``of`` from ``offset`` on; 0 bytes are allowed.

        `IOBadArgumentError` when they are not within its length; `IOUnsupportedError` when guard
        pages are among them.
        """
        if not isinstance(of, IOMemoryDescriptor):
            raise IOBadArgumentError(f"a part of {of!r}, which is not an IOMemoryDescriptor")
        with of._lock:
            of._check_attached()
            of._checked(offset, length)
            if has_guards(of, offset, length):
                raise IOUnsupportedError(f"{length} bytes from {offset} on of {of!r} have guards")
            return cls(of, offset, length, as_direction(int(direction)))

    def getLength(self) -> int:
        """Return the length in bytes."""
        self._check_attached()
        return self._length

    @property
    def parent(self) -> IOMemoryDescriptor:
        """The descriptor that this is a part of."""
        return self._parent

    @property
    def offset(self) -> int:
        """Where in the parent it begins, in bytes."""
        return self._offset

    def _check_attached(self) -> None:
        super()._check_attached()
        self._parent._check_attached()

    def _wire(self, direction: IODirection) -> None:
        self._held.append(hold(self._parent, direction, self))

    def _unwire(self) -> None:
        let_go(self._parent, self._held[-1], self)
        self._held.pop()

    def _wired(self, offset: int, length: int) -> Iterator[Segment]:
        return self._parent._wired(self._offset + offset, length)

    def _physical(self, offset: int, length: int) -> Iterator[Segment]:
        return self._parent._physical(self._offset + offset, length)

    def _owners(self, offset: int, length: int) -> Iterator[Part]:
        return self._parent._owners(self._offset + offset, length)

    def _read(self, offset: int, length: int) -> bytes:
        with self._parent._lock:
            return self._parent._read(self._offset + offset, length)

    def _write(self, offset: int, data: bytes) -> None:
        with self._parent._lock:
            self._parent._write(self._offset + offset, data)

    def _map(self, request: MapRequest) -> IOMemoryMap:
        with self._parent._lock:
            inner = self._parent._map(replace(request, offset=self._offset + request.offset))
        return self._passed_on(request, inner)

    def _pages(self) -> Iterator[Segment]:
        return clipped_pages(self._parent._pages(), self._offset, self._length)

    def _newer_of(self, parent: IOMemoryDescriptor, offset: int, length: int) -> str:
        """Say where newer bytes of a part of the parent are."""
        start, end = max(offset, self._offset), min(offset + length, self._offset + self._length)
        if parent is not self._parent or start >= end:
            return ""
        return self._newer_elsewhere(start - self._offset, end - start)

    def __repr__(self) -> str:
        return (
            f"<IOSubMemoryDescriptor {self._length} bytes from {self._offset} on of "
            f"{self._parent!r}, {self._direction.name}, {self._state()}, made at {self.made_at}>"
        )
