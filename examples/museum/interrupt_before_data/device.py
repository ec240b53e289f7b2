# SPDX-License-Identifier: Apache-2.0
"""The device of the piece interrupt_before_data."""

import contextlib

from dma_rehearsal.device.endpoints import DmaRefused
from examples.museum.engine import Command, Engine, Reg


class Device(Engine):
    """1234:0dab. It interrupts early, and stores a word behind the data when a job is done."""

    def write_command(self, value: int) -> None:
        """Do one job of the registers."""
        registers = self.registers(0)
        address = registers.pair(Reg.ADDRESS_LO, Reg.ADDRESS_HI)
        length, offset = registers[Reg.LENGTH], registers[Reg.OFFSET]
        self.end(True)
        if self.move(address, length, offset, store=value == Command.STORE):
            behind = address + length + -length % 4
            with contextlib.suppress(DmaRefused):
                self.store(behind, (1).to_bytes(4, "little"))
