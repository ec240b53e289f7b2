"""IOBufferMemoryDescriptor: a buffer for DMA, and what was promised for it."""

from __future__ import annotations

import gc
import os
import warnings
import weakref
from types import TracebackType
from typing import Any, Final, Self

from . import pools
from .errors import (
    IOBadArgumentError,
    IOBusyError,
    IONoMemoryError,
    IONotAttachedError,
    IOUnsupportedError,
)
from .heap import Block, Heap
from .options import (
    KNOWN_BITS,
    CacheMode,
    IODirection,
    IOOptions,
    kIOMemoryAutoPrepare,
    kIOMemoryClearEncrypt,
    kIOMemoryHostPhysicallyContiguous,
    kIOMemoryKernelUserShared,
    kIOMemoryMapperNone,
    kIOMemoryPageable,
    kIOMemoryPhysicallyContiguous,
    kIOMemoryPurgeable,
    kIOMemorySharingTypeMask,
    kIOMemoryThreadSafe,
    kIOMemoryUseReserve,
)
from .pool import PAGE, align_up
from .task import Task

_ADDRESS_LIMIT: Final = 1 << 64

_UNSUPPORTED: Final = (
    (kIOMemoryPageable, "kIOMemoryPageable: the carve-out's memory is always wired"),
    (kIOMemoryKernelUserShared, "kIOMemoryKernelUserShared: no kernel mapping is kept yet"),
    (kIOMemoryMapperNone, "kIOMemoryMapperNone: whether there is a mapper is not looked at yet"),
    (kIOMemoryAutoPrepare, "kIOMemoryAutoPrepare: prepare() is not there yet"),
    (kIOMemoryThreadSafe, "kIOMemoryThreadSafe: a descriptor's methods take no lock yet"),
    (kIOMemoryClearEncrypt, "kIOMemoryClearEncrypt: this memory is not encrypted"),
    (kIOMemoryUseReserve, "kIOMemoryUseReserve: there is no reserve pool"),
)

_SUPPORTED_MODES: Final = {
    CacheMode.DEFAULT: CacheMode.COPYBACK,  # what the platform does when nothing is said
    CacheMode.INHIBIT: CacheMode.INHIBIT,
    CacheMode.WRITE_THRU: CacheMode.WRITE_THRU,
    CacheMode.COPYBACK: CacheMode.COPYBACK,
    CacheMode.WRITE_COMBINE: CacheMode.WRITE_COMBINE,
}


def _check_values(options: IOOptions, capacity: int, alignment: int) -> None:
    """Refuse what no platform could do."""
    for name, value in ("capacity", capacity), ("alignment", alignment):
        if isinstance(value, bool) or not isinstance(value, int):
            raise IOBadArgumentError(f"{name} must be an int, not {value!r}")
    if capacity <= 0:
        raise IOBadArgumentError(f"capacity {capacity}: at least 1 byte", length=capacity)
    if alignment <= 0 or alignment & (alignment - 1):
        raise IOBadArgumentError(f"alignment {alignment}: a power of two, at least 1")
    if align_up(capacity, PAGE) >= _ADDRESS_LIMIT or capacity + alignment > _ADDRESS_LIMIT:
        raise IOBadArgumentError(
            f"capacity {capacity:#x} at alignment {alignment:#x} passes the end of the addresses",
            length=capacity,
        )
    unknown = int(options) & ~KNOWN_BITS
    if unknown:
        raise IOBadArgumentError(f"options {int(options):#x}: unknown bits {unknown:#x}")
    if kIOMemoryPageable in options:
        for flag in kIOMemoryPhysicallyContiguous, kIOMemoryHostPhysicallyContiguous:
            if flag in options:
                raise IOBadArgumentError("contiguous memory is wired: not with kIOMemoryPageable")
        if alignment > PAGE:
            raise IOBadArgumentError(
                f"alignment {alignment} above a page implies contiguous: not with kIOMemoryPageable"
            )
    elif kIOMemoryPurgeable in options:
        raise IOBadArgumentError("kIOMemoryPurgeable goes only with kIOMemoryPageable")


def _check_supported(task: Task, options: IOOptions) -> None:
    """Refuse what is not possible here, and say why."""
    if not isinstance(task, Task):
        raise IOBadArgumentError(f"inTask must be a Task, such as current_task(), not {task!r}")
    if not task.is_current:
        raise IOUnsupportedError(f"{task}: buffers are mapped in the calling process only, yet")
    for flag, reason in _UNSUPPORTED:
        if int(options) & flag.value:
            raise IOUnsupportedError(reason)
    if options.cache_mode not in _SUPPORTED_MODES:
        raise IOUnsupportedError(
            f"cache mode {options.cache_mode.name}: the processor's page attributes have no such"
        )
    if options.direction == IODirection.kIODirectionNone:
        raise IOUnsupportedError("kIODirectionNone: without prepare() no direction can come later")


def _allocate(
    heaps: list[Heap], capacity: int, alignment: int, mode: CacheMode, *, pages: bool
) -> tuple[Heap, Block]:
    sizes = ", ".join(f"{heap.pool.name} {heap.pool.size}" for heap in heaps)
    if alignment > max(heap.pool.size for heap in heaps):
        raise IOBadArgumentError(f"alignment {alignment} is above every pool's size ({sizes})")
    failures = []
    for heap in heaps:
        try:
            return heap, heap.allocate(capacity, alignment, mode, pages=pages)
        except IONoMemoryError as error:
            failures.append(error)
    raise IONoMemoryError(
        f"{capacity} bytes at alignment {alignment}: "
        + "; ".join(failure.reason for failure in failures),
        asked=capacity,
        largest=max(failure.largest for failure in failures),
    )


def _reclaim(heap: Heap, block: Block, capacity: int) -> None:
    """Free the memory of a descriptor that was dropped without release()."""
    if os.getpid() != heap.pid:
        return  # a forked child: the memory is its parent's
    warnings.warn(
        f"an IOBufferMemoryDescriptor of {capacity} bytes at {block.physical:#x} in pool "
        f"{heap.pool.name} was not released",
        ResourceWarning,
        stacklevel=2,
    )
    heap.release_late(block)


class IOBufferMemoryDescriptor:
    """A zeroed, wired, physically contiguous buffer, mapped in this process.

    Made by `inTaskWithOptions`. Use it in a ``with``, or call `release`. ::

        with IOBufferMemoryDescriptor.inTaskWithOptions(
            current_task(), kIODirectionIn | kIOMapWriteCombineCache, 1024000, 256
        ) as buffer:
            buffer.view()[:4] = b"abcd"
            address, length = buffer.getPhysicalSegment(0)
    """

    _heap: Heap
    _block: Block | None
    _task: Task
    _options: IOOptions
    _capacity: int
    _alignment: int
    _asked_alignment: int
    _physical: int
    _exporter: weakref.ref[Any] | None
    _finalizer: weakref.finalize[..., Any]

    def __init__(self) -> None:
        raise TypeError("use IOBufferMemoryDescriptor.inTaskWithOptions()")

    @classmethod
    def inTaskWithOptions(
        cls,
        inTask: Task,
        options: IOOptions | int,
        capacity: int,
        alignment: int = 1,
        *,
        pool: str | None = None,
    ) -> Self:
        """Allocate ``capacity`` bytes, zeroed, at a multiple of ``alignment`` (a power of two).

        ``pool`` names one carve-out; without it, all but those for narrow devices are tried. It
        may block, for as long as zeroing the memory takes.

        Any cache mode that is stated raises the alignment to a page, as in IOKit. Every buffer has
        its cache lines to itself, and one below a page does not cross a page.

        Raises `IOBadArgumentError`, `IOUnsupportedError` (legal in IOKit, not possible here),
        `IONoMemoryError` (says the largest free run) and `IODeviceError` (no driver).
        """
        options = IOOptions.of(options)
        _check_values(options, capacity, alignment)
        _check_supported(inTask, options)
        effective = alignment
        if options.cache_mode or int(options) & kIOMemorySharingTypeMask:
            effective = max(alignment, PAGE)
        mode = _SUPPORTED_MODES[options.cache_mode]
        heap, block = _allocate(
            pools.choose(pool), capacity, effective, mode, pages=effective >= PAGE
        )

        self = cls.__new__(cls)
        self._heap = heap
        self._block = block
        self._task = inTask
        self._options = options
        self._capacity = capacity
        self._alignment = effective
        self._asked_alignment = alignment
        self._physical = block.physical
        self._exporter = None
        self._finalizer = weakref.finalize(self, _reclaim, heap, block, capacity)
        self._finalizer.atexit = False
        return self

    def release(self) -> None:
        """Free the buffer and the descriptor's hold on it.

        `IOBusyError` while a view of it lives (nothing is done then); `IONotAttachedError` the
        second time.
        """
        block = self._attached()
        held = self._held()
        if held:
            raise self._busy(held)
        try:
            self._heap.release(block)
        except BufferError as error:
            raise self._busy(str(error)) from error
        self._finalizer.detach()
        self._block = None

    def view(self) -> memoryview:
        """Return the buffer's `getLength` bytes as a writable memoryview, without a copy.

        The view keeps the descriptor alive, and the descriptor cannot be released before it.
        """
        block = self._attached()
        return self._memory(block, self._capacity)

    def footprint(self) -> memoryview:
        """Return all bytes that belong to this buffer alone: `view`'s, and on to the block's end.

        What follows `getLength` bytes is padding to whole cache lines or pages; tests put canaries
        there. The same rules as for `view`.
        """
        block = self._attached()
        return self._memory(block, block.size)

    def __buffer__(self, flags: int) -> memoryview:
        """The buffer protocol, from Python 3.12 on (PEP 688)."""
        return self.view()

    def __len__(self) -> int:
        return self.getLength()

    def getCapacity(self) -> int:
        """Return the bytes asked for."""
        self._attached()
        return self._capacity

    def getLength(self) -> int:
        """Return the length in bytes; it is the capacity."""
        return self.getCapacity()

    def getDirection(self) -> IODirection:
        """Return who may do what: In = the device writes memory, Out = the device reads it."""
        self._attached()
        return self._options.direction

    def getOptions(self) -> IOOptions:
        """Return the options as they were given."""
        self._attached()
        return self._options

    def getPhysicalSegment(self, offset: int = 0) -> tuple[int, int]:
        """Return (bus address, bytes to the segment's end) at ``offset``; (0, 0) past the length.

        `IOBadArgumentError` for a negative offset.
        """
        block = self._attached()
        if offset < 0:
            raise IOBadArgumentError(f"offset {offset}: at least 0")
        if offset >= self._capacity:
            return 0, 0
        return block.physical + offset, self._capacity - offset

    def getPhysicalAddress(self) -> int:
        """Return the bus address of the first byte."""
        return self.getPhysicalSegment(0)[0]

    @property
    def address(self) -> int:
        """The virtual address of the first byte, in this process."""
        return self._attached().address

    @property
    def alignment(self) -> int:
        """The alignment promised, in bytes: the one asked for, or a page where IOKit raises it."""
        return self._alignment

    @property
    def cache_mode(self) -> CacheMode:
        """The mode of the mapping; never DEFAULT, but what that stands for here."""
        return self._attached().pages.mode

    @property
    def pool(self) -> str:
        """The name of the pool that the memory is from."""
        return self._heap.pool.name

    @property
    def released(self) -> bool:
        """Whether `release` has been done."""
        return self._block is None

    def __enter__(self) -> Self:
        self._attached()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release, unless that is done. With an error on its way, its traceback holds the views.

        The memory then comes back when they are gone.
        """
        if self.released:
            return
        try:
            self.release()
        except IOBusyError:
            if error is None:
                raise

    def __repr__(self) -> str:
        state = "released" if self._block is None else f"mapped at {self._block.address:#x}"
        if os.getpid() != self._heap.pid:
            state = f"of process {self._heap.pid}"
        return (
            f"<IOBufferMemoryDescriptor {self._capacity} bytes at {self._physical:#x} in pool "
            f"{self.pool}, {self._options}, alignment {self._asked_alignment}, {state}>"
        )

    def _attached(self) -> Block:
        if self._block is None:
            raise IONotAttachedError(f"{self!r} is used after its release")
        if os.getpid() != self._heap.pid:
            raise IONotAttachedError(
                f"{self!r} is not mapped here: a fork does not inherit buffers"
            )
        return self._block

    def _memory(self, block: Block, size: int) -> memoryview:
        # A ctypes array, since a memoryview keeps its exporter alive, and that can keep us alive.
        exporter: Any = None if self._exporter is None else self._exporter()
        if exporter is None:
            exporter = block.pages.mapping.export(block.offset, block.size)
            exporter.descriptor = self
            self._exporter = weakref.ref(exporter)
        return memoryview(exporter).cast("B")[:size]

    def _held(self) -> str:
        """Say what holds the memory, "" for nothing. An error must not hold it itself."""
        exporter = None if self._exporter is None else self._exporter()
        return "" if exporter is None else f"{_count_views(exporter)} still alive"

    def _busy(self, why: str) -> IOBusyError:
        return IOBusyError(
            f"{self!r}: {why}; release or delete it first",
            address=self._physical,
            length=self._capacity,
            direction=int(self._options.direction),
        )


def _count_views(exporter: object) -> str:
    """Say how many memoryviews of ``exporter`` live, for a message."""
    holders = [r for r in gc.get_referrers(exporter) if type(r).__name__ == "managedbuffer"]
    sizes = []
    for view in (r for holder in holders for r in gc.get_referrers(holder)):
        if isinstance(view, memoryview):
            try:
                sizes.append(str(view.nbytes))
            except ValueError:  # released, and only its object is left
                continue
    if not sizes:
        return "something that uses a view's memory is"
    return f"{len(sizes)} memoryview(s) of it (of {', '.join(sizes)} bytes) are"
