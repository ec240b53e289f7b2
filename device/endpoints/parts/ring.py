"""The descriptor ring of BAR3: scatter-gather transfers that software lays out in guest memory.

The guest can change the ring while it is read, put it anywhere, or aim a transfer at it. So the
descriptors between the completion index and the doorbell's are copied once, before the first of
them is acted on, and nothing looks at guest memory for them again. Their number is below the size,
the size is latched and bounded, and so are the bytes of a doorbell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from device import layout
from device.endpoints.bus import DmaRefused
from device.endpoints.registers import Access, Register, RegisterFile
from device.layout import (
    RING_BYTES_MAX,
    RING_ENABLE,
    DmaDirection,
    DmaReason,
    Ext,
    RingDescriptor,
    RingFlag,
    RingStatus,
)

from .transfer import Segment, Transfer

_REGISTERS = (
    Register(Ext.RING_BASE_LO, Access.RW),
    Register(Ext.RING_BASE_HI, Access.RW),
    Register(Ext.RING_SIZE, Access.RW),
    Register(Ext.RING_CONTROL, Access.RW, mask=RING_ENABLE),
    Register(Ext.RING_VECTOR, Access.RW, mask=layout.MSICTL_VECTOR),
    Register(Ext.RING_DOORBELL, Access.WO),
    *(Register(each) for each in (Ext.RING_COMPLETION, Ext.RING_STATUS, Ext.RING_TRANSFERS)),
)
_FLAGS = int(sum(RingFlag))
_SIZE = RingDescriptor.STRUCT.size


class Ring:
    """One ring. ``read`` reads guest memory; ``interrupt`` sends a vector's MSI-X.

    ``run`` runs a transfer, and ``refuse`` records one that is refused; ``check`` is the constraint
    on the number of segments and such, and is the exerciser's own.
    """

    def __init__(
        self,
        extension: RegisterFile,
        *,
        read: Callable[[int, int], bytes],
        run: Callable[[Transfer], None],
        refuse: Callable[[Transfer, DmaReason], None],
        interrupt: Callable[[int], object],
        make: Callable[[DmaDirection, tuple[Segment, ...], bool], Transfer],
    ) -> None:
        self._extension = extension
        self._read, self._run, self._refuse = read, run, refuse
        self._interrupt, self._make = interrupt, make
        self._base = self._size = 0
        self._enabled = False
        extension.add(_REGISTERS, self)

    def reset(self) -> None:
        """Forget base and size; the registers have their own reset."""
        self._base = self._size = 0
        self._enabled = False

    def write_ring_control(self, value: int) -> None:
        """Latch base and size when the ring is enabled, and begin at index 0."""
        enable = bool(value & RING_ENABLE)
        if enable and not self._enabled:
            self._base = self._extension.pair(Ext.RING_BASE_LO, Ext.RING_BASE_HI)
            self._size = self._extension[Ext.RING_SIZE]
            self._extension[Ext.RING_COMPLETION] = 0
            self._extension[Ext.RING_STATUS] = RingStatus.OK
        self._enabled = enable

    def write_ring_doorbell(self, tail: int) -> None:
        """Run the transfers up to, and without, the descriptor of index ``tail``."""
        self._extension[Ext.RING_STATUS] = self._doorbell(tail)

    def _doorbell(self, tail: int) -> RingStatus:
        if not self._enabled:
            return RingStatus.DISABLED
        if not layout.RING_SIZE_MIN <= self._size <= layout.RING_SIZE_MAX:
            return RingStatus.BAD_SIZE
        if tail >= self._size:
            return RingStatus.BAD_INDEX
        head = self._extension[Ext.RING_COMPLETION]
        try:
            descriptors = self.copy(head, (tail - head) % self._size)
        except DmaRefused as refusal:
            place = Segment(refusal.address, _SIZE, 0)
            self._refuse(self._make(DmaDirection.READ_MEMORY, (place,), False), refusal.reason)
            return RingStatus.UNREACHABLE
        return self._run_all(descriptors)

    def copy(self, head: int, count: int) -> list[RingDescriptor]:
        """Return a copy of ``count`` descriptors from index ``head`` on. DmaRefused when not."""
        first = min(count, self._size - head)
        data = self._read(self._base + head * _SIZE, first * _SIZE) if first else b""
        if count > first:
            data += self._read(self._base, (count - first) * _SIZE)
        return [RingDescriptor(*fields) for fields in RingDescriptor.STRUCT.iter_unpack(data)]

    def _run_all(self, descriptors: list[RingDescriptor]) -> RingStatus:
        status, moved, wanted = RingStatus.OK, 0, False
        for chain in chains(descriptors):
            length = sum(each.length for each in chain)
            # A transfer that alone is too long is refused, and costs nothing.
            if length <= RING_BYTES_MAX:
                moved += length
                if moved > RING_BYTES_MAX:
                    status = RingStatus.BUDGET
                    break
            self.run(chain)
            wanted = wanted or any(each.flags & RingFlag.INTERRUPT for each in chain)
            done = self._extension[Ext.RING_COMPLETION] + len(chain)
            self._extension[Ext.RING_COMPLETION] = done % self._size
            self._extension[Ext.RING_TRANSFERS] += 1
        if wanted:
            self._interrupt(self._extension[Ext.RING_VECTOR])
        return status

    def run(self, chain: list[RingDescriptor]) -> None:
        """Run one transfer, or refuse what its descriptors alone make impossible."""
        write = bool(chain[0].flags & RingFlag.WRITE_MEMORY)
        direction = DmaDirection.WRITE_MEMORY if write else DmaDirection.READ_MEMORY
        segments = tuple(Segment(each.address, each.length, each.offset) for each in chain)
        transfer = self._make(direction, segments, bool(chain[0].flags & RingFlag.NO_SNOOP))
        alike = RingFlag.WRITE_MEMORY | RingFlag.NO_SNOOP
        if any(each.flags & ~_FLAGS or (each.flags ^ chain[0].flags) & alike for each in chain):
            self._refuse(transfer, DmaReason.BAD_DESCRIPTOR)
        elif chain[-1].flags & RingFlag.CHAIN:
            self._refuse(transfer, DmaReason.UNFINISHED_CHAIN)
        elif transfer.length > RING_BYTES_MAX:
            self._refuse(transfer, DmaReason.TRANSFER_SIZE)
        else:
            self._run(transfer)


def chains(descriptors: list[RingDescriptor]) -> Iterator[list[RingDescriptor]]:
    """Cut descriptors into transfers; the last one may announce a segment that is not there."""
    chain: list[RingDescriptor] = []
    for descriptor in descriptors:
        chain.append(descriptor)
        if not descriptor.flags & RingFlag.CHAIN:
            yield chain
            chain = []
    if chain:
        yield chain
