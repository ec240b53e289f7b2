# SPDX-License-Identifier: Apache-2.0
"""The NVM command set (6): read, write, flush, write zeroes, dataset management."""

from __future__ import annotations

import struct
from collections.abc import Callable

from examples.nvme.identify import NAMESPACE
from examples.nvme.layout import BLOCK, Command, CommandFailed, Io, Status
from examples.nvme.namespace import Blocks
from examples.nvme.transfer import Transfer

_EVERY_NAMESPACE = 0xFFFF_FFFF
_RANGE = struct.Struct("<IIQ")  # 6.7.1: attributes, blocks, first block
_DEALLOCATE = 1 << 2


class IoCommands:
    """Carries out commands of I/O queues."""

    def __init__(self, blocks: Blocks, transfer: Transfer) -> None:
        self._blocks, self._transfer = blocks, transfer
        self._commands: dict[int, Callable[[Command], None]] = {
            Io.FLUSH: self._flush,
            Io.WRITE: self._write,
            Io.READ: self._read,
            Io.WRITE_ZEROES: self._write_zeroes,
            Io.DATASET_MANAGEMENT: self._manage,
        }

    def run(self, command: Command) -> int:
        """Carry out a command; return its result, 0. CommandFailed."""
        action = self._commands.get(command.opcode)
        if action is None:
            raise CommandFailed(Status.INVALID_OPCODE)
        flush = command.opcode == Io.FLUSH and command.namespace == _EVERY_NAMESPACE
        if command.namespace != NAMESPACE and not flush:
            raise CommandFailed(Status.INVALID_NAMESPACE)
        action(command)
        return 0

    def _range(self, command: Command) -> tuple[int, int]:
        """Return the first block and how many there are. CommandFailed: not all exist."""
        start = command.dword(10) | command.dword(11) << 32
        count = (command.dword(12) & 0xFFFF) + 1
        self._blocks.check(start, count)
        return start, count

    def _flush(self, _command: Command) -> None:
        """Do nothing: what is written is stored at once."""

    def _write(self, command: Command) -> None:
        start, count = self._range(command)
        self._blocks.write(start, self._transfer.from_host(command, count * BLOCK))

    def _read(self, command: Command) -> None:
        start, count = self._range(command)
        self._transfer.check(count * BLOCK)
        self._transfer.to_host(command, self._blocks.read(start, count))

    def _write_zeroes(self, command: Command) -> None:
        self._blocks.zero(*self._range(command))

    def _manage(self, command: Command) -> None:
        """Deallocate ranges; other hints are only hints."""
        count = (command.dword(10) & 0xFF) + 1
        data = self._transfer.from_host(command, count * _RANGE.size)
        wanted = [(start, blocks) for _, blocks, start in _RANGE.iter_unpack(data)]
        for start, blocks in wanted:
            self._blocks.check(start, blocks)
        if command.dword(11) & _DEALLOCATE:
            for start, blocks in wanted:
                self._blocks.zero(start, blocks)
