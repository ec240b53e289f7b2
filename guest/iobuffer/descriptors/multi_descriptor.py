# SPDX-License-Identifier: Apache-2.0
"""IOMultiMemoryDescriptor: several descriptors, one after the other, as one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple, Protocol, Self, runtime_checkable

from dma_rehearsal.guest.iobuffer.base.errors import (
    IOBadArgumentError,
    IONotAttachedError,
    IOUnsupportedError,
    undo,
)
from dma_rehearsal.guest.iobuffer.base.flags import MapOptions, PurgeableState
from dma_rehearsal.guest.iobuffer.base.options import CACHE_SHIFT, CacheMode, IODirection, IOOptions
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE, Segment, align_up
from dma_rehearsal.guest.iobuffer.descriptors.derived import (
    DerivedMemoryDescriptor,
    clipped_pages,
    hold,
    let_go,
)
from dma_rehearsal.guest.iobuffer.descriptors.guard_pages import IOGuardPageMemoryDescriptor
from dma_rehearsal.guest.iobuffer.descriptors.memory_descriptor import (
    Data,
    IOMemoryDescriptor,
    MapRequest,
    Part,
    as_direction,
)
from dma_rehearsal.guest.iobuffer.descriptors.memory_map import IOMemoryMap
from dma_rehearsal.guest.iobuffer.descriptors.preparation import Preparation
from dma_rehearsal.guest.iobuffer.os.virtual_memory import Reservation, Window, reserve

_ANYWHERE = MapOptions.kIOMapAnywhere
_GUARDED = MapOptions.kIOMapGuardedSmall | MapOptions.kIOMapGuardedLarge
_OURS = _ANYWHERE | MapOptions.kIOMapReference | _GUARDED


@runtime_checkable
class PurgeableDescriptor(Protocol):
    """A descriptor whose memory can be made purgeable."""

    def setPurgeable(self, newState: int) -> PurgeableState:
        """Set the state, and return the old one."""


class _Part(NamedTuple):
    """``length`` bytes of one entry from ``offset`` on."""

    entry: IOMemoryDescriptor
    offset: int
    length: int


class IOMultiMemoryDescriptor(DerivedMemoryDescriptor):
    """The entries' memory, concatenated. Made by `withDescriptors`.

    While it is prepared, no entry can be released or completed to the last. A range with guard
    pages in it has no bytes there: reads and writes of it move nothing.
    """

    def __init__(self, entries: Sequence[IOMemoryDescriptor], direction: IODirection) -> None:
        """Arguments that `withDescriptors` has checked."""
        super().__init__(direction)
        self._entries = tuple(entries)
        # An entry's length can be changed later; the place of the others must not.
        self._lengths = tuple(each.getLength() for each in self._entries)
        self._starts = tuple(accumulate(self._lengths, initial=0))
        self._held: list[list[Preparation]] = []
        self._record.length = self._starts[-1]

    @classmethod
    def withDescriptors(
        cls,
        descriptors: Sequence[IOMemoryDescriptor],
        direction: int | IOOptions,
        asReference: bool = False,
    ) -> Self:
        """Return the descriptors' memory as one, in their order and with their present lengths.

        ``direction`` is within each entry's own (kIODirectionNone allows any). ``asReference``
        changes nothing: in IOKit it saves a copy of the list, which the caller then must not
        change; here the list is always copied.

        `IOBadArgumentError` without entries, for another object, and for an entry whose
        direction does not allow ours.
        """
        del asReference
        wanted = as_direction(int(direction))
        if not descriptors:
            raise IOBadArgumentError("no descriptors: at least one")
        for number, entry in enumerate(descriptors):
            if not isinstance(entry, IOMemoryDescriptor):
                raise IOBadArgumentError(f"entry {number}, {entry!r}, is not an IOMemoryDescriptor")
            own = entry.getDirection()
            if own and wanted & ~own:
                raise IOBadArgumentError(
                    f"entry {number} is {own.name}, which does not allow {wanted.name}: {entry!r}",
                    direction=wanted,
                )
            if has_guards(entry, 0, entry.getLength()) and not _is_guard(entry):
                raise IOUnsupportedError(f"entry {number} has guard pages inside: {entry!r}")
        return cls(descriptors, wanted)

    def getLength(self) -> int:
        """Return the length in bytes, of all entries together."""
        self._check_attached()
        return self._starts[-1]

    @property
    def entries(self) -> tuple[IOMemoryDescriptor, ...]:
        """The descriptors that it is made of."""
        return self._entries

    def getPhysicalSegment(self, offset: int = 0) -> Segment:
        """Return (bus address, bytes to the segment's end); (0, 0) at guards, and past the length.

        Errors as for `IOMemoryDescriptor.getPhysicalSegment`.
        """
        with self._lock:
            room = 0
            for part in self._parts(offset, self.getLength() - offset) if offset >= 0 else ():
                if _is_guard(part.entry):
                    break
                room += part.length
            if offset >= 0 and not room:
                return 0, 0
            # Memory behind a guard can follow on the bus; it does not follow here.
            address, length = super().getPhysicalSegment(offset)
            return address, min(length, room)

    def readBytes(self, offset: int, length: int) -> bytes:
        """Return bytes across the entries; nothing when a guard, or the end, is in the range."""
        with self._lock:
            return b"" if self._guarded(offset, length) else super().readBytes(offset, length)

    def writeBytes(self, offset: int, data: Data | None, length: int | None = None) -> int:
        """Store bytes across the entries; 0 and nothing when a guard, or the end, is in there."""
        data = None if data is None else bytes(data)  # lengths are bytes
        with self._lock:
            count = length if length is not None else None if data is None else len(data)
            if self._guarded(offset, self.getLength() - offset if count is None else count):
                return 0
            return super().writeBytes(offset, data, length)

    def setPurgeable(self, newState: int) -> PurgeableState:
        """Set the state of every entry; return the old one: any Empty wins, then any Volatile.

        `IOBadArgumentError`, and nothing is set, for an unknown state, and when an entry is not
        purgeable (guard pages do not count).
        """
        keep = PurgeableState.kIOMemoryPurgeableKeepCurrent
        try:
            state = PurgeableState(newState)
        except ValueError:
            raise IOBadArgumentError(
                f"purgeable state {newState!r}: KeepCurrent to Empty"
            ) from None
        with self._lock:
            self._check_attached()
            entries: list[PurgeableDescriptor] = []
            for entry in self._entries:
                if isinstance(entry, PurgeableDescriptor):
                    entries.append(entry)
                elif not _is_guard(entry):
                    raise IOBadArgumentError(f"not purgeable: {entry!r}")
            old = [entry.setPurgeable(keep) for entry in entries]  # refuses before one is set
            if state is not keep:
                old = [entry.setPurgeable(state) for entry in entries]
        for wins in (
            PurgeableState.kIOMemoryPurgeableEmpty,
            PurgeableState.kIOMemoryPurgeableVolatile,
        ):
            if wins in old:
                return wins
        return PurgeableState.kIOMemoryPurgeableNonVolatile

    def _check_attached(self) -> None:
        super()._check_attached()
        for entry in self._entries:
            entry._check_attached()

    def _wire(self, direction: IODirection) -> None:
        held: list[Preparation] = []
        try:
            for entry in self._entries:
                held.append(hold(entry, direction, self))
        except BaseException as error:
            undo(error, lambda: self._let_go(held))
            raise
        self._held.append(held)

    def _unwire(self) -> None:
        self._let_go(self._held[-1])
        self._held.pop()

    def _let_go(self, held: list[Preparation]) -> None:
        """Let go of the first entries; after an error the others are still held."""
        while held:
            let_go(self._entries[len(held) - 1], held[-1], self)
            held.pop()

    def _wired(self, offset: int, length: int) -> Iterator[Segment]:
        for part in self._parts(offset, length):
            yield from part.entry._wired(part.offset, part.length)

    def _physical(self, offset: int, length: int) -> Iterator[Segment]:
        for part in self._parts(offset, length):
            yield from part.entry._physical(part.offset, part.length)

    def _owners(self, offset: int, length: int) -> Iterator[Part]:
        for part in self._parts(offset, length):
            yield from part.entry._owners(part.offset, part.length)

    def _read(self, offset: int, length: int) -> bytes:
        data = []
        for part in self._parts(offset, length):
            with part.entry._lock:
                data.append(part.entry._read(part.offset, part.length))
        return b"".join(data)

    def _write(self, offset: int, data: bytes) -> None:
        at = 0
        for part in self._parts(offset, len(data)):
            with part.entry._lock:
                part.entry._write(part.offset, data[at : at + part.length])
            at += part.length

    def _pages(self) -> Iterator[Segment]:
        for entry, length in zip(self._entries, self._lengths, strict=True):
            yield from clipped_pages(entry._pages(), 0, length)

    def _map(self, request: MapRequest) -> IOMemoryMap:
        parts = list(self._parts(request.offset, request.length))
        if len(parts) == 1:
            part, at = parts[0], request.address
            with part.entry._lock:
                inner = part.entry._map(
                    _for_part(request, part, at, request.options, request.within)
                )
            return self._passed_on(request, inner)
        if not request.task.is_current:
            raise IOUnsupportedError(
                f"{len(parts)} entries are mapped in one piece in this process, not in "
                f"{request.task}: map each of them"
            )
        skip = _check_pages(parts)
        if _ANYWHERE in request.options and request.within is None:
            shared = self._compatible(request)
            if shared is not None:
                return shared
        return self._composed(request, parts, skip)

    def _compatible(self, request: MapRequest) -> IOMemoryMap | None:
        """Return an existing mapping that answers the request, counted once more."""
        if not request.options & MapOptions.kIOMapUnique:
            asked = request.options & ~MapOptions.kIOMapReference
            for each in self._maps:
                if (
                    not each.unmapped
                    and each.cache_mode == (request.cache >> CACHE_SHIFT or each.cache_mode)
                    and (each.offset, each.getLength()) == (request.offset, request.length)
                    and each.getMapOptions() & ~MapOptions.kIOMapReference == asked
                ):
                    return each.retain()
        if request.options & MapOptions.kIOMapReference:
            raise IONotAttachedError("kIOMapReference: just this part is not mapped yet")
        return None

    def _composed(self, request: MapRequest, parts: list[_Part], skip: int) -> IOMemoryMap:
        """Place the parts' own mappings one after the other in reserved addresses."""
        options = request.options & ~_OURS | MapOptions.kIOMapUnique
        guard = guard_length(request.options)
        within, address = request.within, request.address
        with ExitStack() as undo:
            if within is None:
                first = 0 if _ANYWHERE in request.options else address - skip - guard
                within = reserve(align_up(skip + request.length, PAGE) + 2 * guard, first)
                undo.callback(within.close)
                address = within.address + guard + skip
            at = address
            modes: set[CacheMode] = set()
            for part in parts:
                with part.entry._lock:
                    inner = part.entry._map(_for_part(request, part, at, options, within))
                undo.callback(inner.unmap)
                if not _is_guard(part.entry):
                    modes.add(inner.cache_mode)
                at += part.length
            window = Window(address, request.length)
            placed = undo.pop_all()

        def unmap() -> None:
            window.check_unused()
            placed.close()

        mode = modes.pop() if len(modes) == 1 else CacheMode.DEFAULT
        return self._made(request, address, mode, window, unmap)

    def _newer_of(self, entry: IOMemoryDescriptor, offset: int, length: int) -> str:
        """Say where newer bytes of a part of an entry are."""
        for start, size, each in zip(self._starts, self._lengths, self._entries, strict=False):
            end = min(offset + length, size)
            if (
                each is entry
                and offset < end
                and (where := self._newer_elsewhere(start + offset, end - offset))
            ):
                return where
        return ""

    def _parts(self, offset: int, length: int) -> Iterator[_Part]:
        """Yield the entries' parts behind a range, to our end at most; without empty ones."""
        index = max(0, bisect_right(self._starts, offset) - 1)
        while length > 0 and index < len(self._entries):
            skip = offset - self._starts[index]
            taken = min(length, self._lengths[index] - skip)
            if taken > 0:
                yield _Part(self._entries[index], skip, taken)
                offset += taken
                length -= taken
            index += 1

    def _guarded(self, offset: int, length: int) -> bool:
        return offset >= 0 and has_guards(self, offset, length)

    def __repr__(self) -> str:
        return (
            f"<IOMultiMemoryDescriptor {self._starts[-1]} bytes in {len(self._entries)} entries, "
            f"{self._direction.name}, {self._state()}, made at {self.made_at}>"
        )


def guard_length(options: MapOptions) -> int:
    """Bytes of guard pages on each side of a mapping: none, one page, or 16."""
    if options & MapOptions.kIOMapGuardedLarge:
        return 16 * PAGE
    return PAGE if options & MapOptions.kIOMapGuardedSmall else 0


def _is_guard(entry: IOMemoryDescriptor) -> bool:
    return isinstance(entry, IOGuardPageMemoryDescriptor)


def has_guards(descriptor: IOMemoryDescriptor, offset: int, length: int) -> bool:
    """Whether guard pages are in a part of a descriptor."""
    if isinstance(descriptor, IOMultiMemoryDescriptor):
        return any(_is_guard(part.entry) for part in descriptor._parts(offset, length))
    return _is_guard(descriptor)


def _for_part(
    request: MapRequest,
    part: _Part,
    address: int,
    options: MapOptions,
    within: Reservation | None,
) -> MapRequest:
    return replace(
        request,
        address=address,
        options=options,
        offset=part.offset,
        length=part.length,
        within=within,
    )


def _check_pages(parts: list[_Part]) -> int:
    """Return where in its page the first part begins.

    `IOUnsupportedError` when the parts cannot be one run of pages: where two of them meet, the one
    must end, and the other begin, at a page.
    """
    places = [list(clipped_pages(part.entry._pages(), part.offset, part.length)) for part in parts]
    for number, ranges in enumerate(places):
        begin, end = ranges[0][0], sum(ranges[-1]) % PAGE
        last = number == len(parts) - 1
        if (number and begin) or (end and not last):
            what = (
                f"begins {begin} bytes into a page"
                if number and begin
                else (f"ends {end} bytes into a page")
            )
            raise IOUnsupportedError(
                f"{parts[number].length} bytes of {parts[number].entry!r} {what}: they cannot be "
                "mapped in one piece with their neighbours"
            )
    return places[0][0][0]
