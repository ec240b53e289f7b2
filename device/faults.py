"""Named faults of the device: each breaks one promise on purpose, in one overridden method."""

from __future__ import annotations

from dataclasses import dataclass

from .endpoints.exerciser import Exerciser
from .layout import DmaDirection
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
    def transfer(
        self, direction: DmaDirection, address: int, offset: int, length: int
    ) -> tuple[DmaDirection, bytes]:
        direction, data = super().transfer(direction, address, offset, length)
        if direction is DmaDirection.READ_MEMORY:
            data = _flip_middle(data)
            self.buffer[offset : offset + length] = data
        return direction, data


class _WriteFlip(Exerciser):
    def transfer(
        self, direction: DmaDirection, address: int, offset: int, length: int
    ) -> tuple[DmaDirection, bytes]:
        if direction is DmaDirection.WRITE_MEMORY:
            data = bytes(self.buffer[offset : offset + length])
            self.bus.write(address, _flip_middle(data))
            return direction, data
        return super().transfer(direction, address, offset, length)


class _IgnoresDirection(Exerciser):
    def transfer(
        self, direction: DmaDirection, address: int, offset: int, length: int
    ) -> tuple[DmaDirection, bytes]:
        return super().transfer(DmaDirection.READ_MEMORY, address, offset, length)


class _FalseSuccess(Exerciser):
    def transfer(
        self, direction: DmaDirection, address: int, offset: int, length: int
    ) -> tuple[DmaDirection, bytes]:
        return direction, bytes(self.buffer[offset : offset + length])


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
    "witness-ignores-pat": Fault(
        "takes the PAT bit of every page-table entry as 0", platform=_WitnessIgnoresPat
    ),
}
SOUND = Fault("no fault")
