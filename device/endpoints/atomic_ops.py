# SPDX-License-Identifier: Apache-2.0
"""AtomicOps of one function (PCI Express Base 5.0, section 6.15).

An AtomicOp is one step under the interconnect's lock, for all functions of the process and for the
platform. It is admitted as a read and as a write, and nothing happens unless both are admitted.
The log has a read, and a write where one was done: a compare and swap that finds another value
writes nothing. The guest's CPUs are not under that lock: an instruction that stores to the same
bytes within the step is lost, as it is with a device that reads and then writes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from dma_rehearsal.device.endpoints.access_check import AccessCheck
from dma_rehearsal.device.endpoints.dma import Attributes, DmaRefused, OnlyByMessage, bare
from dma_rehearsal.device.endpoints.function import Function
from dma_rehearsal.device.endpoints.interconnect import Link
from dma_rehearsal.device.endpoints.memory_access import MemoryAccess
from dma_rehearsal.device.endpoints.request_log import RequestLog
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.pci import atomics
from dma_rehearsal.device.vfio_user.errors import MemoryFault

Change = Callable[[int], int | None]  # the new value for an old one; None: nothing is written


class AtomicOps:
    """Carries out the AtomicOps of one function."""

    def __init__(self, function: Function, link: Link, log: RequestLog, check: AccessCheck) -> None:
        self._function, self._link, self._log = function, link, log
        self._check = check

    def carry_out(self, address: int, size: int, change: Change, attributes: Attributes) -> int:
        """Return the old value of ``size`` bytes, and store what ``change`` makes of it.

        DmaRefused, recorded: nothing was stored. Under the interconnect's lock.
        """
        write = False
        try:
            self._refuse_early(address, size)
            read = self._admit(address, size, attributes, write=False)
            write = True
            store = self._admit(address, size, attributes, write=True)
            ranges = ((address, size),)
            old = int.from_bytes(read.read(), "little")
            self._log.record(ranges, attributes, write=False)
            new = change(old)
            if new is not None:
                data = (new & (1 << 8 * size) - 1).to_bytes(size, "little")
                if store.certain:  # recorded first, for a guest that sees the bytes
                    self._log.record(ranges, attributes, write=True)
                store.write(data)
                if not store.certain:
                    self._log.record(ranges, attributes, write=True)
        except DmaRefused as refusal:
            self._log.record_refused(address, size, attributes, refusal, write=write)
            raise
        return old

    def _refuse_early(self, address: int, size: int) -> None:
        """Raise DmaRefused for what a function must not send (section 6.15.2)."""
        if not atomics.requester_enabled(self._function.config):
            raise DmaRefused(DmaReason.ATOMIC_DISABLED, address)
        if address % size:
            raise DmaRefused(DmaReason.ALIGNMENT, address)

    def _admit(
        self, address: int, size: int, attributes: Attributes, *, write: bool
    ) -> MemoryAccess:
        """Admit one half. DmaRefused, also where the completer does not take it."""
        try:
            access = self._check.admit(address, size, attributes, write=write)
        except OnlyByMessage as missing:  # two messages are not one step
            raise DmaRefused(DmaReason.ATOMIC_UNSUPPORTED, bare(missing).address) from None
        peer = self._check.fabric.function_at(self._function, address, size)
        if (
            peer is not None
            and not atomics.completes(peer.config, size)
            and not self._in_memory(address, size)
        ):
            raise DmaRefused(DmaReason.ATOMIC_UNSUPPORTED, address)
        return access

    def _in_memory(self, address: int, size: int) -> bool:
        """Return whether the client's map has it, which comes before a peer's BAR."""
        client = self._link.client
        with contextlib.suppress(MemoryFault):
            return client is not None and bool(client.memory(address, size, write=False))
        return False
