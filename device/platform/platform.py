"""The platform device: what stands between a device and memory on a board. Today: the witness."""

from __future__ import annotations

from typing import ClassVar

from device import layout
from device.endpoints.base import Bars, Endpoint, MemoryBar, RegisterBar
from device.endpoints.bus import DmaRefused
from device.endpoints.registers import Access, Register
from device.layout import MTRR_FIXED_NAMES, MTRR_MAX, Plat, PlatformBar, WitnessStatus
from device.layout import PlatformFeature as Feature
from device.pci.config import Identity
from device.trace import Trace

from .memory_types import Mtrrs
from .witness import ReadPhysical, Report, TableUnreachable, Witness

IDENTITY = Identity(
    vendor_id=layout.PLATFORM_VENDOR_ID,
    device_id=layout.PLATFORM_DEVICE_ID,
    class_code=layout.PLATFORM_CLASS_CODE,
)
_PHYSICAL_BITS_MIN, _PHYSICAL_BITS_MAX = 32, 52
_INPUTS = (
    *(Plat.WITNESS_ROOT_LO, Plat.WITNESS_ROOT_HI, Plat.WITNESS_VA_LO, Plat.WITNESS_VA_HI),
    *(Plat.WITNESS_LENGTH_LO, Plat.WITNESS_LENGTH_HI, Plat.WITNESS_LEVELS),
    *(Plat.PAT_LO, Plat.PAT_HI, Plat.MTRR_DEF_TYPE_LO, Plat.MTRR_DEF_TYPE_HI),
    *(Plat.PHYSICAL_BITS, Plat.MTRR_COUNT),
)
_OUTPUTS = (
    *(Plat.WITNESS_RUN_COUNT, Plat.WITNESS_PAGE_COUNT),
    *(Plat.WITNESS_FAULT_VA_LO, Plat.WITNESS_FAULT_VA_HI),
)


class Platform(Endpoint):
    """1234:da7a. Commands run within the write that triggers them; their status is then ready."""

    name = "platform"
    identity = IDENTITY
    bars: ClassVar[Bars] = {
        PlatformBar.CONTROL: RegisterBar(
            (
                Register(Plat.MAGIC, reset=layout.PLATFORM_MAGIC),
                Register(Plat.VERSION, reset=layout.PLATFORM_VERSION),
                Register(Plat.FEATURES, reset=Feature.WITNESS),
                Register(Plat.WITNESS_CTL, Access.WO),
                Register(Plat.WITNESS_STATUS, reset=WitnessStatus.NEVER_RUN),
                *(Register(each, Access.RW) for each in _INPUTS),
                *(Register(each) for each in _OUTPUTS),
            ),
            layout.PLATFORM_CONTROL_SIZE,
        ),
        PlatformBar.RESULTS: MemoryBar(layout.PLATFORM_RESULTS_SIZE, read_only=True),
    }

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace)
        self.results = self.memory(PlatformBar.RESULTS)
        self.control = self.registers(PlatformBar.CONTROL)
        self.control.add_array(Plat.MTRR_RANGES, 4 * MTRR_MAX)
        self.control.add_array(Plat.MTRR_FIXED, 2 * len(MTRR_FIXED_NAMES))

    def make_witness(self, read: ReadPhysical, pat: int, mtrrs: Mtrrs) -> Witness:
        """Return the witness of a walk; a fault overrides it."""
        return Witness(read, pat, mtrrs)

    def write_witness_ctl(self, value: int) -> None:
        """Walk when the trigger is written."""
        if not value & layout.WITNESS_TRIGGER:
            return
        report = self._walk()
        packed = b"".join(run.pack() for run in report.runs)
        self.results[:] = packed.ljust(len(self.results), b"\0")
        self.control[Plat.WITNESS_STATUS] = report.status
        self.control[Plat.WITNESS_RUN_COUNT] = len(report.runs)
        self.control[Plat.WITNESS_PAGE_COUNT] = report.pages
        self.control.set_pair(
            Plat.WITNESS_FAULT_VA_LO, Plat.WITNESS_FAULT_VA_HI, report.fault_address
        )
        self.trace.event(
            self.name,
            "witness",
            status=report.status.name,
            root=self.control.pair(Plat.WITNESS_ROOT_LO, Plat.WITNESS_ROOT_HI),
            address=self.control.pair(Plat.WITNESS_VA_LO, Plat.WITNESS_VA_HI),
            length=self.control.pair(Plat.WITNESS_LENGTH_LO, Plat.WITNESS_LENGTH_HI),
            pages=report.pages,
            runs=[
                {
                    "va": run.va,
                    "physical": run.physical,
                    "length": run.length,
                    "page_size": run.page_size,
                    "effective": run.effective.name,
                }
                for run in report.runs
            ],
        )

    def _walk(self) -> Report:
        control = self.control
        if not self.config.bus_master:
            return Report(WitnessStatus.BUS_MASTER_OFF)
        bits, count = control[Plat.PHYSICAL_BITS], control[Plat.MTRR_COUNT]
        if not _PHYSICAL_BITS_MIN <= bits <= _PHYSICAL_BITS_MAX or count > MTRR_MAX:
            return Report(WitnessStatus.BAD_ARGUMENT)
        mtrrs = Mtrrs(
            control.pair(Plat.MTRR_DEF_TYPE_LO, Plat.MTRR_DEF_TYPE_HI),
            bits,
            tuple(
                (self._wide(Plat.MTRR_RANGES + 16 * i), self._wide(Plat.MTRR_RANGES + 16 * i + 8))
                for i in range(count)
            ),
            tuple(self._wide(Plat.MTRR_FIXED + 8 * i) for i in range(len(MTRR_FIXED_NAMES))),
        )
        pat = control.pair(Plat.PAT_LO, Plat.PAT_HI)
        return self.make_witness(self._read_physical, pat, mtrrs).walk(
            control.pair(Plat.WITNESS_ROOT_LO, Plat.WITNESS_ROOT_HI),
            control.pair(Plat.WITNESS_VA_LO, Plat.WITNESS_VA_HI),
            control.pair(Plat.WITNESS_LENGTH_LO, Plat.WITNESS_LENGTH_HI),
            control[Plat.WITNESS_LEVELS],
        )

    def _wide(self, offset: int) -> int:
        return self.control.pair(offset, offset + 4)

    def _read_physical(self, address: int, length: int) -> bytes:
        try:
            return self.bus.read(address, length)
        except DmaRefused as refusal:
            raise TableUnreachable(str(refusal)) from refusal
