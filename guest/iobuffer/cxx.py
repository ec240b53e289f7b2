# SPDX-License-Identifier: Apache-2.0
"""IOKit's manners for people who port C++ code: None, or a return code, in place of an exception.

Factories return None when they fail, and calls that return IOReturn in IOKit return an `IOReturn`;
`last_error` returns the exception behind it, with its reason. ::

    from dma_rehearsal.guest.iobuffer.cxx import (
        IOBufferMemoryDescriptor, kIOReturnSuccess, last_error
    )

    buffer = IOBufferMemoryDescriptor.inTaskWithOptions(kernel_task, kIODirectionIn, 4096)
    if buffer is None:
        print(last_error())
    elif buffer.prepare() != kIOReturnSuccess: ...

IOKit's refusals are refusals here as well (``strict``), so that a buffer made here is not NULL
there: memory of a user task is pageable, for one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, Self, TypeVar

from dma_rehearsal.guest.iobuffer.base.errors import IOReturn, IOReturnError
from dma_rehearsal.guest.iobuffer.descriptors import buffer as _buffer
from dma_rehearsal.guest.iobuffer.descriptors.memory_map import IOMemoryMap

kIOReturnSuccess: Final = IOReturn.kIOReturnSuccess

T = TypeVar("T")

_last = threading.local()


def last_error() -> IOReturnError | None:
    """Return what went wrong in this thread's last call of this module, None for nothing."""
    error: IOReturnError | None = getattr(_last, "error", None)
    return error


def _or_none(call: Callable[[], T]) -> T | None:
    _last.error = None
    try:
        return call()
    except IOReturnError as error:
        _last.error = error
        return None


def _code(call: Callable[[], object]) -> IOReturn:
    _last.error = None
    try:
        call()
    except IOReturnError as error:
        _last.error = error
        return error.code
    return kIOReturnSuccess


class IOBufferMemoryDescriptor(_buffer.IOBufferMemoryDescriptor):
    """`iobuffer.IOBufferMemoryDescriptor` with IOKit's manners, and the same arguments."""

    strict = True

    @classmethod
    def inTaskWithOptions(cls, *args: Any, **words: Any) -> Self | None:  # type: ignore[override]
        """Return a buffer or None."""
        made = super().inTaskWithOptions
        return _or_none(lambda: made(*args, **words))

    @classmethod
    def inTaskWithPhysicalMask(  # type: ignore[override]
        cls, *args: Any, **words: Any
    ) -> Self | None:
        """Return a buffer or None."""
        made = super().inTaskWithPhysicalMask
        return _or_none(lambda: made(*args, **words))

    @classmethod
    def withOptions(cls, *args: Any, **words: Any) -> Self | None:  # type: ignore[override]
        """Return a buffer or None."""
        made = super().withOptions
        return _or_none(lambda: made(*args, **words))

    @classmethod
    def withCapacity(cls, *args: Any, **words: Any) -> Self | None:  # type: ignore[override]
        """Return a buffer or None."""
        made = super().withCapacity
        return _or_none(lambda: made(*args, **words))

    @classmethod
    def withBytes(cls, *args: Any, **words: Any) -> Self | None:  # type: ignore[override]
        """Return a buffer or None."""
        made = super().withBytes
        return _or_none(lambda: made(*args, **words))

    @classmethod
    def withCopy(cls, *args: Any, **words: Any) -> Self | None:  # type: ignore[override]
        """Return a buffer or None."""
        made = super().withCopy
        return _or_none(lambda: made(*args, **words))

    def createMappingInTask(  # type: ignore[override]
        self, *args: Any, **words: Any
    ) -> IOMemoryMap | None:
        """Return a mapping or None."""
        made = super().createMappingInTask
        return _or_none(lambda: made(*args, **words))

    def prepare(self, *args: Any, **words: Any) -> IOReturn:  # type: ignore[override]
        """Return how it ended."""
        done = super().prepare
        return _code(lambda: done(*args, **words))

    def complete(self, *args: Any, **words: Any) -> IOReturn:  # type: ignore[override]
        """Return how it ended."""
        done = super().complete
        return _code(lambda: done(*args, **words))

    def performOperation(self, *args: Any, **words: Any) -> IOReturn:  # type: ignore[override]
        """Return how it ended."""
        done = super().performOperation
        return _code(lambda: done(*args, **words))

    def release(self) -> IOReturn:  # type: ignore[override]
        """Return how it ended."""
        return _code(super().release)

    def setPurgeable(self, newState: int) -> tuple[IOReturn, int]:  # type: ignore[override]
        """Return (code, old state); the state is 0 when the code is an error."""
        old: list[int] = []
        call = super().setPurgeable
        code = _code(lambda: old.append(call(newState)))
        return code, old[0] if old else 0


__all__ = ["IOBufferMemoryDescriptor", "IOMemoryMap", "kIOReturnSuccess", "last_error"]
