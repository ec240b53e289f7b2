# SPDX-License-Identifier: Apache-2.0
"""IOBufferMemoryDescriptor's factories, with IOKit's names."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Self

from dma_rehearsal.guest.iobuffer.base import coherence, provenance
from dma_rehearsal.guest.iobuffer.base.errors import IOBadArgumentError, undo
from dma_rehearsal.guest.iobuffer.base.options import (
    IODirection,
    IOOptions,
    kIOMemoryPageable,
    kIOMemoryPhysicallyContiguous,
)
from dma_rehearsal.guest.iobuffer.base.task import Task, current_task, kernel_task
from dma_rehearsal.guest.iobuffer.descriptors.creation import mask_alignment
from dma_rehearsal.guest.iobuffer.descriptors.memory_descriptor import (
    IOMemoryDescriptor,
    as_direction,
)
from dma_rehearsal.guest.iobuffer.memory.pool import PAGE


def _plain_options(direction: IODirection | IOOptions | int, contiguous: bool) -> IOOptions:
    options = IOOptions(int(as_direction(int(direction))))
    return options | kIOMemoryPhysicallyContiguous if contiguous else options


def _alignment_of(length: int) -> int:
    """Return ``length`` as an alignment: a power of two, and a cache line where those matter."""
    rounded = 1 << (length - 1).bit_length() if isinstance(length, int) and length > 0 else 1
    return max(coherence.backend().line, rounded)


class BufferFactories(IOMemoryDescriptor):
    """All ways to make a buffer; each ends in `_make`."""

    strict: ClassVar[bool]

    @classmethod
    @abstractmethod
    def _make(
        cls,
        task: Task,
        options: IOOptions | int,
        capacity: int,
        asked_alignment: int | None,
        highest: int | None,
        pool: str | None,
    ) -> Self:
        """Allocate; ``asked_alignment`` None: left out; ``highest``: the last bus address."""

    @classmethod
    def _home(cls) -> Task:
        """Where memory is made when no task is named."""
        return kernel_task if cls.strict else current_task()

    @classmethod
    def inTaskWithOptions(
        cls,
        inTask: Task,
        options: IOOptions | int,
        capacity: int,
        alignment: int | None = None,
        *,
        pool: str | None = None,
    ) -> Self:
        """Allocate ``capacity`` bytes, zeroed, at a multiple of ``alignment`` (a power of two).

        Left out, it is a cache line where the device does not snoop the caches, else 1; an
        `IOAlignmentWarning` says so where less is asked for.

        ``inTask``: whose address space has it: `current_task`, `kernel_task` (nobody's, until a
        mapping is created), or another process (`task_of`). ``pool`` names one pool; without it,
        all but those for narrow devices are tried. It may block, for as long as zeroing takes.

        Any cache mode that is stated raises the alignment to a page, as in IOKit. Every buffer has
        64 bytes at least, and its alignment, to itself; one below a page does not cross a page.

        Raises `IOBadArgumentError`, `IOUnsupportedError` (legal in IOKit, not possible here),
        `IONoMemoryError` (says the largest free run), `IONotPermittedError` (in a signal handler,
        or on a running asyncio loop) and `IODeviceError` (no driver, no answer of the task).
        """
        return cls._make(inTask, options, capacity, alignment, None, pool)

    @classmethod
    async def inTaskWithOptionsAsync(
        cls,
        inTask: Task,
        options: IOOptions | int,
        capacity: int,
        alignment: int | None = None,
        *,
        pool: str | None = None,
    ) -> Self:
        """Do the same in a thread, so that the running loop does not block."""
        import asyncio

        with provenance.made_by(provenance.caller()):  # the thread's frames are the pool's
            return await asyncio.to_thread(
                cls._make, inTask, options, capacity, alignment, None, pool
            )

    @classmethod
    def inTaskWithPhysicalMask(
        cls,
        inTask: Task,
        options: IOOptions | int,
        capacity: int,
        physicalMask: int,
        *,
        pool: str | None = None,
    ) -> Self:
        """Allocate memory whose bus addresses the mask allows; its low zeros are the alignment.

        0 is no mask. Errors as `inTaskWithOptions`'.
        """
        alignment, highest = mask_alignment(physicalMask, 1)
        asked = None if highest is None else alignment
        return cls._make(inTask, options, capacity, asked, highest, pool)

    @classmethod
    def withOptions(
        cls, options: IOOptions | int, capacity: int, alignment: int | None = None
    ) -> Self:
        """Allocate in the calling process, which is what the kernel is in IOKit.

        If ``strict``, in `kernel_task`; so for `withCapacity` and `withBytes`.
        """
        return cls._make(cls._home(), options, capacity, alignment, None, None)

    @classmethod
    def withCapacity(
        cls, capacity: int, direction: IODirection | IOOptions | int, contiguous: bool = False
    ) -> Self:
        """Allocate as `withOptions`; of options, only the direction and contiguity.

        Contiguous memory is aligned to its capacity, rounded up to a power of two.
        """
        options = _plain_options(direction, contiguous)
        alignment = _alignment_of(capacity) if contiguous else None
        return cls._make(cls._home(), options, capacity, alignment, None, None)

    @classmethod
    def withBytes(
        cls,
        data: bytes | bytearray | memoryview,
        direction: IODirection | IOOptions | int,
        contiguous: bool = False,
    ) -> Self:
        """Allocate as many bytes as ``data`` has, as `withOptions`, and store them.

        The alignment is the length, rounded up to a power of two, and a page at most.
        """
        content = bytes(data)
        alignment = _alignment_of(min(len(content), PAGE))
        return cls._copied(cls._home(), _plain_options(direction, contiguous), content, alignment)

    @classmethod
    def withCopy(
        cls,
        inTask: Task,
        options: IOOptions | int,
        source: bytes | bytearray | memoryview | IOMemoryDescriptor,
    ) -> Self:
        """Allocate as many bytes as ``source`` has, in a task, and store them.

        If ``strict``, of pageable memory alone.
        """
        if cls.strict and kIOMemoryPageable not in IOOptions.of(options):
            raise IOBadArgumentError("withCopy(): IOKit copies into kIOMemoryPageable alone")
        if isinstance(source, IOMemoryDescriptor):
            data = source.readBytes(0, source.getLength())
        else:
            data = bytes(source)
        return cls._copied(inTask, options, data)

    @classmethod
    def _copied(
        cls, task: Task, options: IOOptions | int, data: bytes, alignment: int | None = None
    ) -> Self:
        made = cls._make(task, options, len(data), alignment, None, None)
        try:
            made._write(0, data)
        except BaseException as error:
            undo(error, made.release)
            raise
        return made
