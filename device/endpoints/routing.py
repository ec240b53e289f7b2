# SPDX-License-Identifier: Apache-2.0
"""Address routing: a request leads to its client's memory, or to a BAR of a peer.

NotMapped or DmaRefused says why one leads nowhere; OnlyByMessage, that only the client reaches it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from dma_rehearsal.device.endpoints.dma import DmaRefused, NotMapped, OnlyByMessage
from dma_rehearsal.device.endpoints.function import Function
from dma_rehearsal.device.endpoints.interconnect import Link
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.pci import acs
from dma_rehearsal.device.vfio_user.client_memory import View
from dma_rehearsal.device.vfio_user.errors import NoDescriptor, ReadOnly, Unmapped
from dma_rehearsal.device.vfio_user.model import Client, FileRange

_Found = TypeVar("_Found")


class Fabric:
    """Joins the functions of one process: they reach each other's BARs that are memory.

    Registers are not reached this way. Side effects of a register happen in the thread of that
    function's own client, so no DMA can re-enter a device.
    """

    def __init__(self) -> None:
        self._functions: list[Function] = []

    def join(self, function: Function) -> None:
        """Make the BARs of ``function`` reachable for the others."""
        self._functions.append(function)

    def leave(self, function: Function) -> None:
        """Make the BARs of ``function`` unreachable."""
        self._functions.remove(function)

    def function_at(self, asker: Function, address: int, length: int) -> Function | None:
        """Return the peer that has a byte of the range in one of its BARs, if there is one."""
        for function in self._functions:
            if function is not asker and function.config.overlaps_bar(address, length):
                return function
        return None

    def memory(
        self, asker: Function, address: int, length: int, *, write: bool, siblings: bool = False
    ) -> memoryview:
        """Return a view of a peer's BAR. Raises Unmapped or ReadOnly.

        ``siblings``: only of a function of the same device.
        """
        peers = asker.siblings.values() if siblings else self._functions
        for function in peers:
            if function is asker or not length:
                continue
            place = function.config.bar_at(address, length)
            if place is None:
                continue
            bar, offset = place
            content = function.contents.get(bar)
            view = None
            # Software may have made the BAR smaller than what is behind it.
            if content is not None and offset + length <= function.config.bar_size(bar):
                view = content.view(offset, length)
            if view is None:
                raise Unmapped(address)
            if write and (view.readonly or function.config.stopped):
                raise ReadOnly(address)
            return view
        raise Unmapped(address)


class Router:
    """Finds where the requests of one function lead: to the client, or to others of ``fabric``."""

    def __init__(self, function: Function, fabric: Fabric, link: Link) -> None:
        self._function, self.fabric, self._link = function, fabric, link

    def views(self, client: Client, address: int, length: int, *, write: bool) -> Sequence[View]:
        """Return views of memory, or of a peer's BAR."""
        found = self._find(client.memory, address, length, write=write)
        return [found] if isinstance(found, memoryview) else found

    def file_ranges(
        self, client: Client, address: int, length: int, *, write: bool
    ) -> Sequence[FileRange] | memoryview:
        """Return where the bytes lie in the client's files, or a view of a peer's BAR.

        No cache holds a peer's BAR.
        """
        return self._find(client.file_ranges, address, length, write=write)

    def _find(
        self,
        memory: Callable[..., Sequence[_Found]],
        address: int,
        length: int,
        *,
        write: bool,
    ) -> Sequence[_Found] | memoryview:
        try:
            return memory(address, length, write=write)
        except ReadOnly as fault:
            raise NotMapped(DmaReason.READ_ONLY, fault.address) from fault
        except NoDescriptor as fault:
            raise OnlyByMessage(DmaReason.UNMAPPED, fault.address) from fault
        except Unmapped as fault:
            return self._peer(address, length, fault, write=write)

    def _redirects(self) -> bool:
        config = self._function.config
        start = config.start_of(acs.AccessControlServices)
        return start is not None and bool(acs.enabled(config, start) & acs.Acs.REQUEST_REDIRECT)

    def _peer(self, address: int, length: int, fault: Unmapped, *, write: bool) -> memoryview:
        # An IOMMU is between the slots, and not between the functions of one device: unless these
        # have their requests redirected (PCI Express Base 5.0, 6.12.3).
        siblings = self._link.behind_iommu
        if siblings and self._redirects():
            raise NotMapped(DmaReason.UNMAPPED, fault.address)
        try:
            return self.fabric.memory(
                self._function, address, length, write=write, siblings=siblings
            )
        except ReadOnly as refusal:
            raise DmaRefused(DmaReason.READ_ONLY, refusal.address) from refusal
        except Unmapped:
            raise NotMapped(DmaReason.UNMAPPED, fault.address) from fault
