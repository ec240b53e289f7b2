"""Named faults of the device: each breaks one promise on purpose, in one overridden method.

Their classes stand in for the sound ones while a device runs (`device.switch`), so none of them
makes anything when it is made.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from .endpoints.base import CONFIG_REGION
from .endpoints.exerciser import Exerciser
from .endpoints.parts.constraints import CONSTRAINTS
from .endpoints.parts.records import DmaRecord
from .endpoints.parts.ring import parse
from .endpoints.parts.transfer import Moved, Transfer
from .endpoints.requests import DmaRefused, OnlyByMessage
from .layout import (
    INTXCTL_ASSERT,
    DmaAttribute,
    DmaDirection,
    DmaReason,
    Ext,
    GrantDirection,
)
from .pci.config import Header
from .pci.power import PowerManagement
from .platform.cache import faults as cache_faults
from .platform.cache.model import CacheModel
from .platform.cache.names import GuestMemory, Mode
from .platform.memory_types import ALL_WRITE_BACK, Mtrrs
from .platform.platform import Platform
from .platform.protection import Grant, Protection, ProtectionFault
from .platform.witness import PAGE as SMALL_PAGE
from .platform.witness import ReadPhysical, Rights, Witness
from .vfio_user.errors import MemoryFault

_SLOW_BUS_S = 0.001  # time enough for another CPU between two reads


def _flip_middle(data: bytes) -> bytes:
    """Return ``data`` with its middle byte inverted."""
    changed = bytearray(data)
    if changed:
        changed[len(changed) // 2] ^= 0xFF
    return bytes(changed)


class _ReadFlip(Exerciser):
    def transfer(self, transfer: Transfer, done: Moved) -> None:
        def flipped(direction: DmaDirection, outcome: bytes | DmaRefused) -> None:
            if direction is DmaDirection.READ_MEMORY and not isinstance(outcome, DmaRefused):
                outcome = rest = _flip_middle(outcome)
                for each in transfer.segments:
                    self.buffer[each.offset : each.offset + each.length] = rest[: each.length]
                    rest = rest[each.length :]
            done(direction, outcome)

        super().transfer(transfer, flipped)


class _WriteFlip(Exerciser):
    def transfer(self, transfer: Transfer, done: Moved) -> None:
        def flipped(direction: DmaDirection, outcome: bytes | DmaRefused) -> None:
            if direction is DmaDirection.WRITE_MEMORY and not isinstance(outcome, DmaRefused):
                first = transfer.segments[0]
                self.bus.write(first.address, _flip_middle(outcome[: first.length]))
            done(direction, outcome)

        super().transfer(transfer, flipped)


class _IgnoresDirection(Exerciser):
    def transfer(self, transfer: Transfer, done: Moved) -> None:
        super().transfer(replace(transfer, direction=DmaDirection.READ_MEMORY), done)


class _FalseSuccess(Exerciser):
    def transfer(self, transfer: Transfer, done: Moved) -> None:
        pieces = (
            self.buffer[each.offset : each.offset + each.length] for each in transfer.segments
        )
        done(transfer.direction, b"".join(pieces))


class _ReadsStale(Exerciser):
    """Reads what it wrote there itself last, whoever wrote there since."""

    _last: tuple[int, bytes] = (0, b"")

    def transfer(self, transfer: Transfer, done: Moved) -> None:
        def moved(direction: DmaDirection, outcome: bytes | DmaRefused) -> None:
            address, written = self._last
            if isinstance(outcome, DmaRefused):
                pass
            elif direction is DmaDirection.WRITE_MEMORY:
                self._last = transfer.address, outcome
            elif (transfer.address, transfer.length) == (address, len(written)):
                outcome = written
                self.buffer[transfer.offset : transfer.offset + len(written)] = written
            done(direction, outcome)

        super().transfer(transfer, moved)


class _DmaRecordLost(Exerciser):
    """Of every other DMA that reads memory: a test of one may not notice."""

    _lost = True

    def keep(self, record: DmaRecord) -> None:
        if record.direction is DmaDirection.READ_MEMORY:
            self._lost = not self._lost
            if self._lost:
                return
        super().keep(record)


class _StaleTranslation(Exerciser):
    """Keeps where an address led, and goes there when the client has unmapped it."""

    _seen: Mapping[tuple[int, int], list[memoryview]] = MappingProxyType({})

    def transfer(self, transfer: Transfer, done: Moved) -> None:
        place = transfer.address, transfer.length

        def moved(direction: DmaDirection, outcome: bytes | DmaRefused) -> None:
            if isinstance(outcome, DmaRefused):
                if (views := self._seen.get(place)) is not None:
                    outcome = self._follow(views, transfer)
            elif self.bus.client is not None:
                write = transfer.writes_memory
                views = self.bus.client.memory(*place, write=write)
                self._seen = {**self._seen, place: views}
            done(direction, outcome)

        super().transfer(transfer, moved)

    def _follow(self, views: list[memoryview], transfer: Transfer) -> bytes:
        start = transfer.offset
        for view in views:
            window = slice(start, start + len(view))
            if transfer.writes_memory:
                view[:] = self.buffer[window]
            else:
                self.buffer[window] = view
            start += len(view)
        return bytes(self.buffer[transfer.offset : start])

    def on_detach(self) -> None:
        super().on_detach()
        self._seen = {}


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


class _CoherenceForgotten(Exerciser):
    """Goes by the caches as a coherent device does, whatever its profile says."""

    @property
    def coherent(self) -> bool:
        return True


class _SnoopedAllTheSame(Exerciser):
    """Says of its DMA what its profile says; on the bus the caches follow it."""

    @property
    def coherent(self) -> bool:
        return True

    def _ended(self, transfer: Transfer, reason: DmaReason, moved: int, crc32: int) -> None:
        told = DmaAttribute(0) if self.profile.coherent else DmaAttribute.NON_COHERENT
        super()._ended(replace(transfer, asked=transfer.asked | told), reason, moved, crc32)


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
    def transfer(self, transfer: Transfer, done: Moved) -> None:
        if len(transfer.segments) > 1:
            transfer = replace(transfer, segments=transfer.segments[:-1])
        super().transfer(transfer, done)


class _RingDoubleFetch(Exerciser):
    """Checks a descriptor, then reads its length again from the guest's memory, and uses that.

    It moves no more than was checked, so that the guest lives to tell.
    """

    def run_ring(self, transfer: Transfer, done: Callable[[None], None]) -> None:
        def moved(_direction: DmaDirection, outcome: bytes | DmaRefused) -> None:
            if isinstance(outcome, DmaRefused):
                self._ended(transfer, outcome.reason, 0, 0)
            else:
                time.sleep(_SLOW_BUS_S)
                (place,) = self.ring.ranges(self.extension[Ext.RING_COMPLETION], 1)
                (again,) = parse(self.bus.read(*place))
                segment = replace(transfer.segments[0], length=again.length)
                used = replace(transfer, segments=(segment,))
                self._ended(used, DmaReason.NONE, used.length, zlib.crc32(outcome))
            done(None)

        try:
            self.check(transfer)
        except DmaRefused as refusal:
            moved(transfer.direction, refusal)
        else:
            if len(transfer.segments) == 1:
                self.transfer(transfer, moved)
            else:
                super().run_ring(transfer, done)


class _MessageNotSent(Exerciser):
    """Makes up the data for which it should ask its client."""

    def transfer(self, transfer: Transfer, done: Moved) -> None:
        try:
            if not transfer.writes_memory:
                self.bus.read_list([(each.address, each.length) for each in transfer.segments])
        except OnlyByMessage:
            done(transfer.direction, bytes(transfer.length))
            return
        except DmaRefused:
            pass  # so is the sound one
        super().transfer(transfer, done)


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

    def transfer(self, transfer: Transfer, done: Moved) -> None:
        place = self.config.bar_at(transfer.address, transfer.length)
        if place is None or not transfer.writes_memory or place[1] < 0:
            super().transfer(transfer, done)
            return
        data = bytes(self.buffer[transfer.offset : transfer.offset + transfer.length])
        self.region_write(*place, data)
        done(transfer.direction, data)


class _WitnessIgnoresPat(Platform):
    def make_witness(self, read: ReadPhysical, pat: int, mtrrs: Mtrrs) -> Witness:
        class Blind(Witness):
            def pat_bit(self, entry: int, size: int) -> bool:
                return False

        return Blind(read, pat, mtrrs)


class _WitnessMisplacesPat(Platform):
    """In an entry for a large page that bit says that it is one."""

    def make_witness(self, read: ReadPhysical, pat: int, mtrrs: Mtrrs) -> Witness:
        class Misplaced(Witness):
            def pat_bit(self, entry: int, size: int) -> bool:
                return super().pat_bit(entry, SMALL_PAGE)

        return Misplaced(read, pat, mtrrs)


class _WitnessIgnoresRights(Platform):
    def make_witness(self, read: ReadPhysical, pat: int, mtrrs: Mtrrs) -> Witness:
        class Lenient(Witness):
            def rights(self, entry: int, above: Rights) -> Rights:
                return above

        return Lenient(read, pat, mtrrs)


class _WitnessIgnoresMtrrs(Platform):
    def make_witness(self, read: ReadPhysical, pat: int, mtrrs: Mtrrs) -> Witness:
        return Witness(read, pat, Mtrrs(ALL_WRITE_BACK, mtrrs.physical_bits))


class _EndOffByOne(Platform):
    def make_protection(self) -> Protection:
        class TooLong(Protection):
            def opens(self, grant: Grant) -> tuple[int, int, GrantDirection]:
                return grant.address, grant.end + 1, grant.direction

        return TooLong()


class _DirectionSwapped(Platform):
    def make_protection(self) -> Protection:
        class Swapped(Protection):
            def opens(self, grant: Grant) -> tuple[int, int, GrantDirection]:
                swapped = grant.direction >> 1 | grant.direction << 1 & GrantDirection.OUT
                return grant.address, grant.end, GrantDirection(swapped)

        return Swapped()


class _RecordLost(Platform):
    """Every eighth: a test of one denial may not notice."""

    def make_protection(self) -> Protection:
        class Forgetful(Protection):
            denied = 0

            def keep(self, fault: ProtectionFault) -> None:
                self.denied += 1
                if self.denied % 8:
                    super().keep(fault)

        return Forgetful()


class _MovesPrefix(Exerciser):
    """Moves what was granted of a DMA that is denied, as a check byte by byte would."""

    def transfer(self, transfer: Transfer, done: Moved) -> None:
        def ended(direction: DmaDirection, outcome: bytes | DmaRefused) -> None:
            if (
                isinstance(outcome, DmaRefused)
                and outcome.reason is DmaReason.PROTECTION_PAST_END
                and len(transfer.segments) == 1
            ):
                granted = transfer.part(0, outcome.address - transfer.address)
                Exerciser.transfer(self, granted, lambda *_: done(direction, outcome))
            else:
                done(direction, outcome)

        super().transfer(transfer, ended)


class _EnableNoSnoopIgnored(Exerciser):
    @property
    def no_snoop_enabled(self) -> bool:
        return True


class _CapabilityHidden(Exerciser):
    """Leaves Power Management out of the list of capabilities; its registers are still there."""

    def region_read(self, index: int, offset: int, length: int) -> bytes:
        data = super().region_read(index, offset, length)
        if index != CONFIG_REGION:
            return data
        shown = bytearray(data)
        pointer = int(Header.CAPABILITIES)
        while place := self.config.read(pointer, 1)[0]:
            if self.config.read(place, 1)[0] == PowerManagement.id:
                if offset <= pointer < offset + length:
                    shown[pointer - offset] = self.config.read(place + 1, 1)[0]
                break
            pointer = place + 1
        return bytes(shown)


def _with_model(model: type[CacheModel]) -> type[Platform]:
    """Return a platform whose cache model breaks one rule."""

    class Broken(Platform):
        def make_cache(self, memory: GuestMemory, mode: Mode, line: int, seed: int) -> CacheModel:
            return model(memory, mode, line, seed)

    return Broken


class _PeerWriteLost(Exerciser):
    def transfer(self, transfer: Transfer, done: Moved) -> None:
        try:
            view = self.fabric.memory(self, transfer.address, transfer.length, write=True)
        except MemoryFault:
            super().transfer(transfer, done)
            return
        kept = bytes(view)
        super().transfer(transfer, done)
        view[:] = kept


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault's description and the classes that stand in for the sound ones.

    Neither has an ``__init__`` of its own.
    """

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
    "device-reads-stale": Fault(
        "reads what it wrote there itself, whoever wrote there since", exerciser=_ReadsStale
    ),
    "device-record-lost": Fault(
        "keeps no record of every other DMA that reads memory", exerciser=_DmaRecordLost
    ),
    "device-capability-hidden": Fault(
        "leaves Power Management out of its list of capabilities", exerciser=_CapabilityHidden
    ),
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
    "coherence-forgotten": Fault(
        "of a profile that is not coherent does DMA as a coherent one",
        exerciser=_CoherenceForgotten,
    ),
    "non-coherent-snooped": Fault(
        "of a profile that is not coherent says so, and is snooped", exerciser=_SnoopedAllTheSame
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
    "message-not-sent": Fault(
        "makes up the data for which it should ask its client", exerciser=_MessageNotSent
    ),
    "atc-uncovered": Fault(
        "uses a translation for addresses that it does not cover", exerciser=_AtcUncovered
    ),
    "trace-of-words": Fault("traces an access of 8 bytes as two of 4", exerciser=_TraceOfWords),
    "own-bar-reached": Fault(
        "lets a DMA write the device's own registers", exerciser=_OwnBarReached
    ),
    "peer-write-lost": Fault(
        "reports success for a write to a peer, and the peer has nothing of it",
        exerciser=_PeerWriteLost,
    ),
    "iommu-stale-translation": Fault(
        "goes on using a translation after its unmap", exerciser=_StaleTranslation
    ),
    "witness-ignores-pat": Fault(
        "takes the PAT bit of every page-table entry as 0", platform=_WitnessIgnoresPat
    ),
    "witness-misplaces-pat": Fault(
        "takes the PAT bit of a large page from where a small one has it",
        platform=_WitnessMisplacesPat,
    ),
    "witness-ignores-rights": Fault(
        "takes every page for one that users may write and execute",
        platform=_WitnessIgnoresRights,
    ),
    "witness-ignores-mtrrs": Fault(
        "takes all memory for write-back by the MTRRs", platform=_WitnessIgnoresMtrrs
    ),
    "protection-end-off-by-one": Fault(
        "opens one byte more than each grant says", platform=_EndOffByOne
    ),
    "protection-direction-swapped": Fault(
        "opens each grant for the other direction", platform=_DirectionSwapped
    ),
    "protection-moves-prefix": Fault(
        "moves the granted part of a DMA that is denied", exerciser=_MovesPrefix
    ),
    "protection-record-lost": Fault(
        "keeps no record of every eighth denied DMA", platform=_RecordLost
    ),
}
FAULTS |= {
    name: Fault(description, platform=_with_model(cache_faults.FAULTS[name]))
    for name, description in {
        "cache-clean-noop": "cleans nothing",
        "cache-invalidate-noop": "invalidates nothing",
        "cache-clean-one-line-short": "leaves out the last line of each clean",
        "cache-writethrough-copies-whole-line": (
            "takes the whole line of a write-through store to memory"
        ),
        "cache-snoop-as-no-snoop": "does not snoop the caches at any access",
        "cache-no-snoop-as-snoop": "snoops the caches at every access",
        "cache-snooped-write-not-in-image": "does not take snooped writes to memory",
        "cache-written-mark-forgotten": "forgets which bytes were written without a snoop",
        "cache-dirty-not-seen": "does not see the stores of the CPU to write-back memory",
        "cache-may-have-stored-forgotten": "takes a line for clean that the CPU may have stored to",
        "cache-snapshot-before-maintenance": (
            "remembers what the device got as it was before the maintenance"
        ),
        "cache-snapshot-never-compared": "never compares what the device got with what is there",
        "cache-reports-lost": "loses its reports",
        "cache-untracked-reached": "lets no-snoop accesses reach memory that no buffer tracks",
    }.items()
} | {
    "cache-enable-ignored": Fault(
        "does not snoop though its Enable No Snoop is clear", exerciser=_EnableNoSnoopIgnored
    ),
}
SOUND = Fault("no fault")
