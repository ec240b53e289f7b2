# SPDX-License-Identifier: Apache-2.0
"""IODMACommand: a descriptor's memory as the segments that one DMA engine can do.

::

    with IODMACommand.withSpecification(SegmentFunction.OutputHost64, 32, 65536) as command:
        command.setMemoryDescriptor(buffer)         # and prepares it
        segments, end = command.genIOVMSegments(0, 16)
        ...                                         # the DMA
        command.complete()                          # the buffer has the device's bytes now

The memory itself is prepared before, by its `prepare`. Offsets of the methods are within the part
that the command has prepared.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from dma_rehearsal.guest.iobuffer.base import dma_activity, mistakes, provenance
from dma_rehearsal.guest.iobuffer.base.errors import (
    IOBadArgumentError,
    IOBusyError,
    IONotPermittedError,
    IONotReadyError,
    IOReturn,
    IOReturnError,
    undo,
)
from dma_rehearsal.guest.iobuffer.base.fork_safe_lock import make_lock
from dma_rehearsal.guest.iobuffer.base.options import IODirection
from dma_rehearsal.guest.iobuffer.base.ranges import Segment, align_down
from dma_rehearsal.guest.iobuffer.descriptors.coverage import CoverageError
from dma_rehearsal.guest.iobuffer.descriptors.memory_descriptor import IOMemoryDescriptor
from dma_rehearsal.guest.iobuffer.dma import bounce_buffer
from dma_rehearsal.guest.iobuffer.dma.bounce_buffer import BounceAllocator
from dma_rehearsal.guest.iobuffer.dma.prepared_transfer import (
    Prepared,
    TooManySegments,
    Transfer,
    UnfinishedList,
    checked_part,
)
from dma_rehearsal.guest.iobuffer.dma.specification import (
    MappingOptions,
    SegmentFunction,
    Specification,
    Specified,
)
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform

__all__ = [
    "IODMACommand",
    "MappingOptions",
    "SegmentFunction",
    "Specification",
    "Transfer",
    "kForceDoubleBuffer",
]

kForceDoubleBuffer: Final = 0x0100_0000
_IN: Final = IODirection.kIODirectionIn
_OUT: Final = IODirection.kIODirectionOut


class IODMACommand(Specified):
    """A specification, and the memory that it is applied to. Made by `withSpecification`.

    While it is prepared, its memory can be neither released nor completed to the last. All methods
    may be called by several threads.
    """

    # For ported code: IOKit has these names in the class.
    OutputHost32 = SegmentFunction.OutputHost32
    OutputBig32 = SegmentFunction.OutputBig32
    OutputLittle32 = SegmentFunction.OutputLittle32
    OutputHost64 = SegmentFunction.OutputHost64
    OutputBig64 = SegmentFunction.OutputBig64
    OutputLittle64 = SegmentFunction.OutputLittle64
    kMapped = MappingOptions.kMapped
    kBypassed = MappingOptions.kBypassed
    kNonCoherent = MappingOptions.kNonCoherent
    kUnmapped = MappingOptions.kUnmapped
    kForceDoubleBuffer = kForceDoubleBuffer

    def __init__(
        self,
        specification: Specification | None = None,
        *,
        refCon: object = None,
        bounce_allocator: BounceAllocator = bounce_buffer.allocate,
    ) -> None:
        super().__init__(_possible(specification))
        self.made_at = provenance.caller()
        """The "file:line" that made it."""
        self._refcon = refCon
        self._allocator = bounce_allocator
        self._memory: IOMemoryDescriptor | None = None
        self._active: Prepared | None = None
        self._lock = make_lock()

    @classmethod
    def withSpecification(
        cls,
        outSegFunc: SegmentFunction = SegmentFunction.OutputHost64,
        numAddressBits: int = 0,
        maxSegmentSize: int = 0,
        mappingOptions: MappingOptions = MappingOptions.kMapped,
        maxTransferSize: int = 0,
        alignment: int = 1,
        mapper: object | None = None,
        refCon: object = None,
        *,
        alignmentLength: int = 1,
        alignmentInternalSegments: int = 0,
        boundary: int = 0,
        maxSegments: int = 0,
        bounce_allocator: BounceAllocator = bounce_buffer.allocate,
    ) -> Self:
        """Return a command for one engine; the arguments are those of `Specification`.

        0 means without limit.

        ``bounce_allocator``: (length, alignment, highest address) -> memory in one segment, which
        the command releases. `IOBadArgumentError` for a specification that cannot be.
        """
        specification = Specification(
            output=outSegFunc,
            address_bits=numAddressBits,
            max_segment=maxSegmentSize,
            mapping=mappingOptions,
            max_transfer=maxTransferSize,
            alignment=alignment,
            length_alignment=alignmentLength,
            internal_alignment=alignmentInternalSegments,
            boundary=boundary,
            max_segments=maxSegments,
            mapper=mapper,
        )
        return cls(specification, refCon=refCon, bounce_allocator=bounce_allocator)

    @classmethod
    def withRefCon(cls, refCon: object) -> Self:
        """Return a command without a specification; `prepareWithSpecification` gives it one."""
        return cls(refCon=refCon)

    def cloneCommand(self, refCon: object = None) -> Self:
        """Return a command with the same specification, without memory."""
        return type(self)(self._specification, refCon=refCon, bounce_allocator=self._allocator)

    # The memory.

    def setMemoryDescriptor(self, mem: IOMemoryDescriptor | None, autoPrepare: bool = True) -> None:
        """Take this memory, and prepare all of it with ``autoPrepare``. None clears.

        The memory that it has already: nothing, but without ``autoPrepare`` it is completed.
        `IOBusyError` while other memory is prepared; then also what `prepare` raises, and the
        command has no memory.
        """
        with self._lock:
            if mem is None:
                self.clearMemoryDescriptor()
                return
            if not isinstance(mem, IOMemoryDescriptor):
                raise IOBadArgumentError(f"{mem!r} is not an IOMemoryDescriptor")
            if mem is self._memory:
                if not autoPrepare:
                    self._complete_all()
                return
            if self._active is not None:
                raise IOBusyError(f"{self!r} is prepared: complete() before other memory is set")
            self._memory = mem
            if autoPrepare:
                try:
                    self.prepare()
                except BaseException:
                    self._memory = None
                    raise

    def clearMemoryDescriptor(self, autoComplete: bool = True) -> None:
        """Complete, and have no memory.

        `IONotReadyError` without ``autoComplete`` while it is prepared; what `complete` raises.
        """
        with self._lock:
            if self._active is not None and not autoComplete:
                raise IONotReadyError(f"{self!r} is prepared: call complete() first")
            try:
                self._complete_all()
            finally:
                if self._active is None:
                    self._memory = None

    def getMemoryDescriptor(self) -> IOMemoryDescriptor | None:
        """Return the memory that was set, None without."""
        return self._memory

    def getIOMemoryDescriptor(self) -> IOMemoryDescriptor | None:
        """Return the memory that the device uses: a bounce buffer when all of it is in there."""
        with self._lock:
            return self._memory if self._active is None else self._active.used

    def prepare(
        self, offset: int = 0, length: int = 0, flushCache: bool = True, synchronize: bool = True
    ) -> None:
        """Get a part of the memory ready for DMA, all from ``offset`` on for a length of 0.

        With ``synchronize``, bytes that a device reads are brought into the bounce buffer, when
        there is one. With ``flushCache`` and kNonCoherent, the caches are cleaned. Nests for the
        same part.

        Raises `IONotReadyError` (no specification, no memory, memory that is not prepared; another
        part is prepared), `IOBadArgumentError`, `IOReturnError`: kIOReturnOverrun past the
        memory's end, kIOReturnNoSpace above the longest transfer or the most segments (see
        `transfers`), kIOReturnNotAligned for a length; and what the bounce allocator does.
        """
        with self._lock:
            specification, memory = self._ready()
            length = checked_part(specification, memory, offset, length)
            most = specification.max_transfer
            if most and length > most:
                raise IOReturnError(
                    f"{length} bytes, and the device does {most} at once; use transfers()",
                    code=IOReturn.kIOReturnNoSpace,
                    length=length,
                )
            if self._active is None:
                memory._use(self)  # so that it stays prepared from here on
                try:
                    self._active = self._opened(
                        memory, offset, length, flush=flushCache, synchronize=synchronize
                    )
                except BaseException:
                    memory._unuse(self)
                    raise
                return
            if (self._active.offset, self._active.length) != (offset, length):
                raise IONotReadyError(
                    f"{self!r}: prepare() of {length} bytes from {offset} on while another part "
                    "is prepared"
                )
            self._active.count += 1

    def prepareWithSpecification(
        self,
        specification: Specification,
        offset: int = 0,
        length: int = 0,
        flushCache: bool = True,
        synchronize: bool = True,
    ) -> None:
        """Take another specification, and prepare; `IONotPermittedError` while it is prepared."""
        with self._lock:
            if self._active is not None:
                raise IONotPermittedError(f"{self!r} is prepared: call complete() first")
            self._specification = _possible(specification)
            self.prepare(offset, length, flushCache, synchronize)

    def complete(self, invalidateCache: bool = True, synchronize: bool = True) -> None:
        """Undo one prepare. The last one copies the device's bytes out of the bounce buffer.

        So with ``synchronize``, and all of it: bytes that the device left alone as well. With
        ``invalidateCache`` and kNonCoherent, the caches are cleaned and invalidated before.

        Without ``synchronize`` the transfer is given up: data that a device has written to the
        bounce buffer is then a mistake (`mistakes`).

        Raises `IONotReadyError` when it is not prepared, and `IOBusyError`, nothing being undone,
        while the device's driver says that a DMA is in flight. With all of it done:
        `UnfinishedList` with ``synchronize``, when segments were generated, and not to the end;
        `CoverageError`.
        """
        with self._lock:
            active, memory = self._prepared()
            if active.count > 1:
                active.count -= 1
                return
            self._check_idle(active, "complete()")
            if invalidateCache:
                self._clean_and_invalidate(active)
            if dma_platform.coherence.line > 1:
                for part in active.made_of():
                    dma_platform.coherence.completed(*part)
            if synchronize:
                active.copy_back()
            elif where := active.newer(active.offset, active.length):
                mistakes.record(
                    f"{self!r}: complete(synchronize=False) at {provenance.caller()} throws data "
                    f"away: {where}; leave synchronize out, or synchronize(kIODirectionIn) before"
                )
            try:
                active.close()
            except CoverageError:
                self._end(memory)
                raise
            self._end(memory)
            if synchronize:
                active.check_generated()

    def synchronize(self, options: int) -> None:
        """Bring memory and bounce buffer together: Out, memory to bounce; In, bounce to memory.

        Only for what the memory's direction allows; nothing without a bounce buffer. With
        kNonCoherent, and a bounce buffer or not, Out cleans the caches after that, and In cleans
        and invalidates them before. With `kForceDoubleBuffer` all of what is prepared goes through
        a bounce buffer from now on, a new one with other segments, unless it does already: what a
        device has written to the one before comes back.

        Raises `IOBadArgumentError` for both directions at once, and `IONotReadyError` when it is
        not prepared.
        """
        with self._lock:
            if options & 3 == _IN | _OUT:
                raise IOBadArgumentError("synchronize(): In or Out, not both at once")
            if options & ~(3 | kForceDoubleBuffer):
                raise IOBadArgumentError(f"synchronize({options:#x}): unknown bits")
            active, memory = self._prepared()
            if options & kForceDoubleBuffer:
                active = self._doubled(active, memory)
            if options & _OUT:
                active.copy_out()
                self._clean(active)
            if options & _IN:
                self._clean_and_invalidate(active)
                active.copy_back()

    # The segments.

    def genIOVMSegments(self, offset: int, number: int) -> tuple[list[Segment], int]:
        """Return up to ``number`` segments from ``offset`` on, and the offset behind them.

        Raises `IONotReadyError` when it is not prepared, `IOBadArgumentError` for 0 segments,
        `IOReturnError`: kIOReturnOverrun for an offset past the end, kIOReturnMessageTooLarge when
        an address has too many bits.
        """
        return self._generate(offset, number, 64)

    def gen32IOVMSegments(self, offset: int, number: int) -> tuple[list[Segment], int]:
        """Return segments below 4 GiB, as `genIOVMSegments`."""
        return self._generate(offset, number, 32)

    gen64IOVMSegments = genIOVMSegments

    def transfers(self, offset: int = 0, length: int = 0) -> Iterator[Transfer]:
        """Prepare, yield and complete one part of the memory after the other.

        Each is within the longest transfer and the most segments. A part is completed when the
        next one is asked for, or the iterator is closed. Errors as for `prepare` and `complete`;
        kIOReturnNoSpace when not even one aligned piece has few enough segments.
        """
        specification, memory = self._ready()
        end = offset + checked_part(specification, memory, offset, length)
        while offset < end:
            if self.prepared:
                raise IONotReadyError(f"{self!r} is prepared: call complete() before transfers()")
            part = self._prepare_most(specification, offset, end - offset)
            try:
                yield Transfer(offset, part, self.genIOVMSegments(0, part)[0])
            finally:
                self.complete()
            offset += part

    def readBytes(self, offset: int, length: int) -> bytes:
        """Return bytes as the device sees them; nothing when unprepared, or past the end."""
        with self._lock:
            return b"".join(
                source.readBytes(at, size) for source, at, size in self._pieces(offset, length)
            )

    def writeBytes(self, offset: int, data: bytes | bytearray | memoryview) -> int:
        """Store bytes where the device sees them; return how many: 0 as `readBytes`."""
        data = bytes(data)  # lengths are bytes, also of a view with wider items
        with self._lock:
            done = 0
            for target, at, size in self._pieces(offset, len(data)):
                done += target.writeBytes(at, data[done : done + size])
            return done

    # Its properties.

    @property
    def prepared(self) -> int:
        """The number of open preparations."""
        return 0 if self._active is None else self._active.count

    @property
    def bounced(self) -> int:
        """The prepared bytes that go through a bounce buffer."""
        return 0 if self._active is None else self._active.bounced

    def getRefCon(self) -> object:
        """Return what the maker gave; it means nothing to us."""
        return self._refcon

    def getPreparedOffsetAndLength(self) -> tuple[int, int]:
        """Return which part of the memory is prepared; `IONotReadyError` when none is."""
        with self._lock:
            active, _ = self._prepared()
            return active.offset, active.length

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Complete, and have no memory."""
        try:
            self.clearMemoryDescriptor()
        except (IOBusyError, UnfinishedList, CoverageError):
            if error is None:
                raise

    def __repr__(self) -> str:
        active = self._active
        state = "not prepared"
        if active is not None:
            state = (
                f"prepared {active.count} times: {active.length} bytes from {active.offset} on in "
                f"{len(active.segments)} segments, {active.bounced} bytes bounced"
            )
        return f"<IODMACommand {self._specification}, {state}, made at {self.made_at}>"

    # Within.

    def _ready(self) -> tuple[Specification, IOMemoryDescriptor]:
        specification = self._specified()
        if self._memory is None:
            raise IONotReadyError(f"{self!r} has no memory: setMemoryDescriptor()")
        return specification, self._memory

    def _prepared(self) -> tuple[Prepared, IOMemoryDescriptor]:
        if self._active is None or self._memory is None:
            raise IONotReadyError(f"{self!r} is not prepared: call prepare() first")
        return self._active, self._memory

    def _opened(
        self,
        memory: IOMemoryDescriptor,
        offset: int,
        length: int,
        *,
        flush: bool = True,
        synchronize: bool = True,
        whole: bool = False,
    ) -> Prepared:
        """Lay a part out, and bring its bytes to where the device will look for them."""
        opened = Prepared(self._specified(), memory, offset, length, self._allocator, whole=whole)
        try:
            if synchronize:
                opened.copy_out()
            if flush:
                self._clean(opened)
        except BaseException as error:
            undo(error, opened.close)
            raise
        return opened

    def _doubled(self, active: Prepared, memory: IOMemoryDescriptor) -> Prepared:
        """Go through a bounce buffer from now on, with all of it."""
        if active.bounced == active.length:
            return active
        self._check_idle(active, "kForceDoubleBuffer")
        active.copy_back()
        doubled = self._opened(memory, active.offset, active.length, whole=True)
        doubled.count = active.count
        active.close()
        self._active = doubled
        return doubled

    def _prepare_most(self, specification: Specification, offset: int, left: int) -> int:
        """Prepare as much as one transfer can be; return its length."""
        most = specification.max_transfer
        part = _aligned(specification, most) if 0 < most < left else left
        while True:
            try:
                self.prepare(offset, part)
            except TooManySegments as error:
                part = _aligned(specification, error.fit)
                if not part:
                    raise
                continue
            return part

    def _is_non_coherent(self) -> bool:
        return self._specified().mapping is MappingOptions.kNonCoherent

    def _clean(self, active: Prepared) -> None:
        if self._is_non_coherent():
            for part in active.made_of():
                dma_platform.coherence.clean(*part)

    def _clean_and_invalidate(self, active: Prepared) -> None:
        if self._is_non_coherent():
            for part in active.made_of():
                dma_platform.coherence.clean_and_invalidate(*part)

    def _end(self, memory: IOMemoryDescriptor) -> None:
        self._active = None
        memory._unuse(self)

    def _newer_of(self, memory: IOMemoryDescriptor, offset: int, length: int) -> str:
        """Say where newer bytes of a part of our memory are."""
        active = self._active
        return "" if active is None or memory is not self._memory else active.newer(offset, length)

    def _complete_all(self) -> None:
        while self._active is not None:
            self.complete()

    def _check_idle(self, active: Prepared, what: str) -> None:
        busy = dma_activity.in_flight(active.segments)
        if busy:
            raise IOBusyError(f"{what} of {self!r}: {'; '.join(busy)}")

    def _generate(self, offset: int, number: int, bits: int) -> tuple[list[Segment], int]:
        with self._lock:
            active, _ = self._prepared()
            return active.generate(offset, number, min(bits, self._specified().address_bits))

    def _pieces(self, offset: int, length: int) -> list[tuple[IOMemoryDescriptor, int, int]]:
        return [] if self._active is None else list(self._active.pieces(offset, length))


def _possible(specification: Specification | None) -> Specification | None:
    """Refuse to go around a mapper where the allocator has one in use."""
    if (
        specification is not None
        and specification.mapping is MappingOptions.kBypassed
        and dma_platform.translated
    ):
        raise IOBadArgumentError(
            "kBypassed: the device is behind a mapper; kUnmapped gives physical addresses there"
        )
    return specification


def _aligned(specification: Specification, length: int) -> int:
    """Return the most of a length after which the next part is aligned as well, if one is."""
    return align_down(length, specification.granule) or align_down(
        length, specification.length_alignment
    )
