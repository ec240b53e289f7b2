"""Named faults of the device: each breaks one promise on purpose, in one overridden method."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .endpoints.exerciser import Exerciser
from .endpoints.parts.transfer import Transfer
from .layout import INTXCTL_ASSERT, DmaDirection
from .platform.memory_types import Mtrrs
from .platform.platform import Platform
from .platform.witness import ReadPhysical, Witness


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
    "witness-ignores-pat": Fault(
        "takes the PAT bit of every page-table entry as 0", platform=_WitnessIgnoresPat
    ),
}
SOUND = Fault("no fault")
