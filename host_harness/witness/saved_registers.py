# SPDX-License-Identifier: Apache-2.0
"""IA32_PAT and the MTRRs of a VM's CPUs as QEMU saves them, and the guest's word on them.

A driver in the guest may tell what it likes; these come out of QEMU's saved machine state, and the
width of a physical address is a property of QEMU's CPU. Intel SDM vol. 3A, 12.11.8 and 12.12.4: all
processors have the same values.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dma_rehearsal.host_harness.machine import machine_state
from dma_rehearsal.host_harness.machine.machine_state import StreamError
from dma_rehearsal.host_harness.machine.qmp import Monitor, MonitorError
from dma_rehearsal.host_harness.witness.page_walk import TypeRegisters

FILE = "cpu-registers"
_SAVE_LIMIT_S = 5.0
_PHYSICAL_BITS = range(32, 53)
_MASK_BITS = 52  # the highest physical address bit that an MTRR can have
_FIXED_NAMES = (
    *("FIX64K_00000", "FIX16K_80000", "FIX16K_A0000", "FIX4K_C0000", "FIX4K_C8000", "FIX4K_D0000"),
    *("FIX4K_D8000", "FIX4K_E0000", "FIX4K_E8000", "FIX4K_F0000", "FIX4K_F8000"),
)


@dataclass(slots=True)
class SavedRegisters:
    """The registers of one VM's CPUs, read whenever that is asked for.

    ``folder`` is a private one, for the file. ``by_cpu`` has the last values by CPU index; it is
    empty before the first read, and when QEMU saves no state: ``unsaved`` says why then, and only
    the guest's word is left.
    """

    monitor: Monitor
    folder: Path
    by_cpu: dict[int, TypeRegisters] = field(default_factory=dict)
    unsaved: str = ""

    @property
    def known(self) -> bool:
        """Whether it was tried to read them."""
        return bool(self.by_cpu or self.unsaved)

    @property
    def common(self) -> TypeRegisters | None:
        """The last values of the first CPU, which all should have; None where there are none."""
        return self.by_cpu[min(self.by_cpu)] if self.by_cpu else None

    def look(self) -> list[str]:
        """Stop the running machine to `read` them, and let it go on.

        MonitorError when QEMU does not answer, or the machine cannot be resumed.
        """
        self.monitor.command("stop")
        try:
            return self.read()
        finally:
            self.monitor.command("cont")

    def read(self) -> list[str]:
        """Read them from a stopped machine, which "cont" must resume; return objections.

        It is an objection that CPUs differ, that values have changed since the last time, and that
        QEMU saved a state before, and does not now. A QEMU that never did is not asked again.
        """
        if self.unsaved:
            return []
        try:
            found = self._found()
        except (MonitorError, StreamError) as error:
            if self.by_cpu:
                return [f"QEMU saved the CPUs' registers before, and does not now: {error}"]
            self.unsaved = str(error)
            return []
        before, self.by_cpu = self.by_cpu, found
        (first, ours), *others = sorted(found.items())
        wrong = [
            f"CPU {index} has {name} {theirs:#x}, and CPU {first} has {value:#x}: all must have "
            "the same (Intel SDM vol. 3A, 12.11.8 and 12.12.4)"
            for index, registers in others
            for name, theirs, value in differences(registers, ours)
        ]
        for index, registers in found.items():
            if index in before:
                wrong += [
                    f"{name} of CPU {index} was {old:#x}, and is {new:#x} now: walks between may "
                    "have been judged by the wrong value"
                    for name, old, new in differences(before[index], registers)
                ]
        return wrong

    def _found(self) -> dict[int, TypeRegisters]:
        path = self.folder / FILE
        try:
            machine_state.save(self.monitor, path, _SAVE_LIMIT_S)
            saved = machine_state.read_cpus(path)
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        found = {}
        for cpu in self.monitor.command("query-cpus-fast"):
            index = cpu["cpu-index"]
            if index not in saved:
                raise StreamError(f"the saved state has no CPU {index}")
            its = saved[index]
            bits = self._physical_bits(cpu["qom-path"])
            found[index] = TypeRegisters(its.pat, its.def_type, bits, its.ranges, its.fixed)
        return found

    def _physical_bits(self, path: str) -> int:
        bits = self.monitor.command("qom-get", path=path, property="phys-bits")
        if bits not in _PHYSICAL_BITS:
            raise MonitorError(f"qom-get: {path} has {bits!r:.20} physical address bits")
        return int(bits)


def differences(first: TypeRegisters, second: TypeRegisters) -> Iterator[tuple[str, int, int]]:
    """Yield the name of each register that differs, and its two values."""
    ours, others = dict(_named(first)), dict(_named(second))
    for name in {**ours, **others}:
        values = ours.get(name, 0), others.get(name, 0)
        if values[0] != values[1]:
            yield name, *values


def _named(registers: TypeRegisters) -> Iterator[tuple[str, int]]:
    yield "IA32_PAT", registers.pat
    yield "IA32_MTRR_DEF_TYPE", registers.def_type
    yield "the number of physical address bits", registers.physical_bits
    for name, value in zip(_FIXED_NAMES, registers.fixed, strict=True):
        yield f"IA32_MTRR_{name}", value
    # With KVM, QEMU saves the bits between the CPU's address width and the highest one as ones.
    filled = (1 << _MASK_BITS) - (1 << registers.physical_bits)
    for number, (base, mask) in enumerate(registers.ranges):
        yield f"IA32_MTRR_PHYSBASE{number}", base
        yield f"IA32_MTRR_PHYSMASK{number}", mask & ~filled
