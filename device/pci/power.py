# SPDX-License-Identifier: Apache-2.0
"""Power management capability (PCI Bus Power Management Interface 1.2, section 3.2)."""

from __future__ import annotations

import struct
from collections.abc import Callable

from dma_rehearsal.device.pci.config import Capability, ConfigSpace, PowerState

_VERSION_3 = 3
CONTROL = 4  # PMCSR, from the capability's start
_POWER_STATE = 0x3
_D0, _D3HOT = 0, 3
STATES = {PowerState.D0: _D0, PowerState.D3HOT: _D3HOT}
_NO_SOFT_RESET = 1 << 3


class PowerManagement(Capability):
    """D0 and D3hot. PMCSR is writable, or QEMU believes in D3hot and unmaps the BARs.

    ``on_change`` is called when the function went from one to the other.
    """

    id = 0x01

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change

    def body(self) -> bytes:
        """Return PMC, PMCSR and the data byte at reset: D0, no PME, no reset on leaving D3hot."""
        return struct.pack("<HHBB", _VERSION_3, _NO_SOFT_RESET, 0, 0)

    def write_mask(self) -> bytes:
        """Only the power state can be written."""
        return struct.pack("<HHBB", 0, _POWER_STATE, 0, 0)

    def written(self, config: ConfigSpace, start: int) -> None:
        """Go to the state that is asked for; D1 and D2, which are optional, are discarded."""
        control = config.word(start + CONTROL)
        state = control & _POWER_STATE
        if state not in (_D0, _D3HOT):
            state = _D3HOT if config.asleep else _D0
            config.set_word(start + CONTROL, control & ~_POWER_STATE | state)
        if config.asleep != (state == _D3HOT):
            config.asleep = state == _D3HOT
            self._on_change()
