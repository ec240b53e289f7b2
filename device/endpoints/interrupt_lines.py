# SPDX-License-Identifier: Apache-2.0
"""A source of interrupts that goes the way that software has enabled: MSI-X, MSI or INTx.

    self.interrupts.line(0).level = bool(registers[Reg.STATUS] & registers[Reg.MASK])

Theory of operation. A line has a level, as the source of it has: up while software has something to
serve. A rise sends MSI-X vector n, or MSI message n modulo those that software allocated
(Multiple Message Enable), or it raises INTx, which is up while any line is. A line that is up
when its way begins is told there: software that turns MSI-X off sees INTx, and software that turns
it on gets the message. No section of the specification says so of messages; INTx, a level, does
the same. So a change of the way loses no interrupt.
"""

from __future__ import annotations

from typing import Protocol


class Ways(Protocol):
    """The interrupts that lines are sources of."""

    def rose(self, line: Line) -> bool:
        """Tell of a line that is up, by the way that is enabled. Return whether it went."""

    def fell(self, line: Line) -> None:
        """Take note that a line is down."""


class Line:
    """One source. ``number``: its MSI-X vector or MSI message."""

    __slots__ = ("_up", "_ways", "number", "told")

    def __init__(self, ways: Ways, number: int) -> None:
        self._ways, self.number = ways, number
        self._up = False
        self.told = False  # by the way that is enabled: its message went, or is pending

    @property
    def level(self) -> bool:
        """Whether software has something to serve. Assigning the level that it has does nothing.

        A fall takes back a message that is pending, for there is nothing left to serve (PCI Express
        Base 5.0, section 6.1.4.5).
        """
        return self._up

    @level.setter
    def level(self, level: bool) -> None:
        if level == self._up:
            return
        self._up = level
        if level:
            self._ways.rose(self)
        else:
            self.told = False
            self._ways.fell(self)

    def send(self) -> bool:
        """Tell of one more event; return whether it went.

        A message goes for each, also while the line is up. By INTx, the line is up from then on,
        until ``level = False``.
        """
        self._up = True
        return self._ways.rose(self)

    def forget(self) -> None:
        """Be down, as at reset."""
        self._up = self.told = False
