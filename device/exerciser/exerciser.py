# SPDX-License-Identifier: Apache-2.0
"""The built-in device: Arm's PCIe Exerciser, and what its layout lacks in BAR3.

A DMA in mapped memory is done when the register write that triggers it is, before that write is
acknowledged and before any later message of this client is answered. The client is asked afterwards
for memory that only it reaches, and DMACTL's trigger reads 1 until that is done; so it does with
HOLD.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from dma_rehearsal.device import layout
from dma_rehearsal.device.endpoints.bars import MemoryBar, MsixBars, RegisterBar, bar_size
from dma_rehearsal.device.endpoints.dma import Attributes, DmaRefused
from dma_rehearsal.device.endpoints.endpoint import CONFIG_REGION, Endpoint
from dma_rehearsal.device.endpoints.registers import Register
from dma_rehearsal.device.endpoints.routing import Fabric
from dma_rehearsal.device.exerciser.atc import Atc
from dma_rehearsal.device.exerciser.behaviour import Behaviour
from dma_rehearsal.device.exerciser.capabilities import (
    DEFAULT_CAPABILITIES,
    OptionalCapabilities,
    OptionalCapability,
)
from dma_rehearsal.device.exerciser.constraints import Constraints
from dma_rehearsal.device.exerciser.control_registers import (
    CONTROL,
    DmaControl,
    DmaState,
    requested,
)
from dma_rehearsal.device.exerciser.hold import Hold
from dma_rehearsal.device.exerciser.profile import BUFFER_MAX, BUFFER_MIN, PLAIN, Profile
from dma_rehearsal.device.exerciser.records import DmaRecord, Records
from dma_rehearsal.device.exerciser.ring import Ring
from dma_rehearsal.device.exerciser.transaction_trace import TransactionTrace
from dma_rehearsal.device.exerciser.transfer import (
    Moved,
    Segment,
    Transfer,
    copied,
    runs,
    stored,
)
from dma_rehearsal.device.layout import (
    AddressType,
    DmaAttribute,
    DmaCtl,
    DmaDirection,
    DmaReason,
    DmaStatus,
    ExerciserBar,
    Ext,
    ExtFeature,
    Reg,
)
from dma_rehearsal.device.pci.msix import MAX_VECTORS, pba_size, table_size
from dma_rehearsal.device.pci.pcie import DeviceStatus
from dma_rehearsal.device.trace import Trace

_FEATURES = (
    *(ExtFeature.CRC, ExtFeature.RECORD, ExtFeature.CONSTRAINTS),
    *(ExtFeature.HOLD, ExtFeature.RING, ExtFeature.PROFILE),
)


# Every DMA tests these, and an operation on an IntFlag costs as much as ten on an int.
_RING, _USE_ATC = int(DmaAttribute.RING), int(DmaAttribute.USE_ATC)
_NON_COHERENT = int(DmaAttribute.NON_COHERENT)
_TRIGGER, _TRIGGER_MASK = int(DmaCtl.TRIGGER), int(DmaCtl.TRIGGER_MASK)
_STATUS = int(Reg.DMASTATUS)


class Exerciser(Endpoint):
    """13b5:ed01, or the device of a ``profile``.

    ``buffer_size`` (BAR1, a power of two, 4 KiB to 16 MiB) and ``vectors`` (1 to 2048) take the
    place of the profile's. A fault gives it another ``behaviour`` at any time; its own methods are
    the sound one.
    """

    name = "exerciser"
    immediate_readiness = True

    def __init__(
        self,
        trace: Trace,
        *,
        profile: Profile = PLAIN,
        buffer_size: int | None = None,
        vectors: int | None = None,
        capabilities: Collection[OptionalCapability] = DEFAULT_CAPABILITIES,
        fabric: Fabric | None = None,
    ) -> None:
        """Raise ValueError for a size or a count that is out of range."""
        buffer_size = profile.buffer if buffer_size is None else buffer_size
        vectors = profile.vectors if vectors is None else vectors
        if not BUFFER_MIN <= buffer_size <= BUFFER_MAX or buffer_size & (buffer_size - 1):
            raise ValueError(f"buffer size {buffer_size}: a power of two, 4096 to {BUFFER_MAX}")
        if not 1 <= vectors <= MAX_VECTORS:
            raise ValueError(f"{vectors} vectors: 1 to {MAX_VECTORS} can be had")
        extension = (
            Register(Ext.MAGIC, reset=layout.EXT_MAGIC),
            Register(Ext.VERSION, reset=layout.EXT_VERSION),
            Register(Ext.FEATURES, reset=sum(_FEATURES)),
            Register(Ext.BUFFER_SIZE, reset=buffer_size),
        )
        self.behaviour: Behaviour = self
        # A subclass that transfers in its own way gets every transfer.
        self._transfers_soundly = type(self).transfer is Exerciser.transfer
        self.profile = profile
        self.identity = profile.identity
        super().__init__(
            trace,
            bars={
                ExerciserBar.CONTROL: RegisterBar(CONTROL, layout.CONTROL_SIZE),
                ExerciserBar.BUFFER: MemoryBar(buffer_size),
                ExerciserBar.MSIX_TABLE: MemoryBar(bar_size(table_size(vectors))),
                ExerciserBar.EXTENSION: RegisterBar(extension, layout.EXTENSION_SIZE),
                ExerciserBar.MSIX_PBA: MemoryBar(bar_size(pba_size(vectors)), read_only=True),
            },
            vectors=vectors,
            msix_bars=MsixBars(ExerciserBar.MSIX_TABLE, ExerciserBar.MSIX_PBA),
            fabric=fabric,
        )
        self.buffer = self.memory(ExerciserBar.BUFFER)
        self.control = self.registers(ExerciserBar.CONTROL)
        self.extension = self.registers(ExerciserBar.EXTENSION)
        self._optional = OptionalCapabilities(self, capabilities, ats_control=self._control_ats)
        self.injector = self._optional.injector
        self.records = Records(self.extension)
        self.constraints = Constraints(self.extension, profile)
        self.hold = Hold(
            self.extension,
            move=self._start_transfer,
            ended=self._record_end,
            cut=self._tell_refused,
            changed=self._update_pending,
        )
        self.ring = Ring(
            self.extension,
            read=self._fetch,
            run=self._run_ring,
            refuse=self._refuse,
            unreachable=self._record_unreachable,
            interrupt=self._send_msix,
            make=self._ring_transfer,
            changed=self._update_pending,
            cached=self._has_caches,
        )
        self.atc = Atc(
            self.control,
            self.bus,
            enabled=self._ats_enabled,
            pasid_enabled=self._pasid_enabled,
        )
        self.transactions = TransactionTrace(self.control, self._bar_address)

    # The behaviour in use, as the parts and the bus ask for it.

    @property
    def coherent(self) -> bool:
        """Whether caches follow its DMA."""
        return self.behaviour.is_coherent()

    @property
    def no_snoop_enabled(self) -> bool:
        """Whether its requests may have No Snoop set (PCI Express Base 5.0, 7.5.3.4)."""
        return self.behaviour.allows_no_snoop()

    def traces_request(self, reason: DmaReason) -> bool:
        """Return whether a request that ended for ``reason`` is in the trace."""
        return self.behaviour.traces(reason)

    def _start_transfer(self, transfer: Transfer, done: Moved) -> None:
        self.behaviour.transfer(transfer, done)

    def _run_ring(self, transfer: Transfer, done: Callable[[DmaReason], None]) -> None:
        self.behaviour.run_ring(transfer, done)

    def _record_end(self, transfer: Transfer, reason: DmaReason, moved: int, crc32: int) -> None:
        self.behaviour.ended(transfer, reason, moved, crc32)

    def _record_unreachable(self, transfer: Transfer, reason: DmaReason) -> None:
        self.behaviour.ended(transfer, reason, 0, 0)

    def _send_msix(self, vector: int) -> bool:
        return self.behaviour.msix(vector)

    def _signal_intx(self) -> bool:
        return self.behaviour.send_intx()

    def _intx_status(self) -> bool:
        return self.behaviour.intx_status()

    # The sound behaviour; the rest of it is below, each method with its subject.

    def is_coherent(self) -> bool:
        """Return whether caches follow its DMA, as its profile says."""
        return self.profile.coherent

    def allows_no_snoop(self) -> bool:
        """Return Device Control's Enable No Snoop."""
        return super().no_snoop_enabled

    def traces(self, reason: DmaReason) -> bool:
        """Return True: each request is in the trace."""
        del reason
        return True

    def before_write(self, region: int, offset: int, data: bytes) -> None:
        """Do nothing before a write takes effect."""

    def shown_config(self, offset: int, data: bytes) -> bytes:
        """Return ``data`` as it is in configuration space."""
        del offset
        return data

    # Facts that the parts ask for.

    def _control_ats(self, enabled: bool) -> None:
        self.atc.control(enabled)

    def _ats_enabled(self) -> bool:
        return self._optional.ats_enabled

    def _pasid_enabled(self) -> bool:
        return self._optional.pasid_enabled

    def _has_caches(self) -> bool:
        return self.bus.interconnect.caches is not None

    def _bar_address(self, bar: int) -> int:
        return self.config.bar_address(bar) or 0

    # Events that end a DMA in flight, and clear state that is not in registers.

    def end_dma(self, reason: DmaReason) -> None:
        """End the DMA in flight, and all that was started."""
        self.hold.abort(reason)
        self.ring.abort(reason)
        self.bus.cancel()

    def _update_pending(self) -> None:
        pending = self.hold.in_flight or self.ring.busy
        self.set_device_status(DeviceStatus.TRANSACTIONS_PENDING, pending)

    def on_reset(self) -> None:
        """End the DMA in flight; forget the DMAs, the ring, the translation and the trace."""
        self.behaviour.end_dma(DmaReason.RESET)
        self.control[Reg.DMASTATUS] = DmaStatus.OK  # the DMA that it ended stored another
        self.records.reset()
        self.ring.reset()
        self.atc.reset()
        self.transactions.reset()

    def on_command(self) -> None:
        """End the DMA in flight when bus mastering does."""
        if not self.config.bus_master:
            self.behaviour.end_dma(DmaReason.BUS_MASTER_OFF)

    def on_unmap(self, address: int, length: int) -> None:
        """Take it as the invalidation of a translation that it stands for."""
        self.atc.invalidate(address, length)

    def on_detach(self) -> None:
        """End the DMA in flight; no translation holds any more."""
        self.atc.invalidate(0, 1 << 64)
        self.behaviour.end_dma(DmaReason.CLIENT_GONE)

    def on_access(self, region: int, offset: int, data: bytes, *, write: bool) -> None:
        """Trace the access."""
        self.behaviour.accessed(region, offset, data, write=write)

    def accessed(self, region: int, offset: int, data: bytes, *, write: bool) -> None:
        """Trace the access; software can see a DMA that is still in flight when it is done."""
        self.hold.settle()
        if self.transactions.record(region, offset, data, write=write):
            facts = {"region": region, "offset": offset, "length": len(data), "write": write}
            self.trace.event(self.name, "transaction", **facts)

    def region_read(self, index: int, offset: int, length: int) -> bytes:
        """See ``DeviceModel.region_read``; poisoned, BARs read as all ones."""
        data = super().region_read(index, offset, length)
        if index == CONFIG_REGION:
            return self.behaviour.shown_config(offset, data)
        poisoned = self.injector is not None and self.injector.control.poison
        return b"\xff" * length if poisoned else data

    def region_write(self, index: int, offset: int, data: bytes) -> None:
        """See ``DeviceModel.region_write``."""
        self.behaviour.before_write(index, offset, data)
        super().region_write(index, offset, data)

    # Interrupts.

    def write_msictl(self, value: int) -> None:
        """Send the MSI-X message of a vector when the trigger bit is written."""
        if value & layout.MSICTL_TRIGGER:
            self.behaviour.msix(value & layout.MSICTL_VECTOR)

    def write_intxctl(self, value: int) -> None:
        """Assert or deassert the legacy interrupt."""
        self.intx(bool(value & layout.INTXCTL_ASSERT))

    # DMA.

    def read_dmactl(self) -> int:
        """Return DMACTL; the trigger reads 1 while a DMA is in flight."""
        return self.control[Reg.DMACTL] | self.hold.in_flight * DmaCtl.TRIGGER

    def write_dmactl(self, value: int) -> None:
        """Run a DMA when the trigger is written; one that is in flight goes on undisturbed."""
        if value & _TRIGGER_MASK == _TRIGGER and not self.hold.in_flight:
            self.run(self._requested(DmaControl(value)), held=self.hold.on)

    def write_dmastatus(self, value: int) -> None:
        """Clear the status by writing 1 to bit 2."""
        if DmaState(value).clear:
            self.control[Reg.DMASTATUS] = DmaStatus.OK

    def _requested(self, control: DmaControl) -> Transfer:
        """Copy the request out of the registers."""
        return self._with_no_snoop(
            requested(self.control, control, pasid_enabled=self._pasid_enabled())
        )

    def _ring_transfer(
        self, direction: DmaDirection, segments: tuple[Segment, ...], no_snoop: bool
    ) -> Transfer:
        attributes = Attributes(no_snoop=no_snoop)
        return self._with_no_snoop(Transfer(direction, segments, attributes, DmaAttribute.RING))

    def _with_no_snoop(self, transfer: Transfer) -> Transfer:
        """Say what is asked; without Enable No Snoop the access is snooped all the same."""
        if not transfer.attributes.no_snoop:
            return transfer
        asked = transfer.asked | DmaAttribute.NO_SNOOP_ASKED
        asked |= DmaAttribute.NO_SNOOP if self.no_snoop_enabled else DmaAttribute(0)
        return replace(
            transfer,
            asked=asked,
            attributes=replace(transfer.attributes, no_snoop=self.no_snoop_enabled),
        )

    def run(self, transfer: Transfer, *, held: bool = False) -> None:
        """Begin a DMA, or refuse it."""
        try:
            sent = self._sent(transfer)
        except DmaRefused as refusal:
            self._refuse(transfer, refusal.reason, refusal.address)
        else:
            if held or self._moved_at_once(sent) is None:
                self.hold.begin(sent, held=held)

    def _moved_at_once(self, sent: Transfer) -> DmaReason | None:
        """Move and record a transfer between mapped memory and one piece of the buffer.

        Return why it ended. None: nothing has moved, and it goes by the bus's queue. So does every
        transfer of a device that does not do it soundly.
        """
        if self.behaviour is not self or not self._transfers_soundly:
            return None
        segments = sent.bus_segments
        pieces = runs(segments)
        if len(pieces) != 1:
            return None
        ((start, end),) = pieces
        ranges = [each[:2] for each in segments]
        reason, moved, crc = DmaReason.NONE, end - start, None
        with memoryview(self.buffer)[start:end] as whole:
            try:
                crc = self.bus.move_at_once(
                    ranges, whole, sent.attributes, write=sent.writes_memory
                )
            except DmaRefused as refusal:
                reason, moved, crc = refusal.reason, 0, 0
        if crc is None:
            return None
        self.ended(sent, reason, moved, crc)
        return reason

    def run_ring(self, transfer: Transfer, done: Callable[[DmaReason], None]) -> None:
        """Do a transfer of the ring, or refuse it; call ``done`` when it has ended, and why."""
        try:
            sent = self._sent(transfer)
        except DmaRefused as refusal:
            self._refuse(transfer, refusal.reason, refusal.address)
            done(refusal.reason)
            return

        if (ended := self._moved_at_once(sent)) is not None:
            done(ended)
            return

        def moved(direction: DmaDirection, outcome: bytes | DmaRefused) -> None:
            if isinstance(outcome, DmaRefused):
                self.behaviour.ended(sent, outcome.reason, 0, 0)
                done(outcome.reason)
                return
            self.behaviour.ended(
                sent.moved(direction), DmaReason.NONE, sent.length, zlib.crc32(outcome)
            )
            done(DmaReason.NONE)

        self.behaviour.transfer(sent, moved)

    def _sent(self, transfer: Transfer) -> Transfer:
        """Return what goes to the bus, which still says what was asked for; see `check`."""
        sent = self.behaviour.check(transfer)
        if sent.bus_segments == transfer.segments:
            return sent
        return replace(sent, segments=transfer.segments, used=sent.bus_segments)

    def check(self, transfer: Transfer) -> Transfer:
        """Refuse what never reaches the bus; return what goes there."""
        size = len(self.buffer)
        for address, length, offset, _ in transfer.segments:
            if offset + length > size:
                raise DmaRefused(DmaReason.BUFFER_RANGE, address)
        use_atc = bool(int(transfer.asked) & _USE_ATC)
        address_type = transfer.attributes.address_type
        translated = address_type is AddressType.TRANSLATED
        if address_type is AddressType.RESERVED or (translated and use_atc):
            raise DmaRefused(DmaReason.RESERVED_ADDRESS_TYPE, transfer.address)
        self.constraints.check(transfer.segments)
        sent = self.atc.translated(transfer) if use_atc else transfer
        used = self.constraints.used(sent.segments)
        sent = sent if used == sent.segments else replace(sent, used=used)
        self._check_injection(sent)
        return sent

    def _check_injection(self, sent: Transfer) -> None:
        """Refuse each DMA while software wants that; a peer that it is for detects the error.

        Without bus mastering none leaves the device, and the bus says so.
        """
        injector = self.injector
        if injector is None or not injector.control.corrupt_dma or not self.config.bus_master:
            return
        for each in sent.bus_segments:
            peer = self.fabric.function_at(self, each.address, each.length)
            if peer is not None:
                injector.inject(peer)
                break
        raise DmaRefused(DmaReason.INJECTED, sent.address)

    def _fetch(
        self,
        ranges: Sequence[tuple[int, int]],
        done: Callable[[list[bytes] | DmaRefused], None],
    ) -> None:
        """Read descriptors; the device has no more address lines for them than for data."""
        try:
            for each in ranges:
                self.constraints.reach(*each)
        except DmaRefused as refusal:
            self.bus.refuse(refusal.reason, ranges, write=False, byte=refusal.address)
            done(refusal)
            return
        places = self.constraints.used(tuple(Segment(*each, 0) for each in ranges))
        self.bus.read_list_async([(each.address, each.length) for each in places], done)

    def transfer(self, transfer: Transfer, done: Moved) -> None:
        """Move the data and call ``done``; it is refused whole when a part cannot be reached."""
        if transfer.writes_memory:
            whole, pieces = copied(self.buffer, transfer.bus_segments)

            def written(outcome: list[bytes] | DmaRefused) -> None:
                done(transfer.direction, outcome if isinstance(outcome, DmaRefused) else whole)

            places = [each.address for each in transfer.bus_segments]
            self.bus.write_list_async(
                [*zip(places, pieces, strict=True)], written, transfer.attributes
            )
        else:

            def read(outcome: list[bytes] | DmaRefused) -> None:
                done(transfer.direction, self._store(transfer, outcome))

            ranges = [(each.address, each.length) for each in transfer.bus_segments]
            self.bus.read_list_async(ranges, read, transfer.attributes)

    def _store(self, transfer: Transfer, outcome: list[bytes] | DmaRefused) -> bytes | DmaRefused:
        if isinstance(outcome, DmaRefused):
            return outcome
        return stored(self.buffer, transfer.bus_segments, outcome)

    def _refuse(self, transfer: Transfer, reason: DmaReason, byte: int | None = None) -> None:
        """Refuse, or cut short, a DMA of which nothing has moved."""
        self._tell_refused(transfer, reason, 0, byte)
        self.behaviour.ended(transfer, reason, 0, 0)

    def _tell_refused(
        self, transfer: Transfer, reason: DmaReason, moved: int, byte: int | None = None
    ) -> None:
        """Tell of a DMA that this device ends itself: it is the bus that tells of its own.

        One that was refused, of which the client is being told, ends but once.
        """
        if self.bus.forwarding:
            return
        places = [(each.address, each.length) for each in transfer.segments]
        self.bus.refuse(reason, places, write=transfer.writes_memory, moved=moved, byte=byte)

    def ended(self, transfer: Transfer, reason: DmaReason, moved: int, crc32: int) -> None:
        """Record a DMA that has ended, and set DMASTATUS, which is not the ring's."""
        status = DmaStatus.INTERNAL if reason else DmaStatus.OK
        if reason is DmaReason.BUFFER_RANGE:
            status = DmaStatus.RANGE
        asked = int(transfer.asked)
        if not asked & _RING:
            self.control.values[_STATUS] = int(status)
        if not self.coherent:
            asked |= _NON_COHERENT
        left = not reason or moved > 0
        segments = transfer.segments
        address, _, offset, _ = segments[0]
        record = DmaRecord(
            sequence=self.records.count + 1 & 0xFFFF_FFFF,
            status=status,
            reason=reason,
            address=address,
            length=transfer.length,
            moved=moved,
            direction=transfer.direction,
            attributes=asked,
            offset=offset,
            crc32=crc32,
            segments=len(segments),
            sent=transfer.attributes,
            used=transfer.bus_segments[0].address if left else 0,
            modelled_ns=self.profile.modelled_ns(moved) if left else 0,
        )
        self.behaviour.keep(record)
        if self.trace.on:
            self.trace.event(self.name, "dma", **record.event())

    def keep(self, record: DmaRecord) -> None:
        """Keep the record of a DMA that has ended, for software to read."""
        self.records.add(record)
