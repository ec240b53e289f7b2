# SPDX-License-Identifier: Apache-2.0
"""PAT and MTRRs of the rig's CPU: the guest reads them as MSRs, the host from a saved state."""

from __future__ import annotations

from typing import Self

from dma_rehearsal.guest.linux import memory_types
from dma_rehearsal.host_harness.witness.page_walk import TypeRegisters
from tests.unit.host_harness.machine.saved_states import PHYSICAL_BITS
from tests.unit.host_harness.machine.saved_states import REGISTERS as SAVED

REGISTERS = TypeRegisters(SAVED.pat, SAVED.def_type, PHYSICAL_BITS, SAVED.ranges, SAVED.fixed)
_FIXED_AND_EIGHT_RANGES = 0x508  # IA32_MTRRCAP, as QEMU has it


class Msrs:
    """/dev/cpu/0/msr of the rig."""

    def __init__(self) -> None:
        first = memory_types.IA32_MTRR_PHYSBASE0
        self._values = {
            memory_types.IA32_MTRRCAP: _FIXED_AND_EIGHT_RANGES,
            memory_types.IA32_PAT: SAVED.pat,
            memory_types.IA32_MTRR_DEF_TYPE: SAVED.def_type,
            **dict(zip(memory_types.IA32_MTRR_FIX, SAVED.fixed, strict=True)),
            **{first + 2 * n: base for n, (base, _) in enumerate(SAVED.ranges)},
            **{first + 2 * n + 1: mask for n, (_, mask) in enumerate(SAVED.ranges)},
        }

    def read(self, number: int) -> int:
        return self._values[number]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...
