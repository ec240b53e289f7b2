# SPDX-License-Identifier: Apache-2.0
"""The mappings of one buffer: made, shared when compatible, and counted."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import Final, Protocol

from dma_rehearsal.guest.iobuffer.base.errors import (
    IOBusyError,
    IONotAttachedError,
    IOUnsupportedError,
    of_the_system,
)
from dma_rehearsal.guest.iobuffer.base.flags import MapOptions
from dma_rehearsal.guest.iobuffer.base.interfaces import Descriptor
from dma_rehearsal.guest.iobuffer.base.options import (
    CACHE_SHIFT,
    DIRECTION_FIELD,
    CacheMode,
    IODirection,
    IOOptions,
)
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE, align_up
from dma_rehearsal.guest.iobuffer.descriptors import remote
from dma_rehearsal.guest.iobuffer.descriptors.creation import CACHE_MODES
from dma_rehearsal.guest.iobuffer.descriptors.memory_descriptor import MapRequest
from dma_rehearsal.guest.iobuffer.descriptors.memory_map import IOMemoryMap
from dma_rehearsal.guest.iobuffer.memory.backing import Backing
from dma_rehearsal.guest.iobuffer.os.virtual_memory import (
    Mapping,
    MapPlacement,
    page_address,
    reserve,
)

_GUARDS: Final = {
    MapOptions.kIOMapGuardedSmall: PAGE,
    MapOptions.kIOMapGuardedLarge: 16 * PAGE,
}
_ANY_GUARD: Final = MapOptions.kIOMapGuardedSmall | MapOptions.kIOMapGuardedLarge
_COPY: Final = MapOptions.kIOMemoryMapCopyOnWrite
# Options that make one mapping differ from another.
_KIND: Final = MapOptions.kIOMapReadOnly | _ANY_GUARD


class IOMapWarning(UserWarning):
    """A mapping allows accesses that the descriptor's direction does not need."""


class MappableBuffer(Descriptor, Protocol):
    """A buffer, as the maker of its mappings sees it."""

    @property
    def backing(self) -> Backing:
        """The memory behind the buffer."""

    @property
    def address(self) -> int:
        """The virtual address in this process, 0 when it is not mapped here."""

    @property
    def cache_mode(self) -> CacheMode:
        """The cache mode of the memory."""

    def getOptions(self) -> IOOptions:
        """Return the options that it was made with."""

    def getCapacity(self) -> int:
        """Return the bytes that were asked for."""


class MapTable:
    """Makes the mappings of one descriptor, and keeps track of the live ones. Not locked."""

    def __init__(self) -> None:
        self._live: weakref.WeakSet[IOMemoryMap] = weakref.WeakSet()

    def live(self) -> list[IOMemoryMap]:
        """Return the mappings that have not been unmapped."""
        return [each for each in self._live if not each.unmapped]

    def make(self, buffer: MappableBuffer, request: MapRequest) -> IOMemoryMap:
        """Make a mapping, or give a compatible one to one more user."""
        options = request.options
        mode = _mode(buffer, request)
        fresh = MapOptions.kIOMapUnique | _COPY
        if not options & fresh and request.within is None:
            found = self._compatible(request, mode)
            if found is not None:
                try:
                    return found.retain()
                except IONotAttachedError:
                    pass  # its last user has unmapped it in this moment
        if MapOptions.kIOMapReference in options:
            raise IONotAttachedError(
                f"kIOMapReference: {request.length} bytes from {request.offset} on are not mapped "
                f"in {request.task}"
            )
        made = self._made(buffer, request, mode)
        self._live.add(made)
        return made

    def _compatible(self, request: MapRequest, mode: CacheMode) -> IOMemoryMap | None:
        for each in self.live():
            if (
                each.getAddressTask() == request.task
                and (each.offset, each.getLength()) == (request.offset, request.length)
                and each.cache_mode is mode
                and each.getMapOptions() & _KIND == request.options & _KIND
                and not each.getMapOptions() & (_COPY | MapOptions.kIOMapUnique)
                and request.address in (0, each.getVirtualAddress())
            ):
                return each
        return None

    def _made(self, buffer: MappableBuffer, request: MapRequest, mode: CacheMode) -> IOMemoryMap:
        if request.task.is_kernel:
            return _in_kernel(buffer, request, mode)
        if not request.task.is_current:
            return _in_other_task(buffer, request, mode)
        original = (
            buffer.address
            and mode is buffer.cache_mode
            and request.within is None
            and not request.address
            and not request.options & (_KIND | _COPY | MapOptions.kIOMapUnique)
        )
        if original:
            return _original(buffer, request, mode)
        return _here(buffer, request, mode)


def _mode(buffer: MappableBuffer, request: MapRequest) -> CacheMode:
    asked = CacheMode(request.cache >> CACHE_SHIFT)
    if asked not in CACHE_MODES:
        raise IOUnsupportedError(
            f"cache mode {asked.name}: the processor has no page attribute for it"
        )
    return buffer.cache_mode if asked is CacheMode.DEFAULT else CACHE_MODES[asked]


def _map(
    buffer: MappableBuffer,
    request: MapRequest,
    mode: CacheMode,
    address: int,
    mapping: Mapping | None,
    unmap: Callable[[], None],
    drop: Callable[[], None] | None = None,
) -> IOMemoryMap:
    return IOMemoryMap(
        buffer,
        request.task,
        address,
        request.length,
        offset=request.offset,
        options=request.options,
        cache_mode=mode,
        mapping=mapping,
        unmap=unmap,
        drop=drop,
    )


def _original(buffer: MappableBuffer, request: MapRequest, mode: CacheMode) -> IOMemoryMap:
    """The address that the buffer was made at."""
    mapping = buffer.backing.mapping
    return _map(buffer, request, mode, buffer.address + request.offset, mapping, _nothing)


def _in_kernel(buffer: MappableBuffer, request: MapRequest, mode: CacheMode) -> IOMemoryMap:
    if mode is not buffer.cache_mode:
        raise IOBusyError(f"the memory is {buffer.cache_mode.name}, not {mode.name}")
    window, unmap = buffer.backing.lend_kernel_map()
    return _map(buffer, request, mode, window.address + request.offset, None, unmap)


def _in_other_task(buffer: MappableBuffer, request: MapRequest, mode: CacheMode) -> IOMemoryMap:
    share = buffer.backing.share()
    made = remote.request(
        request.task,
        "map",
        share,
        {
            "options": int(buffer.getOptions()) & ~DIRECTION_FIELD | buffer.getDirection(),
            "capacity": buffer.getCapacity(),
            "map_options": int(request.options),
            "map_address": request.address,
            "cache": request.cache,
            "offset": request.offset,
            "length": request.length,
        },
    )
    return _map(buffer, request, mode, made.address, None, made.close, made.drop)


def _here(buffer: MappableBuffer, request: MapRequest, mode: CacheMode) -> IOMemoryMap:
    options, at = request.options, request.address
    read_only = MapOptions.kIOMapReadOnly in options
    if options & _COPY:
        # A snapshot at once: a private page would follow the source until it is stored to.
        skip = at % PAGE if request.within else 0
        size = align_up(skip + request.length, PAGE)
        placement = MapPlacement(at=page_address(at - skip), within=request.within)
        try:
            copy = Mapping(-1, size, 0, placement)
        except OSError as error:
            what = "a mapping for a copy"
            raise of_the_system(what, error, length=size, address=placement.at) from error
        copy.write(skip, buffer.backing.read(request.offset, request.length))
        return _map(buffer, request, mode, copy.address + skip, copy, copy.close)
    if not read_only and buffer.getDirection() is IODirection.kIODirectionOut:
        warnings.warn(
            f"a further writable mapping of {buffer!r}: devices only read it; kIOMapReadOnly?",
            IOMapWarning,
            stacklevel=4,
        )
    populate = MapOptions.kIOMapPrefault in options
    guard = sum(size for option, size in _GUARDS.items() if option in options)
    place = (buffer.address + request.offset) % PAGE  # of the first byte in its page
    first = page_address(at - place) if at else 0
    if not guard:
        placement = MapPlacement(read_only, populate, first, request.within)
        mapping, skip = buffer.backing.map(request.offset, request.length, mode, placement)
        return _map(buffer, request, mode, mapping.address + skip, mapping, mapping.close)
    inner = align_up(place + request.length, PAGE)
    reservation = reserve(inner + 2 * guard, first - guard if first else 0)
    try:
        placement = MapPlacement(read_only, populate, reservation.address + guard, reservation)
        mapping, skip = buffer.backing.map(request.offset, request.length, mode, placement)
    except BaseException:
        reservation.close()
        raise

    def unmap() -> None:
        mapping.close()
        reservation.close()

    return _map(buffer, request, mode, mapping.address + skip, mapping, unmap)


def _nothing() -> None:
    """Unmap nothing: the buffer's own mapping ends with the buffer."""
