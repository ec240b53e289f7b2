# SPDX-License-Identifier: Apache-2.0
"""BARs that are plain memory, and how functions of one process reach each other's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dma_rehearsal.device.vfio_user.errors import ReadOnly, Unmapped

if TYPE_CHECKING:
    from dma_rehearsal.device.endpoints.endpoint import Endpoint


class Memory:
    """A BAR that is plain memory, such as a data buffer or a result window."""

    read_only = False

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes at ``offset``."""
        return bytes(self.data[offset : offset + length])

    peek = read

    def write(self, offset: int, data: bytes) -> None:
        """Store ``data`` at ``offset``."""
        self.data[offset : offset + len(data)] = data

    def has(self, offset: int, length: int) -> bool:
        """Return whether the range is within it."""
        return 0 <= offset <= len(self.data) - length

    def saved(self, offset: int, length: int) -> bytes:
        """Return what a migration carries of it."""
        return bytes(self.data[offset : offset + length])

    def load(self, offset: int, data: bytes) -> None:
        """Store what ``saved`` returned, also where software can only read."""
        self.data[offset : offset + len(data)] = data

    def reset(self) -> None:
        """Fill with zeros."""
        self.data[:] = bytes(len(self.data))


class ReadOnlyMemory(Memory):
    """A BAR that software can read only."""

    read_only = True

    def write(self, offset: int, data: bytes) -> None:
        """Ignore what software writes."""


class Fabric:
    """What joins the functions of one process: they reach each other's BARs that are memory.

    Registers are not reached this way. Whatever a write to a register sets off happens in the
    thread of that function's own client, so no DMA can re-enter a device.
    """

    def __init__(self) -> None:
        self._functions: list[Endpoint] = []

    def join(self, function: Endpoint) -> None:
        """Let the others reach ``function``."""
        self._functions.append(function)

    def function_at(self, asker: Endpoint, address: int, length: int) -> Endpoint | None:
        """Return the peer that has a byte of the range in one of its BARs, if there is one."""
        for function in self._functions:
            if function is not asker and function.config.overlaps_bar(address, length):
                return function
        return None

    def memory(self, asker: Endpoint, address: int, length: int, *, write: bool) -> memoryview:
        """Return a view of a peer's BAR. Raises Unmapped or ReadOnly."""
        for function in self._functions:
            if function is asker or not length:
                continue
            place = function.config.bar_at(address, length)
            if place is None:
                continue
            bar, offset = place
            content = function.contents.get(bar)
            if not isinstance(content, Memory) or not 0 <= offset <= len(content.data) - length:
                raise Unmapped(address)
            if write and (content.read_only or function.config.stopped):
                raise ReadOnly(address)
            return memoryview(content.data)[offset : offset + length]
        raise Unmapped(address)
