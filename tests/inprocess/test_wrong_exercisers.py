# SPDX-License-Identifier: Apache-2.0
"""Exercisers that err in Arm's registers, in BAR3 or under attack break the right promise."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.endpoints.endpoint import CONFIG_REGION
from dma_rehearsal.device.endpoints.task import Steps
from dma_rehearsal.device.exerciser import exerciser
from dma_rehearsal.device.exerciser.control_registers import DmaControl
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.exerciser.ring import Ring, parse
from dma_rehearsal.device.exerciser.transfer import Moved, Segment, Transfer
from dma_rehearsal.device.layout import (
    RING_SIZE_MAX,
    AddressType,
    AtsPerm,
    DmaDirection,
    DmaReason,
    Ext,
    Reg,
    RingFlag,
    RingStatus,
)
from dma_rehearsal.device.pci.pcie import DeviceStatus
from tests.inprocess.rig.machine import Machine
from tests.inprocess.rig.suite_run import SuiteRunner
from tests.inprocess.rig.wrong import hasten, with_device

pytest_plugins = ["pytester"]


@pytest.fixture
def rig(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> SuiteRunner:
    return SuiteRunner(pytester, monkeypatch)


class IgnoresEnableNoSnoop(Exerciser):
    @property
    def no_snoop_enabled(self) -> bool:
        return True


class TakesReservedType(Exerciser):
    def check(self, transfer: Transfer) -> Transfer:
        if transfer.attributes.address_type is AddressType.RESERVED:
            return transfer
        return super().check(transfer)


class KeepsAddressType(Exerciser):
    """Bits of the address type can only be set, never cleared."""

    def write_dmactl(self, value: int) -> None:
        self._kept = getattr(self, "_kept", 0) | value & 2 << 10
        super().write_dmactl(value | self._kept)


class ForgetsRequesterId(Exerciser):
    def _requested(self, control: DmaControl) -> Transfer:
        asked = super()._requested(control)
        return replace(asked, attributes=replace(asked.attributes, requester_id=None))


class SendsPasidUnasked(Exerciser):
    def _pasid_enabled(self) -> bool:
        return True


class KeepsResults(Exerciser):
    """Forgets a translation that is cleared, and goes on showing it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        show = self.atc._show
        self.atc._show = lambda result: show(result) if result else None  # type: ignore[method-assign]


class TranslatesForEver(Exerciser):
    """Goes on with a translation when ATS is disabled."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.atc._enabled = lambda: True
        self.atc.__dict__["control"] = lambda _: None


class ForgetsIndex(Exerciser):
    """MSICTL's index reads 0."""

    def write_msictl(self, value: int) -> None:
        super().write_msictl(value)
        self.control[Reg.MSICTL] = 0


class MovesAPart(Exerciser):
    """Says of what it refused that a byte was moved."""

    def ended(self, transfer: Transfer, reason: DmaReason, moved: int, crc32: int) -> None:
        super().ended(transfer, reason, moved or int(bool(reason)), crc32)


class LosesItself(Exerciser):
    """Is another device in D3hot."""

    def region_write(self, index: int, offset: int, data: bytes) -> None:
        super().region_write(index, offset, data)
        if index == CONFIG_REGION and offset == 0x80 and data[0] & 3:
            self.config.set_word(0, 0xFFFF)


class SendsLate(Exerciser):
    """Keeps the messages of a time without bus mastering, and sends them with a later one."""

    def msix(self, vector: int) -> bool:
        kept = self.__dict__.setdefault("_kept", [])
        if not self.config.bus_master:
            kept.append(vector)
        if vector >= self.vectors:
            for each in kept:
                super().msix(each)
        return super().msix(vector)


class WrapsVectors(Exerciser):
    """Takes a vector that it does not have modulo their number."""

    def msix(self, vector: int) -> bool:
        return super().msix(vector % self.vectors)


class WrapsAddresses(Exerciser):
    """Goes on at address 0 behind the last one."""

    def transfer(self, transfer: Transfer, done: Moved) -> None:
        def wrapped(direction: DmaDirection, outcome: bytes | DmaRefused) -> None:
            if isinstance(outcome, DmaRefused) and outcome.reason is DmaReason.ADDRESS_WRAP:
                outcome = bytes(transfer.length)
            done(direction, outcome)

        super().transfer(transfer, wrapped)


class TakesAnother(Exerciser):
    """A DMA in flight makes room for the next one."""

    def write_dmactl(self, value: int) -> None:
        self.hold._transfer = None
        super().write_dmactl(value)


class HoldsByDefault(Exerciser):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.extension[Ext.HOLD] = 1


class NeverPending(Exerciser):
    """Does not set Transactions Pending."""

    def set_device_status(self, bit: DeviceStatus, on: bool = True) -> None: ...


class NeverBusy(Exerciser):
    """DMACTL's trigger reads 0 while a DMA is in flight."""

    def read_dmactl(self) -> int:
        return super().read_dmactl() & ~1


class StepsTwice(Exerciser):
    """Moves twice what it is told."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        step = self.hold.write_step
        self.extension._slots[Ext.STEP] = replace(
            self.extension._slots[Ext.STEP], writer=lambda value: step(2 * value)
        )


class WritesAnyway(Exerciser):
    """Writes by a translation that permits none."""

    def check(self, transfer: Transfer) -> Transfer:
        entry = self.atc.entry
        if entry is not None:
            self.atc.entry = replace(entry, permissions=entry.permissions | AtsPerm.WRITE)
        return super().check(transfer)


class MissesConfiguration(Exerciser):
    """Traces BARs alone."""

    def on_access(self, region: int, offset: int, data: bytes, *, write: bool) -> None:
        if region != CONFIG_REGION:
            super().on_access(region, offset, data, write=write)


class WrongRing(Exerciser):
    """Has another ring; subclasses say which."""

    ring_type: type[Ring] = Ring

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exerciser, "Ring", self.ring_type)
            super().__init__(*args, **kwargs)


class NoWrap(Ring):
    """Stops at the ring's end."""

    def ranges(self, head: int, count: int) -> list[tuple[int, int]]:
        return super().ranges(head, min(count, self._size - head))


class ReadsLate(Ring):
    """Reads each descriptor when its turn comes."""

    def run(self, chain: list[Segment]) -> Steps[DmaReason]:
        index = self._extension[Ext.RING_COMPLETION]
        found = yield partial(self._read, self.ranges(index, len(chain)))
        return (yield from super().run(parse(b"".join(found))))


class IgnoresFlags(Ring):
    """Takes unknown flags for none."""

    def run(self, chain: list[Segment]) -> Steps[DmaReason]:
        return super().run([each._replace(flags=each.flags & sum(RingFlag)) for each in chain])


class EndsChains(Ring):
    """Runs a transfer whose last segment is missing."""

    def run(self, chain: list[Segment]) -> Steps[DmaReason]:
        last = chain[-1]._replace(flags=chain[-1].flags & ~RingFlag.CHAIN)
        return super().run([*chain[:-1], last])


class WrapsIndexes(Ring):
    """Takes an index past the ring's end modulo its size."""

    def _doorbell(self, tail: int) -> Steps[RingStatus]:
        return super()._doorbell(tail % (self._size or 1))


class TakesAnySize(Ring):
    """A ring of any size."""

    def _doorbell(self, tail: int) -> Steps[RingStatus]:
        self._size = min(max(self._size, 2), RING_SIZE_MAX)
        return super()._doorbell(tail)


class SilentRing(Ring):
    """Sends no interrupt."""

    def _run_all(self, descriptors: list[Segment]) -> Steps[RingStatus]:
        quiet = [each._replace(flags=each.flags & ~RingFlag.INTERRUPT) for each in descriptors]
        return super()._run_all(quiet)


def with_ring(kind: type[Ring]) -> type[Machine]:
    return with_device(type(kind.__name__, (WrongRing,), {"ring_type": kind}))


@pytest.mark.fires("promise", neighbour="tests/inprocess/test_whole_suite.py::test_sound_devices")
@pytest.mark.parametrize(
    ("machine", "selected", "promise"),
    [
        (with_device(IgnoresEnableNoSnoop), "needs_its_enable", "no-snoop"),
        (with_device(TakesReservedType), "address_types", "address type"),
        (with_device(KeepsAddressType), "address_types", "address type"),
        (with_device(ForgetsRequesterId), "requester_id", "requester id"),
        (with_device(SendsPasidUnasked), "requester_id", "requester id"),
        (with_device(MovesAPart), "to_the_other_functions_bar", "other function"),
        (with_device(MovesAPart), "own_bar", "own BAR"),
        (with_device(LosesItself), "every_order", "configuration space"),
        (with_device(SendsLate), "do_not_exist", "MSI-X"),
        (with_device(WrapsVectors), "do_not_exist", "MSI-X"),
        (with_device(WrapsAddresses), "at_the_edges", "DMA range"),
        (with_device(TakesAnother), "request_is_latched", "DMA in flight"),
        (with_device(HoldsByDefault), "off_by_default", "DMA in flight"),
        (with_device(NeverPending), "every_step", "DMA in flight"),
        (with_device(NeverBusy), "every_step", "DMA in flight"),
        (with_device(StepsTwice), "every_step", "DMA in flight"),
        (with_device(WritesAnyway), "permits_no_writes", "ATS"),
        (with_device(KeepsResults), "leaves_no_result", "ATS"),
        (with_device(TranslatesForEver), "ends_with_ats", "ATS"),
        (with_device(ForgetsIndex), "hold_what_is_written", "registers"),
        (with_device(MissesConfiguration), "configuration_accesses", "transaction trace"),
        (with_ring(NoWrap), "thousands", "descriptor ring"),
        (with_ring(ReadsLate), "points_at_itself", "descriptor ring"),
        (with_ring(IgnoresFlags), "bad_descriptors", "descriptor ring"),
        (with_ring(EndsChains), "bad_descriptors", "descriptor ring"),
        (with_ring(WrapsIndexes), "not_there", "descriptor ring"),
        (with_ring(TakesAnySize), "not_there", "descriptor ring"),
        (with_ring(SilentRing), "scatter", "descriptor ring"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_wrong_exerciser(
    rig: SuiteRunner,
    monkeypatch: pytest.MonkeyPatch,
    machine: type[Machine],
    selected: str,
    promise: str,
) -> None:
    hasten(monkeypatch)
    assert rig.run(machine, "-k", selected).broken == {promise}
