"""IOBufferMemoryDescriptor's factories, with IOKit's names."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

from . import provenance
from .creation import mask_alignment
from .errors import undo
from .memory import IOMemoryDescriptor, as_direction
from .options import IODirection, IOOptions, kIOMemoryPhysicallyContiguous
from .task import Task, current_task


def _plain_options(direction: IODirection | IOOptions | int, contiguous: bool) -> IOOptions:
    options = IOOptions(int(as_direction(int(direction))))
    return options | kIOMemoryPhysicallyContiguous if contiguous else options


class BufferFactories(IOMemoryDescriptor):
    """All ways to make a buffer; each ends in `_make`."""

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
        """Allocate in the calling task."""
        return cls._make(current_task(), options, capacity, alignment, None, None)

    @classmethod
    def withCapacity(
        cls, capacity: int, direction: IODirection | IOOptions | int, contiguous: bool = False
    ) -> Self:
        """Allocate in the calling task; of options, only the direction and contiguity."""
        options = _plain_options(direction, contiguous)
        return cls._make(current_task(), options, capacity, None, None, None)

    @classmethod
    def withBytes(
        cls,
        data: bytes | bytearray | memoryview,
        direction: IODirection | IOOptions | int,
        contiguous: bool = False,
    ) -> Self:
        """Allocate as many bytes as ``data`` has, and store them."""
        return cls._copied(current_task(), _plain_options(direction, contiguous), bytes(data))

    @classmethod
    def withCopy(
        cls,
        inTask: Task,
        options: IOOptions | int,
        source: bytes | bytearray | memoryview | IOMemoryDescriptor,
    ) -> Self:
        """Allocate as many bytes as ``source`` has, in a task, and store them."""
        if isinstance(source, IOMemoryDescriptor):
            data = source.readBytes(0, source.getLength())
        else:
            data = bytes(source)
        return cls._copied(inTask, options, data)

    @classmethod
    def _copied(cls, task: Task, options: IOOptions | int, data: bytes) -> Self:
        made = cls._make(task, options, len(data), None, None, None)
        try:
            made.writeBytes(0, data)
        except BaseException as error:
            undo(error, made.release)
            raise
        return made
