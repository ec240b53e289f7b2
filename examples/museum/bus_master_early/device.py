# SPDX-License-Identifier: Apache-2.0
"""The device of the piece bus_master_early."""

from examples.museum.engine import Engine

FORGET = 3
STALE = 0x10_0000  # where the boot loader had its buffer


class Device(Engine):
    """1234:0dab, as a boot loader leaves it: with a job that waits for bus mastering."""

    stale = True

    def on_reset(self) -> None:
        """Come back from a reset as the boot loader leaves it."""
        super().on_reset()
        self.stale = True

    def on_command(self) -> None:
        """Go on with the stale job while bus mastering is on; the next boot has one again."""
        if not self.config.bus_master:
            self.stale = True
        elif self.stale:
            self.stale = False
            self.move(STALE, 64, 0, store=False)

    def write_command(self, value: int) -> None:
        """Do one job of the registers, or forget the stale one."""
        if value == FORGET:
            self.stale = False
        else:
            super().write_command(value)
