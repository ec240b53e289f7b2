# SPDX-License-Identifier: Apache-2.0
"""Named faults of what the guest tells of its PAT and MTRRs, to the host and the witness.

Each is a function that acts for the rest of this process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from dma_rehearsal.guest.linux import memory_types
from dma_rehearsal.guest.linux.memory_types import Mtrrs

_read_pat, _read_mtrrs = memory_types.read_pat, memory_types.read_mtrrs
_SWAPPED: Final = 24, 56  # the places of entries 3 and 7, which Linux sets to UC and WT
_VALID: Final = 1 << 11  # of PHYSMASK


def wrong_pat() -> None:
    """The guest tells entries 3 and 7 of IA32_PAT swapped."""

    def read_pat(cpu: int = 0) -> int:
        value = _read_pat(cpu)
        low, high = _SWAPPED
        differ = (value >> low ^ value >> high) & 0xFF
        return value ^ (differ << low | differ << high)

    setattr(memory_types, read_pat.__name__, read_pat)


def wrong_mtrr() -> None:
    """The guest tells the first variable-range MTRR as not valid."""

    def read_mtrrs(cpu: int = 0) -> Mtrrs:
        mtrrs = _read_mtrrs(cpu)
        (base, mask), *others = mtrrs.ranges
        return replace(mtrrs, ranges=((base, mask & ~_VALID), *others))

    setattr(memory_types, read_mtrrs.__name__, read_mtrrs)


IMPLEMENTATIONS: dict[str, Callable[[], None]] = {
    "guest-tells-wrong-pat": wrong_pat,
    "guest-tells-wrong-mtrr": wrong_mtrr,
}
