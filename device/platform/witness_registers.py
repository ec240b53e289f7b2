# SPDX-License-Identifier: Apache-2.0
"""The witness's registers: inputs are copied when a walk is triggered; runs appear in BAR1."""

from __future__ import annotations

from collections.abc import Callable

from dma_rehearsal.device import layout
from dma_rehearsal.device.endpoints.bar_memory import MemoryData
from dma_rehearsal.device.endpoints.registers import Access, Register, RegisterArray, RegisterFile
from dma_rehearsal.device.layout import MTRR_FIXED_NAMES, MTRR_MAX, Plat, WitnessStatus
from dma_rehearsal.device.platform.memory_types import Mtrrs
from dma_rehearsal.device.platform.witness import WalkResult, Witness

_PHYSICAL_BITS_MIN, _PHYSICAL_BITS_MAX = 32, 52
_INPUTS = (
    *(Plat.WITNESS_ROOT_LO, Plat.WITNESS_ROOT_HI, Plat.WITNESS_VA_LO, Plat.WITNESS_VA_HI),
    *(Plat.WITNESS_LENGTH_LO, Plat.WITNESS_LENGTH_HI, Plat.WITNESS_LEVELS),
    *(Plat.PAT_LO, Plat.PAT_HI, Plat.MTRR_DEF_TYPE_LO, Plat.MTRR_DEF_TYPE_HI),
    *(Plat.PHYSICAL_BITS, Plat.MTRR_COUNT),
)
_MTRRS = (
    *(Plat.MTRR_DEF_TYPE_LO, Plat.MTRR_DEF_TYPE_HI, Plat.PHYSICAL_BITS, Plat.MTRR_COUNT),
    *range(Plat.MTRR_RANGES, Plat.MTRR_RANGES + 16 * MTRR_MAX, 8),
    *range(Plat.MTRR_FIXED, Plat.MTRR_FIXED + 8 * len(MTRR_FIXED_NAMES), 8),
)
_OUTPUTS = (
    *(Plat.WITNESS_RUN_COUNT, Plat.WITNESS_PAGE_COUNT),
    *(Plat.WITNESS_FAULT_VA_LO, Plat.WITNESS_FAULT_VA_HI),
)


class WitnessRegisters:
    """Walks for software.

    ``make`` makes the witness for a PAT and MTRRs; ``may_read`` says whether the function may do
    DMA; ``event`` writes to the trace: a name and facts.
    """

    def __init__(
        self,
        control: RegisterFile,
        results: MemoryData,
        *,
        make: Callable[[int, Mtrrs], Witness],
        may_read: Callable[[], bool],
        event: Callable[..., None],
    ) -> None:
        self._control, self._results = control, results
        self._make, self._may_read, self._event = make, may_read, event
        self._found: list[int] = []  # the registers from which these come:
        self._mtrrs = Mtrrs(0, _PHYSICAL_BITS_MIN)
        control.add(
            (
                Register(Plat.WITNESS_CTL, Access.WO),
                Register(Plat.WITNESS_STATUS, reset=WitnessStatus.NEVER_RUN),
                *(Register(each, Access.RW) for each in _INPUTS),
                *(Register(each) for each in _OUTPUTS),
                RegisterArray(Plat.MTRR_RANGES, 2 * MTRR_MAX, 8, Access.RW, bits=64),
                RegisterArray(Plat.MTRR_FIXED, len(MTRR_FIXED_NAMES), 8, Access.RW, bits=64),
            ),
            self,
        )

    def write_witness_ctl(self, value: int) -> None:
        """Walk when the trigger is written."""
        if not value & layout.WITNESS_TRIGGER:
            return
        control, report = self._control, self.walk()
        packed = b"".join(run.pack() for run in report.runs)
        self._results[:] = packed.ljust(len(self._results), b"\0")
        control[Plat.WITNESS_STATUS] = report.status
        control[Plat.WITNESS_RUN_COUNT] = len(report.runs)
        control[Plat.WITNESS_PAGE_COUNT] = report.pages
        control.set_pair(Plat.WITNESS_FAULT_VA_LO, Plat.WITNESS_FAULT_VA_HI, report.fault_address)
        self._event(
            "witness",
            status=report.status.name,
            root=control.pair(Plat.WITNESS_ROOT_LO, Plat.WITNESS_ROOT_HI),
            address=control.pair(Plat.WITNESS_VA_LO, Plat.WITNESS_VA_HI),
            length=control.pair(Plat.WITNESS_LENGTH_LO, Plat.WITNESS_LENGTH_HI),
            pages=report.pages,
            runs=report.facts(),
        )

    def walk(self) -> WalkResult:
        """Walk as the registers say, and leave the results alone."""
        control = self._control
        return self.walk_from(
            control.pair(Plat.WITNESS_ROOT_LO, Plat.WITNESS_ROOT_HI),
            control.pair(Plat.WITNESS_VA_LO, Plat.WITNESS_VA_HI),
            control.pair(Plat.WITNESS_LENGTH_LO, Plat.WITNESS_LENGTH_HI),
            control[Plat.WITNESS_LEVELS],
        )

    def walk_from(self, root: int, address: int, length: int, levels: int) -> WalkResult:
        """Walk with the registers' PAT and MTRRs, and leave the results alone."""
        control = self._control
        if not self._may_read():
            return WalkResult(WitnessStatus.BUS_MASTER_OFF)
        bits, count = control[Plat.PHYSICAL_BITS], control[Plat.MTRR_COUNT]
        if not _PHYSICAL_BITS_MIN <= bits <= _PHYSICAL_BITS_MAX or count > MTRR_MAX:
            return WalkResult(WitnessStatus.BAD_ARGUMENT)
        values = control.values
        found = [values[each] for each in _MTRRS]
        if found != self._found:
            # A driver's mappings walk thousands of times with the same ones.
            self._found, self._mtrrs = found, self._read_mtrrs(bits, count)
        witness = self._make(control.pair(Plat.PAT_LO, Plat.PAT_HI), self._mtrrs)
        return witness.walk(root, address, length, levels)

    def _read_mtrrs(self, bits: int, count: int) -> Mtrrs:
        control = self._control
        return Mtrrs(
            control.pair(Plat.MTRR_DEF_TYPE_LO, Plat.MTRR_DEF_TYPE_HI),
            bits,
            tuple(
                (control[Plat.MTRR_RANGES, 2 * i], control[Plat.MTRR_RANGES, 2 * i + 1])
                for i in range(count)
            ),
            tuple(control[Plat.MTRR_FIXED, i] for i in range(len(MTRR_FIXED_NAMES))),
        )
