# SPDX-License-Identifier: Apache-2.0
"""The platform device: what stands between devices and memory on a board. It joins the models.

The witness walks page tables; the protection unit denies DMA without a grant; the cache model has
DMA meet what a board without coherent I/O would have in DRAM; the request log has what was refused;
the mailbox takes commands to the two in batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from dma_rehearsal.device import layout
from dma_rehearsal.device.cache_model.model import CacheModel, MakeModel
from dma_rehearsal.device.cache_model.names import GuestMemory, Mode
from dma_rehearsal.device.endpoints.bars import Bars, MemoryBar, RegisterBar
from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.endpoints.hold_board import HoldRules
from dma_rehearsal.device.endpoints.interconnect import Interconnect
from dma_rehearsal.device.endpoints.registers import Register
from dma_rehearsal.device.endpoints.request_history import RefusedRequest, keep_all
from dma_rehearsal.device.layout import Plat, PlatformBar
from dma_rehearsal.device.layout import PlatformFeature as Feature
from dma_rehearsal.device.layout.mailbox import MailRecord
from dma_rehearsal.device.pci.config import Identity
from dma_rehearsal.device.platform.board_registers import BoardRegisters
from dma_rehearsal.device.platform.cache_registers import CacheRegisters
from dma_rehearsal.device.platform.hold_registers import HoldRegisters
from dma_rehearsal.device.platform.mailbox import Mailbox, carry_out_all
from dma_rehearsal.device.platform.memory_types import Mtrrs
from dma_rehearsal.device.platform.protection import Protection, ProtectionRules
from dma_rehearsal.device.platform.protection_registers import ProtectionRegisters
from dma_rehearsal.device.platform.request_registers import RequestRegisters
from dma_rehearsal.device.platform.tracks import Tracks
from dma_rehearsal.device.platform.witness import ReadPhysical, TableUnreachable, Witness
from dma_rehearsal.device.platform.witness_registers import WitnessRegisters
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.errors import Unmapped
from dma_rehearsal.device.vfio_user.model import FileRange

IDENTITY = Identity(
    vendor_id=layout.PLATFORM_VENDOR_ID,
    device_id=layout.PLATFORM_DEVICE_ID,
    class_code=layout.PLATFORM_CLASS_CODE,
)
FEATURES = (
    *(Feature.WITNESS, Feature.PROTECTION, Feature.CACHE, Feature.REQUESTS),
    *(Feature.MAILBOX, Feature.BOARD_SNOOP, Feature.HOLD),
)


@dataclass(frozen=True, slots=True)
class PlatformModels:
    """The models that a platform joins, and their rules. A named fault gives a platform others.

    ``witness`` makes the witness of a walk, ``cache`` the cache model of a configuration;
    ``carries_out`` says which commands of the mailbox are done, ``snoops`` whether the board snoops
    by what BOARD_SNOOP says.
    """

    witness: Callable[[ReadPhysical, int, Mtrrs], Witness] = Witness
    cache: MakeModel = CacheModel
    protection: ProtectionRules = field(default_factory=ProtectionRules)
    hold: HoldRules = field(default_factory=HoldRules)
    keeps_refusal: Callable[[RefusedRequest], bool] = keep_all
    carries_out: Callable[[MailRecord], bool] = carry_out_all
    snoops: Callable[[bool], bool] = bool


class Platform(Endpoint):
    """1234:da7a. Commands run within the write that triggers them; their status is then ready.

    ``interconnect`` is for the other functions of the process; this one's own requests do not cross
    it. A reset takes all models to their reset state.
    """

    name = "platform"
    identity = IDENTITY
    bars: ClassVar[Bars] = {
        PlatformBar.CONTROL: RegisterBar(
            (
                Register(Plat.MAGIC, reset=layout.PLATFORM_MAGIC),
                Register(Plat.VERSION, reset=layout.PLATFORM_VERSION),
                Register(Plat.FEATURES, reset=sum(FEATURES)),
            ),
            layout.PLATFORM_CONTROL_SIZE,
        ),
        PlatformBar.RESULTS: MemoryBar(layout.PLATFORM_RESULTS_SIZE, read_only=True),
    }

    def __init__(self, trace: Trace, *, protection: Protection | None = None) -> None:
        super().__init__(trace)
        self.bus.trace = Trace()  # walks are not requests of a device
        self.interconnect = Interconnect()
        self._models = PlatformModels()
        control = self.registers(PlatformBar.CONTROL)
        event = partial(trace.event, self.name)
        self._witness = WitnessRegisters(
            control,
            self.memory(PlatformBar.RESULTS),
            make=self._make_witness,
            may_read=lambda: self.config.bus_master,
            event=event,
        )
        self._unit = Protection() if protection is None else protection
        self._protection = ProtectionRegisters(control, self._unit, self.interconnect, event)
        self._requests = RequestRegisters(control, self.interconnect, event)
        self._holds = HoldRegisters(control, self.interconnect.holds, self.timers)
        self._tracks = Tracks(
            self.interconnect, make=self._make_cache, file_ranges=self._places, event=event
        )
        self._board = BoardRegisters(
            control,
            self.interconnect,
            snoops=lambda asked: self._models.snoops(asked),
            event=event,
        )
        self._cache = CacheRegisters(
            control,
            self.memory(PlatformBar.RESULTS),
            self.interconnect,
            self._tracks,
            walk=self._witness.walk,
            event=event,
        )
        Mailbox(
            control,
            self._unit,
            self._tracks,
            self.interconnect,
            read=self.bus.read,
            walk=self._witness.walk_from,
            carries_out=lambda record: self._models.carries_out(record),
            event=event,
        )

    @property
    def models(self) -> PlatformModels:
        """Return the models in use."""
        return self._models

    def use(self, models: PlatformModels) -> None:
        """Use other models from now on.

        The protection unit keeps its grants and faults, and refused requests stay counted. The
        cache model stays as it is until its next configuration.
        """
        with self.interconnect.lock:
            self._models = models
            self._unit.rules = models.protection
            self.interconnect.refusals.keeps = models.keeps_refusal
            self.interconnect.holds.rules = models.hold

    def _make_witness(self, pat: int, mtrrs: Mtrrs) -> Witness:
        return self._models.witness(self._read_physical, pat, mtrrs)

    def _make_cache(self, memory: GuestMemory, mode: Mode, line: int, seed: int) -> CacheModel:
        return self._models.cache(memory, mode, line, seed)

    def on_reset(self) -> None:
        """Turn the protection unit off, without grants, and the cache model, without tracks.

        The requests that were refused are forgotten; the count of all goes on. The board snoops
        again. No action is held.
        """
        self._holds.reset()
        self._protection.reset()
        self._requests.reset()
        self._board.reset()
        self._cache.reset()

    def on_detach(self) -> None:
        """Turn the cache model off: its buffers are the client's. No action is held."""
        self._holds.reset()
        self._cache.reset()

    def _places(self, address: int, length: int) -> list[FileRange]:
        """Return where physical memory lies. Unmapped."""
        if self.bus.client is None:
            raise Unmapped(address)
        return self.bus.client.file_ranges(address, length, write=True)

    def _read_physical(self, address: int, length: int) -> bytes:
        try:
            return self.bus.read(address, length)
        except DmaRefused as refusal:
            raise TableUnreachable(str(refusal)) from refusal
