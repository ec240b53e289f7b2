# SPDX-License-Identifier: Apache-2.0
"""IOMemoryMap: a part of a descriptor's memory, mapped into a task."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from dma_rehearsal.guest.iobuffer.base import deferred, provenance
from dma_rehearsal.guest.iobuffer.base.errors import IOBusyError, IONotAttachedError
from dma_rehearsal.guest.iobuffer.base.flags import MapOptions
from dma_rehearsal.guest.iobuffer.base.fork_safe_lock import make_lock
from dma_rehearsal.guest.iobuffer.base.interfaces import Descriptor
from dma_rehearsal.guest.iobuffer.base.options import CacheMode
from dma_rehearsal.guest.iobuffer.base.task import Task
from dma_rehearsal.guest.iobuffer.os.virtual_memory import Window


class IOMemoryMap:
    """``length`` bytes of a descriptor from ``offset`` on, at ``address`` of ``task``.

    Made by `IOMemoryDescriptor.createMappingInTask`. Use it in a ``with``, or call `unmap`; the
    descriptor is not released before. A mapping that several callers share (a compatible one
    existed) is counted, and the last `unmap` unmaps.
    """

    def __init__(
        self,
        descriptor: Descriptor,
        task: Task,
        address: int,
        length: int,
        *,
        offset: int,
        options: MapOptions,
        cache_mode: CacheMode,
        mapping: Window | None,
        unmap: Callable[[], None],
        drop: Callable[[], None] | None = None,
    ) -> None:
        """``mapping`` is the source of views (None: it is another task's); ``unmap`` ends it.

        ``drop`` does that from a finalizer, where ``unmap`` may have to wait.
        """
        self._descriptor: Descriptor | None = descriptor
        self._task = task
        self._address = address
        self._length = length
        self._offset = offset
        self._options = options
        self._cache_mode = cache_mode
        self._mapping = mapping
        self._uses = 1
        self.made_at = provenance.caller()
        """The "file:line" that made it."""
        self._lock = make_lock()  # its own: a finalizer must wait for no descriptor's
        self._views: list[weakref.ref[Any]] = []  # the exporters of views
        self._finalizer = weakref.finalize(self, _forgotten, drop or unmap, repr(self), os.getpid())
        self._finalizer.atexit = False
        self._unmap = unmap

    def getVirtualAddress(self) -> int:
        """Return the address of the first byte, in the task."""
        self._attached()
        return self._address

    getAddress = getVirtualAddress

    def getLength(self) -> int:
        """Return the length in bytes."""
        self._attached()
        return self._length

    getSize = getLength

    def getMemoryDescriptor(self) -> Descriptor:
        """Return the descriptor that this is a mapping of."""
        return self._attached()

    def getMapOptions(self) -> MapOptions:
        """Return the options as they were given."""
        return self._options

    def getAddressTask(self) -> Task:
        """Return the task that it is mapped in."""
        return self._task

    def getPhysicalSegment(self, offset: int = 0) -> tuple[int, int]:
        """Return the descriptor's segment at ``offset`` of this mapping, cut to the mapping."""
        if not 0 <= offset < self.getLength():
            return 0, 0
        address, length = self._attached().getPhysicalSegment(self._offset + offset)
        return address, min(length, self._length - offset)

    @property
    def offset(self) -> int:
        """Where in the descriptor it begins, in bytes."""
        return self._offset

    @property
    def cache_mode(self) -> CacheMode:
        """The cache mode of the mapping."""
        return self._cache_mode

    @property
    def read_only(self) -> bool:
        """Whether stores through it fault."""
        return MapOptions.kIOMapReadOnly in self._options

    @property
    def unmapped(self) -> bool:
        """Whether the last `unmap` has been done."""
        return self._descriptor is None

    def view(self) -> memoryview:
        """Return the bytes as a memoryview, without a copy. `IONotAttachedError` in other tasks.

        The view keeps the mapping alive, and the mapping cannot be unmapped before it.
        """
        with self._lock:
            self._attached()
            if self._mapping is None:
                raise IONotAttachedError(f"{self!r} is mapped in {self._task}, not in this process")
            exporter = self._mapping.export(self._address - self._mapping.address, self._length)
            exporter.map = self
            exporter.taken_at = provenance.here()
            self._views.append(weakref.ref(exporter, self._views.remove))
            view = memoryview(exporter).cast("B")
            return view.toreadonly() if self.read_only else view

    def __buffer__(self, flags: int) -> memoryview:
        """The buffer protocol, from Python 3.12 on (PEP 688)."""
        return self.view()

    def retain(self) -> Self:
        """Count one more user."""
        with self._lock:
            self._attached()
            self._uses += 1
            return self

    def unmap(self) -> None:
        """Unmap, when this is the last user; when it returns the task has it mapped no more.

        `IOBusyError`, and nothing done, with a live view. `IODeviceError` when another task does
        not answer within 5 s, and what that one raises: it is mapped there still, and the call can
        be made again.
        """
        with self._lock:
            self._attached()
            if self._uses > 1:
                self._uses -= 1
                return
            if self._views:
                first = self._views[0]()
                taken = "" if first is None else provenance.text(first.taken_at)
                del first  # the error's traceback must not hold it
                raise IOBusyError(
                    f"{self!r}: {len(self._views)} view(s) of it alive, the first taken at "
                    f"{taken}; release or delete them first"
                )
            try:
                self._unmap()
            except BufferError as error:
                raise IOBusyError(f"{self!r}: {error}; release or delete them first") from error
            self._finalizer.detach()
            self._descriptor = None

    release = unmap

    def __len__(self) -> int:
        return self.getLength()

    def __enter__(self) -> Self:
        self._attached()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Unmap, unless that is done. With an error on its way, its traceback holds the views."""
        if self._descriptor is None:
            return
        try:
            self.unmap()
        except IOBusyError:
            if error is None:
                raise

    def __repr__(self) -> str:
        return (
            f"<IOMemoryMap {self._length} bytes from {self._offset} on at {self._address:#x} of "
            f"{self._task}, {self._cache_mode.name}, {self._options!r}, "
            f"made at {self.made_at}>"
        )

    def _attached(self) -> Descriptor:
        if self._descriptor is None:
            raise IONotAttachedError(f"{self!r} is used after its unmap")
        return self._descriptor


def _forgotten(unmap: Callable[[], None], what: str, pid: int) -> None:
    """End a mapping that was dropped without unmap()."""
    if os.getpid() != pid:
        return  # a forked child: the mapping is its parent's
    deferred.finalize(unmap, what)
    warnings.warn(f"{what} was not unmapped", ResourceWarning, stacklevel=2)
