# SPDX-License-Identifier: Apache-2.0
"""The board's own switches from user space: whether anything snoops, and when DMA begins."""

from __future__ import annotations

from dataclasses import dataclass

from dma_rehearsal.device.layout import Plat
from dma_rehearsal.guest.drivers.pci_bars import Bar


@dataclass(slots=True)
class BoardUnit:
    """The registers from BOARD_SNOOP on, for all functions beside the platform.

    A write is read back: QEMU posts writes, and one to another function could overtake it.
    """

    control: Bar

    @property
    def snooped(self) -> bool:
        """Whether requests are snooped as each function asks; else none is."""
        return bool(self.control[Plat.BOARD_SNOOP])

    @snooped.setter
    def snooped(self, on: bool) -> None:
        self._set(Plat.BOARD_SNOOP, int(on))

    @property
    def holding(self) -> bool:
        """Whether an action that a BAR write begins waits before its first DMA."""
        return bool(self.control[Plat.HOLD_CTL])

    @holding.setter
    def holding(self, on: bool) -> None:
        self._set(Plat.HOLD_CTL, int(on))

    @property
    def held(self) -> int:
        """The number of actions that wait now."""
        return self.control[Plat.HELD]

    def release(self) -> None:
        """Let those actions go that wait now."""
        self._set(Plat.HOLD_RELEASE, 1)

    @property
    def expired(self) -> int:
        """The number of actions that went by themselves, after too long a wait."""
        return self.control[Plat.HOLD_EXPIRED]

    def _set(self, register: Plat, value: int) -> None:
        self.control[register] = value
        _ = self.control[register]
