# SPDX-License-Identifier: Apache-2.0
"""The implementation of a fault of the device process: the strategies that devices are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dma_rehearsal.device.exerciser.behaviour import Behaviour
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.exerciser.records import DmaRecord
from dma_rehearsal.device.exerciser.transfer import Moved, Transfer
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.platform.platform import PlatformModels


@dataclass(frozen=True, slots=True)
class DeviceFault:
    """The strategies that devices are given while a fault is set.

    ``exerciser`` makes the behaviour of an exerciser; None: the sound one. ``platform`` makes the
    platform's models anew each time, with the state of the fault.
    """

    exerciser: Callable[[Exerciser], Behaviour] | None = None
    platform: Callable[[], PlatformModels] = PlatformModels


class FaultyBehaviour:
    """An ``exerciser.behaviour.Behaviour`` that is the sound one of ``device``.

    A fault overrides one point, and keeps its own state here: it goes with the fault.
    """

    def __init__(self, device: Exerciser) -> None:
        self.device = device

    def check(self, transfer: Transfer) -> Transfer:
        """See ``Behaviour.check``."""
        return self.device.check(transfer)

    def transfer(self, transfer: Transfer, done: Moved) -> None:
        """See ``Behaviour.transfer``."""
        self.device.transfer(transfer, done)

    def run_ring(self, transfer: Transfer, done: Callable[[DmaReason], None]) -> None:
        """See ``Behaviour.run_ring``."""
        self.device.run_ring(transfer, done)

    def ended(self, transfer: Transfer, reason: DmaReason, moved: int, crc32: int) -> None:
        """See ``Behaviour.ended``."""
        self.device.ended(transfer, reason, moved, crc32)

    def keep(self, record: DmaRecord) -> None:
        """See ``Behaviour.keep``."""
        self.device.keep(record)

    def end_dma(self, reason: DmaReason) -> None:
        """See ``Behaviour.end_dma``."""
        self.device.end_dma(reason)

    def traces(self, reason: DmaReason) -> bool:
        """See ``Behaviour.traces``."""
        return self.device.traces(reason)

    def is_coherent(self) -> bool:
        """See ``Behaviour.is_coherent``."""
        return self.device.is_coherent()

    def allows_no_snoop(self) -> bool:
        """See ``Behaviour.allows_no_snoop``."""
        return self.device.allows_no_snoop()

    def msix(self, vector: int) -> bool:
        """See ``Behaviour.msix``."""
        return self.device.msix(vector)

    def send_intx(self) -> bool:
        """See ``Behaviour.send_intx``."""
        return self.device.send_intx()

    def intx_status(self) -> bool:
        """See ``Behaviour.intx_status``."""
        return self.device.intx_status()

    def before_write(self, region: int, offset: int, data: bytes) -> None:
        """See ``Behaviour.before_write``."""
        self.device.before_write(region, offset, data)

    def accessed(self, region: int, offset: int, data: bytes, *, write: bool) -> None:
        """See ``Behaviour.accessed``."""
        self.device.accessed(region, offset, data, write=write)

    def shown_config(self, offset: int, data: bytes) -> bytes:
        """See ``Behaviour.shown_config``."""
        return self.device.shown_config(offset, data)
