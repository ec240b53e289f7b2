# SPDX-License-Identifier: Apache-2.0
"""The descriptor ring of BAR3: scatter-gather transfers that software lays out in guest memory.

The guest can change the ring while it is read, put it anywhere, or aim a transfer at it. So the
descriptors between the completion index and the doorbell's are copied once, before the first of
them is acted on, and nothing looks at guest memory for them again. Their number is below the size,
the size is latched and bounded, and so are the bytes of a doorbell.

In mapped memory all of a doorbell's work is done when its write is. Where the client must be asked,
it goes on afterwards, one transfer at a time: RING_STATUS reads BUSY until it is done, a doorbell
that rings meanwhile is answered then, and a ring that is turned off stops at the end of a transfer.

A transfer that is refused halts the ring (`RingStatus`) until it is enabled anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from dma_rehearsal.device import layout
from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.endpoints.registers import Access, Register, RegisterFile
from dma_rehearsal.device.endpoints.task import Steps, Task
from dma_rehearsal.device.exerciser.transfer import Segment, Transfer
from dma_rehearsal.device.layout import (
    RING_BYTES_CACHED_LEAST,
    RING_BYTES_CACHED_MAX,
    RING_BYTES_MAX,
    RING_ENABLE,
    RING_REFUSED_REASON_SHIFT,
    DmaDirection,
    DmaReason,
    Ext,
    RingDescriptor,
    RingFlag,
    RingStatus,
)

_REGISTERS = (
    Register(Ext.RING_BASE_LO, Access.RW),
    Register(Ext.RING_BASE_HI, Access.RW),
    Register(Ext.RING_SIZE, Access.RW),
    Register(Ext.RING_CONTROL, Access.RW, mask=RING_ENABLE),
    Register(Ext.RING_VECTOR, Access.RW, mask=layout.MSICTL_VECTOR),
    Register(Ext.RING_DOORBELL, Access.WO),
    *(Register(each) for each in (Ext.RING_COMPLETION, Ext.RING_STATUS)),
    *(Register(each) for each in (Ext.RING_TRANSFERS, Ext.RING_REFUSED)),
)
# Descriptors come by the thousand, and an operation on an IntFlag costs as much as ten on an int.
_FLAGS, _CHAIN, _INTERRUPT = int(sum(RingFlag)), int(RingFlag.CHAIN), int(RingFlag.INTERRUPT)
_WRITE, _NO_SNOOP = int(RingFlag.WRITE_MEMORY), int(RingFlag.NO_SNOOP)
_SIZE = RingDescriptor.STRUCT.size
_segment = partial(tuple.__new__, Segment)  # `Segment._make` takes twice as long


class Ring:
    """One ring. ``read`` reads guest memory; ``interrupt`` sends a vector's MSI-X.

    ``run`` runs a transfer and calls back with its reason when it has ended, ``refuse`` refuses
    one, ``unreachable`` records descriptors that the bus refused, ``make`` makes a transfer;
    ``changed`` is called when the ring begins or ends to be busy; ``cached`` tells whether a cache
    model stands before memory.
    """

    def __init__(
        self,
        extension: RegisterFile,
        *,
        read: Callable[
            [Sequence[tuple[int, int]], Callable[[list[bytes] | DmaRefused], None]], None
        ],
        run: Callable[[Transfer, Callable[[DmaReason], None]], None],
        refuse: Callable[[Transfer, DmaReason], None],
        unreachable: Callable[[Transfer, DmaReason], None],
        interrupt: Callable[[int], object],
        make: Callable[[DmaDirection, tuple[Segment, ...], bool], Transfer],
        changed: Callable[[], None],
        cached: Callable[[], bool] = lambda: False,
    ) -> None:
        self._extension = extension
        self._read, self._run = read, run
        self._refuse, self._unreachable = refuse, unreachable
        self._interrupt, self._make, self._changed = interrupt, make, changed
        self._cached = cached
        self._base = self._size = 0
        self._enabled = self._stopping = False
        self._task: Task | None = None  # while busy, as software sees it
        self._under_way: Transfer | None = None
        self._next: int | None = None
        extension.add(_REGISTERS, self)

    @property
    def busy(self) -> bool:
        """Return whether a doorbell's work waits for the client."""
        return self._task is not None

    def abort(self, reason: DmaReason) -> None:
        """End what is under way, if anything is: no descriptor behind it is run."""
        task, self._task = self._task, None
        transfer, self._under_way = self._under_way, None
        if task is None:
            return
        task.cancel()
        if transfer is not None:
            self._refuse(transfer, reason)
        self._extension[Ext.RING_STATUS] = RingStatus.ABORTED
        self._changed()

    def reset(self) -> None:
        """Forget base and size, and the status of the work that the reset ended."""
        self._extension[Ext.RING_STATUS] = RingStatus.OK
        self._base = self._size = 0
        self._enabled = self._stopping = False

    def write_ring_control(self, value: int) -> None:
        """Latch base and size when the ring is enabled, and begin at index 0.

        While it is busy the ring can be told to stop, and that alone.
        """
        enable = bool(value & RING_ENABLE)
        if self.busy:
            self._stopping = self._stopping or not enable
            return
        if enable and not self._enabled:
            self._base = self._extension.pair(Ext.RING_BASE_LO, Ext.RING_BASE_HI)
            self._size = self._extension[Ext.RING_SIZE]
            self._extension[Ext.RING_COMPLETION] = 0
            self._extension[Ext.RING_STATUS] = RingStatus.OK
            self._extension[Ext.RING_REFUSED] = 0
        self._enabled = enable

    def write_ring_doorbell(self, tail: int) -> None:
        """Run the transfers up to, and without, the descriptor of index ``tail``."""
        if self.busy:
            self._next = tail
            return
        task = Task(self._serve(tail))
        task.start()
        if not task.done:
            self._task = task
            self._extension[Ext.RING_STATUS] = RingStatus.BUSY
            self._changed()

    def _serve(self, tail: int | None) -> Steps[None]:
        """Answer a doorbell, and whichever was the last to ring meanwhile."""
        while tail is not None:
            self._next = None
            status = yield from self._doorbell(tail)
            tail = self._next
        if self._stopping:
            self._enabled = self._stopping = False
            self._extension[Ext.RING_CONTROL] = 0
        self._extension[Ext.RING_STATUS] = status
        if self.busy:
            self._task = None
            self._changed()

    def _doorbell(self, tail: int) -> Steps[RingStatus]:
        if not self._enabled or self._stopping:
            return RingStatus.DISABLED
        if not layout.RING_SIZE_MIN <= self._size <= layout.RING_SIZE_MAX:
            return RingStatus.BAD_SIZE
        if tail >= self._size:
            return RingStatus.BAD_INDEX
        if self._extension[Ext.RING_REFUSED]:
            return RingStatus.REFUSED
        head = self._extension[Ext.RING_COMPLETION]
        ranges = self.ranges(head, (tail - head) % self._size)
        found = yield partial(self._read, ranges)
        if isinstance(found, DmaRefused):
            self._refuse_descriptors(found.address, found.reason)
            return RingStatus.UNREACHABLE
        return (yield from self._run_all(parse(b"".join(found))))

    def ranges(self, head: int, count: int) -> list[tuple[int, int]]:
        """Return where ``count`` descriptors from index ``head`` on lie: (address, bytes)."""
        first = min(count, self._size - head)
        places = ((self._base + head * _SIZE, first), (self._base, count - first))
        return [(address, number * _SIZE) for address, number in places if number]

    def _refuse_descriptors(self, address: int, reason: DmaReason) -> None:
        place = Segment(address, _SIZE, 0)
        self._unreachable(self._make(DmaDirection.READ_MEMORY, (place,), False), reason)

    def _run_all(self, descriptors: list[Segment]) -> Steps[RingStatus]:
        status, spent, wanted = RingStatus.OK, 0, False
        most = self._most()
        for chain in chains(descriptors):
            # A transfer that alone is too long is refused, and costs nothing.
            if sum([each.length for each in chain]) <= most:
                cost = self._cost(chain)
                spent += cost
                if most < spent != cost:
                    status = RingStatus.BUDGET
                    break
            reason = yield from self.run(chain)
            index = self._extension[Ext.RING_COMPLETION]
            if reason:
                self._extension[Ext.RING_REFUSED] = reason << RING_REFUSED_REASON_SHIFT | index
                status = RingStatus.REFUSED
                wanted = _wants_interrupt(descriptors)
                break
            wanted = wanted or _wants_interrupt(chain)
            done = index + len(chain)
            self._extension[Ext.RING_COMPLETION] = done % self._size
            self._extension[Ext.RING_TRANSFERS] += 1
            if self._stopping:
                status = RingStatus.DISABLED
                break
        if wanted:
            self._interrupt(self._extension[Ext.RING_VECTOR])
        return status

    def _most(self) -> int:
        """Return the bytes that a doorbell, and so a transfer, may move."""
        return RING_BYTES_CACHED_MAX if self._cached() else RING_BYTES_MAX

    def _cost(self, chain: list[Segment]) -> int:
        """Return the bytes that a transfer counts as: see ``RING_BYTES_CACHED_LEAST``."""
        if not self._cached():
            return sum([each.length for each in chain])
        return sum([max(each.length, RING_BYTES_CACHED_LEAST) for each in chain])

    def run(self, chain: list[Segment]) -> Steps[DmaReason]:
        """Run one transfer, or refuse what its descriptors alone make impossible."""
        flags = chain[0].flags
        direction = DmaDirection.WRITE_MEMORY if flags & _WRITE else DmaDirection.READ_MEMORY
        transfer = self._make(direction, tuple(chain), bool(flags & _NO_SNOOP))
        alike = _WRITE | _NO_SNOOP
        reason = DmaReason.NONE
        # Without a byte in it is what a ring has before its driver fills it.
        if not transfer.length or any(
            each & ~_FLAGS or (each ^ flags) & alike for each in {each.flags for each in chain}
        ):
            reason = DmaReason.BAD_DESCRIPTOR
        elif chain[-1].flags & _CHAIN:
            reason = DmaReason.UNFINISHED_CHAIN
        elif transfer.length > self._most():
            reason = DmaReason.TRANSFER_SIZE
        if reason:
            self._refuse(transfer, reason)
            return reason
        self._under_way = transfer
        outcome: DmaReason = yield partial(self._run, transfer)
        self._under_way = None
        return outcome


def parse(data: bytes) -> list[Segment]:
    """Return the descriptors that were copied from guest memory, as the segments that they are."""
    return [*map(_segment, RingDescriptor.STRUCT.iter_unpack(data))]


def _wants_interrupt(descriptors: list[Segment]) -> bool:
    return any(each & _INTERRUPT for each in {each.flags for each in descriptors})


def chains(descriptors: list[Segment]) -> Iterator[list[Segment]]:
    """Cut descriptors into transfers; the last one may announce a segment that is not there."""
    chain: list[Segment] = []
    for descriptor in descriptors:
        chain.append(descriptor)
        if not descriptor.flags & _CHAIN:
            yield chain
            chain = []
    if chain:
        yield chain
