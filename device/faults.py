"""Named faults of the device: each breaks one promise on purpose, in one overridden method."""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass, replace

from .endpoints.bus import DmaRefused
from .endpoints.exerciser import Exerciser
from .endpoints.parts.constraints import CONSTRAINTS
from .endpoints.parts.transfer import Transfer
from .layout import INTXCTL_ASSERT, DmaAttribute, DmaDirection, DmaReason, Ext
from .platform.memory_types import Mtrrs
from .platform.platform import Platform
from .platform.witness import ReadPhysical, Witness

_SLOW_BUS_S = 0.001  # time enough for another CPU between two reads


def _flip_middle(data: bytes) -> bytes:
    """Return ``data`` with its middle byte inverted."""
    changed = bytearray(data)
    if changed:
        changed[len(changed) // 2] ^= 0xFF
    return bytes(changed)


class _ReadFlip(Exerciser):
    def transfer(self, transfer: Transfer) -> tuple[DmaDirection, bytes]:
        direction, data = super().transfer(transfer)
        if direction is DmaDirection.READ_MEMORY:
            data = _flip_middle(data)
            rest = data
            for each in transfer.segments:
                self.buffer[each.offset : each.offset + each.length] = rest[: each.length]
                rest = rest[each.length :]
        return direction, data


class _WriteFlip(Exerciser):
    def transfer(self, transfer: Transfer) -> tuple[DmaDirection, bytes]:
        direction, data = super().transfer(transfer)
        if direction is DmaDirection.WRITE_MEMORY:
            first = transfer.segments[0]
            sound = bytes(self.buffer[first.offset : first.offset + first.length])
            self.bus.write(first.address, _flip_middle(sound))
        return direction, data


class _IgnoresDirection(Exerciser):
    def transfer(self, transfer: Transfer) -> tuple[DmaDirection, bytes]:
        return super().transfer(replace(transfer, direction=DmaDirection.READ_MEMORY))


class _FalseSuccess(Exerciser):
    def transfer(self, transfer: Transfer) -> tuple[DmaDirection, bytes]:
        pieces = (
            self.buffer[each.offset : each.offset + each.length] for each in transfer.segments
        )
        return transfer.direction, b"".join(pieces)


class _MsixOfOneVector(Exerciser):
    """One vector is wrong, and no other: only a test of every vector is sure to find it."""

    def msix(self, vector: int) -> bool:
        if vector == self.vectors * 2 // 3:
            return self.wrong_msix(vector)
        return super().msix(vector)

    def wrong_msix(self, vector: int) -> bool:
        """Send what the fault sends."""
        raise NotImplementedError


class _MsixDropped(_MsixOfOneVector):
    def wrong_msix(self, vector: int) -> bool:
        return False


class _MsixMisdirected(_MsixOfOneVector):
    def wrong_msix(self, vector: int) -> bool:
        return Exerciser.msix(self, self.vectors - 1)


class _MsixDoubled(_MsixOfOneVector):
    """The second message goes with the next register write: at once, QEMU takes two for one."""

    _again: int | None = None

    def wrong_msix(self, vector: int) -> bool:
        self._again = vector
        return Exerciser.msix(self, vector)

    def region_write(self, index: int, offset: int, data: bytes) -> None:
        again, self._again = self._again, None
        if again is not None:
            Exerciser.msix(self, again)
        super().region_write(index, offset, data)


class _IntxDropped(Exerciser):
    def send_intx(self) -> bool:
        return False


class _IntxDoubled(Exerciser):
    _again = False

    def write_intxctl(self, value: int) -> None:
        super().write_intxctl(value)
        if value & INTXCTL_ASSERT:
            self._again = True
        elif self._again:
            self._again = False
            self.intx(True)


class _IntxMisdirected(_IntxDropped):
    def write_intxctl(self, value: int) -> None:
        super().write_intxctl(value)
        if value & INTXCTL_ASSERT:
            self.msix(self.vectors - 1)


class _IntxStorm(Exerciser):
    def intx_status(self) -> bool:
        return self._intx_level


class _ConstraintsIgnored(Exerciser):
    ignored: tuple[Ext, ...] = CONSTRAINTS

    def check(self, transfer: Transfer) -> Transfer:
        limits = {int(each): self.extension[each] for each in self.ignored}
        self.extension.values.update(dict.fromkeys(limits, 0))
        try:
            return super().check(transfer)
        finally:
            self.extension.values.update(limits)


class _MaskNotHonoured(_ConstraintsIgnored):
    ignored = (Ext.ADDRESS_BITS,)


class _BoundaryCrossed(_ConstraintsIgnored):
    ignored = (Ext.BOUNDARY,)


class _AddressWrapped(_MaskNotHonoured):
    """Has no address lines above its mask, and does not look at what should be on them."""

    def check(self, transfer: Transfer) -> Transfer:
        sent = super().check(transfer)
        mask = (1 << (self.extension[Ext.ADDRESS_BITS] or 64)) - 1
        return replace(
            sent,
            segments=tuple(replace(each, address=each.address & mask) for each in sent.segments),
        )


class _OutlivesBusMaster(Exerciser):
    """A DMA in flight that is not ended, and goes on when bus mastering is back."""

    def on_command(self) -> None:
        pass


class _OutlivesReset(Exerciser):
    """The worst of a reset in the middle of a DMA: the old request goes on after it."""

    def on_reset(self) -> None:
        transfer = self.hold._transfer
        super().on_reset()
        self.hold._transfer = transfer


class _RingSkipsLast(Exerciser):
    def transfer(self, transfer: Transfer) -> tuple[DmaDirection, bytes]:
        if len(transfer.segments) > 1:
            transfer = replace(transfer, segments=transfer.segments[:-1])
        return super().transfer(transfer)


class _RingDoubleFetch(Exerciser):
    """Checks a descriptor, then reads its length again from the guest's memory, and uses that.

    It moves no more than was checked, so that the guest lives to tell.
    """

    def run(self, transfer: Transfer, *, held: bool = False) -> None:
        if DmaAttribute.RING not in transfer.asked or len(transfer.segments) > 1:
            super().run(transfer, held=held)
            return
        try:
            self.check(transfer)
            data = self.transfer(transfer)[1]
        except DmaRefused:
            super().run(transfer)
            return
        time.sleep(_SLOW_BUS_S)
        again = self.ring.copy(self.extension[Ext.RING_COMPLETION], 1)[0]
        used = replace(transfer, segments=(replace(transfer.segments[0], length=again.length),))
        self._ended(used, DmaReason.NONE, used.length, zlib.crc32(data))


class _AtcUncovered(Exerciser):
    """Takes the translation for what lies behind its range, too."""

    def check(self, transfer: Transfer) -> Transfer:
        if self.atc.entry is not None and DmaAttribute.USE_ATC in transfer.asked:
            transfer = replace(transfer, asked=transfer.asked & ~DmaAttribute.USE_ATC)
        return super().check(transfer)


class _TraceOfWords(Exerciser):
    """Traces an access of 8 bytes as two, as a bus that splits it would deliver it."""

    def on_access(self, region: int, offset: int, data: bytes, *, write: bool) -> None:
        for start in range(0, len(data), 4):
            super().on_access(region, offset + start, data[start : start + 4], write=write)


class _OwnBarReached(Exerciser):
    """Lets a DMA come back as a register access in the middle of itself."""

    def transfer(self, transfer: Transfer) -> tuple[DmaDirection, bytes]:
        place = self.config.bar_at(transfer.address, transfer.length)
        if place is None or not transfer.writes_memory or place[1] < 0:
            return super().transfer(transfer)
        data = bytes(self.buffer[transfer.offset : transfer.offset + transfer.length])
        self.region_write(*place, data)
        return transfer.direction, data


class _WitnessIgnoresPat(Platform):
    def make_witness(self, read: ReadPhysical, pat: int, mtrrs: Mtrrs) -> Witness:
        class Blind(Witness):
            def pat_bit(self, entry: int, size: int) -> bool:
                return False

        return Blind(read, pat, mtrrs)


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault's description and the classes that stand in for the sound ones."""

    description: str
    exerciser: type[Exerciser] = Exerciser
    platform: type[Platform] = Platform


FAULTS: dict[str, Fault] = {
    "device-read-flip": Fault("flips one byte of what it reads from memory", exerciser=_ReadFlip),
    "device-write-flip": Fault("flips one byte of what it writes to memory", exerciser=_WriteFlip),
    "device-ignores-direction": Fault(
        "ignores the direction bit and always reads memory", exerciser=_IgnoresDirection
    ),
    "device-false-success": Fault("reports success without moving data", exerciser=_FalseSuccess),
    "msix-dropped": Fault("does not send the messages of one vector", exerciser=_MsixDropped),
    "msix-doubled": Fault(
        "sends each message of one vector again, with the next register write",
        exerciser=_MsixDoubled,
    ),
    "msix-misdirected": Fault(
        "sends the messages of one vector to the last vector", exerciser=_MsixMisdirected
    ),
    "intx-dropped": Fault(
        "sets Interrupt Status and does not take the line up", exerciser=_IntxDropped
    ),
    "intx-doubled": Fault(
        "takes the line up once more after it was taken down", exerciser=_IntxDoubled
    ),
    "intx-misdirected": Fault(
        "sends the message of the last vector in place of the line", exerciser=_IntxMisdirected
    ),
    "intx-storm": Fault(
        "clears Interrupt Status while the guest's line is still up", exerciser=_IntxStorm
    ),
    "constraints-ignored": Fault(
        "does DMA that its constraints forbid", exerciser=_ConstraintsIgnored
    ),
    "mask-not-honoured": Fault("does DMA beyond its address bits", exerciser=_MaskNotHonoured),
    "address-wrapped": Fault(
        "cuts an address to its address bits in place of refusing it", exerciser=_AddressWrapped
    ),
    "boundary-crossed": Fault(
        "does DMA across the boundary that it must not cross", exerciser=_BoundaryCrossed
    ),
    "held-outlives-bus-master": Fault(
        "goes on with a DMA in flight when bus mastering is back", exerciser=_OutlivesBusMaster
    ),
    "held-outlives-reset": Fault(
        "goes on with a DMA in flight after a reset", exerciser=_OutlivesReset
    ),
    "ring-skips-last": Fault(
        "leaves out the last segment of a transfer in several", exerciser=_RingSkipsLast
    ),
    "ring-double-fetch": Fault(
        "reads a descriptor again after it was checked", exerciser=_RingDoubleFetch
    ),
    "atc-uncovered": Fault(
        "uses a translation for addresses that it does not cover", exerciser=_AtcUncovered
    ),
    "trace-of-words": Fault("traces an access of 8 bytes as two of 4", exerciser=_TraceOfWords),
    "own-bar-reached": Fault(
        "lets a DMA write the device's own registers", exerciser=_OwnBarReached
    ),
    "witness-ignores-pat": Fault(
        "takes the PAT bit of every page-table entry as 0", platform=_WitnessIgnoresPat
    ),
}
SOUND = Fault("no fault")
