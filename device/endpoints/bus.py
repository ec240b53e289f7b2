# SPDX-License-Identifier: Apache-2.0
"""A function's way to memory: reads and writes at bus addresses, at once or later.

A request that a real bus would refuse is refused, with the exact reason. Everything that a function
reads is copied once; it can only work with the copy.

The bus is made of parts, each with one job: `Link` (where requests go), `AccessCheck` (whether one
is admitted, and where its bytes are), `DmaEngine` (moves them), `RequestLog` (records each
request), `IommuForwarding` (tells the client's IOMMU of a fault) and `DmaQueue` (DMAs that were
started and are not done). `StartedDma` has the calls that start these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dma_rehearsal.device.endpoints.access_check import AccessCheck
from dma_rehearsal.device.endpoints.atomic_ops import AtomicOps, Change
from dma_rehearsal.device.endpoints.dma import (
    PLAIN,
    Attributes,
    Data,
    DmaRefused,
    NotMapped,
    Outcome,
    Ranges,
    ScatterList,
    bare,
    ranges_of,
    type_mistake,
)
from dma_rehearsal.device.endpoints.dma_engine import DmaEngine
from dma_rehearsal.device.endpoints.dma_queue import DmaQueue, Started
from dma_rehearsal.device.endpoints.function import Function
from dma_rehearsal.device.endpoints.interconnect import Interconnect, Link
from dma_rehearsal.device.endpoints.iommu_forwarding import IommuForwarding, page_at_fault
from dma_rehearsal.device.endpoints.request_history import History
from dma_rehearsal.device.endpoints.request_log import RequestLog
from dma_rehearsal.device.endpoints.routing import Fabric
from dma_rehearsal.device.endpoints.started_dma import StartedDma
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.errors import MemoryFault
from dma_rehearsal.device.vfio_user.model import Ask, Client

# Refusals without a waiting caller that are still to be forwarded to the client's IOMMU; those
# beyond are not forwarded.
UNTOLD_MAX = 64


class Bus(StartedDma):
    """Reads and writes memory at bus addresses for one function. Not for several threads.

    ``queue`` has the DMAs that were started and are not done; ``uncaught`` gets a refusal that the
    end of one raised. ``gate`` is called before a DMA at once, and returns when it may begin;
    ``on_cancel`` when those that were started are forgotten, or all that wait. ``limits`` is asked
    of the ranges of each call before anything else: it raises DmaRefused where they are beyond a
    limit of the device's own.
    """

    def __init__(
        self, function: Function, fabric: Fabric, uncaught: Callable[[DmaRefused], None]
    ) -> None:
        self._function = function
        self._link = Link()
        self._log = RequestLog(function, self._link)
        self._check = AccessCheck(function, self._link, self._log, fabric)
        self._forwarding = IommuForwarding(self._link, self._log, self._check)
        self._engine = DmaEngine(self._link, self._log, self._check, self._forwarding)
        self.queue = DmaQueue(
            self._begin_started, self._ask, uncaught, lambda: self.interconnect.caches is not None
        )
        self._atomic_ops = AtomicOps(function, self._link, self._log, self._check)
        self._untold = 0
        self.gate: Callable[[], None] | None = None
        self.check_thread: Callable[[str], None] | None = None  # of a function with threads
        self.limits: Callable[[Ranges], None] | None = None
        self.on_cancel: Callable[[], None] = lambda: None

    # The link.

    @property
    def client(self) -> Client | None:
        """Return the client; None while there is none."""
        return self._link.client

    @client.setter
    def client(self, client: Client | None) -> None:
        self._link.client = client

    @property
    def interconnect(self) -> Interconnect:
        """Return the platform's interconnect, or this function's own in a process without one."""
        return self._link.interconnect

    @interconnect.setter
    def interconnect(self, interconnect: Interconnect) -> None:
        self._link.interconnect = interconnect

    @property
    def behind_iommu(self) -> bool:
        """Return whether the client's map is what its IOMMU lets through."""
        return self._link.behind_iommu

    @behind_iommu.setter
    def behind_iommu(self, behind: bool) -> None:
        self._link.behind_iommu = behind

    @property
    def fabric(self) -> Fabric:
        """Return the functions that reach each other by their BARs."""
        return self._check.fabric

    @fabric.setter
    def fabric(self, fabric: Fabric) -> None:
        self.fabric.leave(self._function)
        fabric.join(self._function)
        self._check.fabric = fabric

    # Its requests.

    @property
    def transactions(self) -> History:
        """Return the newest requests, the oldest first."""
        return self._log.transactions

    @property
    def trace(self) -> Trace:
        """Return the trace that gets an event for each request."""
        return self._log.trace

    @trace.setter
    def trace(self, trace: Trace) -> None:
        self._log.trace = trace

    @property
    def forwarding(self) -> bool:
        """Return whether a refusal was forwarded to the client, which has not answered yet."""
        return self._forwarding.waiting

    def refuse(
        self,
        reason: DmaReason,
        ranges: Ranges,
        *,
        write: bool,
        moved: int = 0,
        byte: int | None = None,
    ) -> None:
        """Record that the device itself refused a request, or cut it short: one event of the trace.

        For a request that never comes to the bus: one beyond a limit of the device's own, or a DMA
        under way that ends with bus mastering. ``ranges``: (bus address, bytes) each; ``moved``:
        bytes that were moved before; ``byte``: the first at fault (default: the one after those).
        An end by RESET or CLIENT_GONE is not a refusal, and is not recorded. ValueError for NONE.
        """
        self._log.refuse(reason, ranges, write=write, moved=moved, byte=byte)

    # Memory that is mapped.

    def read(self, address: int, length: int, attributes: Attributes = PLAIN) -> bytes:
        """Return a copy of memory, taken once. DmaRefused, and then nothing was read."""
        return self._now(((address, length),), attributes, write=False)[0]

    def write(self, address: int, data: bytes, attributes: Attributes = PLAIN) -> None:
        """Store ``data`` in memory. DmaRefused, and then nothing was written."""
        self._now(((address, data),), attributes, write=True)

    def read_list(
        self, segments: Sequence[tuple[int, int]], attributes: Attributes = PLAIN
    ) -> list[bytes]:
        """Return a copy of each segment (address, length). DmaRefused: nothing was read."""
        return self._now(segments, attributes, write=False)

    def write_list(
        self, segments: Sequence[tuple[int, Data]], attributes: Attributes = PLAIN
    ) -> None:
        """Store each segment (address, data), in order. DmaRefused: nothing was written."""
        self._now(segments, attributes, write=True)

    def move_at_once(
        self, ranges: Ranges, whole: memoryview, attributes: Attributes = PLAIN, *, write: bool
    ) -> int | None:
        """Write ``whole`` to ranges of memory, or read them into it, without a copy between.

        ``whole`` has the bytes of all ranges (address, bytes), one behind the other. Return its
        CRC-32. None, and nothing was moved or recorded: start it (`read_list_async`,
        `write_list_async`), for DMAs that were started go before, an action is held, the device has
        limits, or the ranges are not in one mapping without caches. DmaRefused: nothing was moved.
        """
        if self.check_thread is not None:
            self.check_thread("a DMA")
        queue = self.queue
        if self.gate is not None or self.limits is not None or queue.holding or not queue.empty:
            return None
        with self._link.interconnect.lock:
            return self._engine.move_in_place(ranges, whole, attributes, write=write)

    def _now(self, segments: ScatterList, attributes: Attributes, *, write: bool) -> list[bytes]:
        if self.check_thread is not None:
            self.check_thread("a DMA")
        if self.gate is not None:
            self.gate()
        if self.limits is not None:
            self._keep_limits(self.limits, ranges_of(segments, write=write), write=write)
        try:
            with self._link.interconnect.lock:
                return self._engine.move(segments, attributes, write=write)
        except NotMapped as refusal:
            if self._link.behind_iommu:
                self._forward_later(refusal, segments, attributes, write=write)
            raise
        except TypeError:
            mistake = type_mistake(segments, write=write)
            if mistake is None:
                raise
        raise TypeError(mistake)  # here, or it would keep views of memory by its context

    # AtomicOps, for a function that declares them (`dma_rehearsal.device.endpoints.atomic_ops`).

    def fetch_add(
        self, address: int, value: int, *, size: int = 4, attributes: Attributes = PLAIN
    ) -> int:
        """Add to 4 or 8 bytes, without carry out of them; return what was there before.

        Unsigned, little-endian. DmaRefused, and then nothing was written: besides the refusals of a
        read and of a write, ATOMIC_DISABLED, ATOMIC_UNSUPPORTED, and ALIGNMENT for an address that
        is not a multiple of ``size``. ValueError for another size.
        """
        return self._atomically(address, size, (4, 8), lambda old: old + value, attributes)

    def swap(
        self, address: int, value: int, *, size: int = 4, attributes: Attributes = PLAIN
    ) -> int:
        """Store 4 or 8 bytes; return what was there before. See ``fetch_add``."""
        return self._atomically(address, size, (4, 8), lambda _old: value, attributes)

    def compare_swap(
        self,
        address: int,
        expected: int,
        value: int,
        *,
        size: int = 4,
        attributes: Attributes = PLAIN,
    ) -> int:
        """Store 4, 8 or 16 bytes if ``expected`` is there; return what was. See ``fetch_add``."""

        def change(old: int) -> int | None:
            return value if old == expected else None

        return self._atomically(address, size, (4, 8, 16), change, attributes)

    def _atomically(
        self, address: int, size: int, sizes: Sequence[int], change: Change, attributes: Attributes
    ) -> int:
        if size not in sizes:
            raise ValueError(f"an AtomicOp of {size} bytes; there are those of {sizes}")
        if self.check_thread is not None:
            self.check_thread("a DMA")
        if self.gate is not None:
            self.gate()
        if self.limits is not None:
            self._keep_limits(self.limits, ((address, size),), write=True)
        try:
            with self._link.interconnect.lock:
                return self._atomic_ops.carry_out(address, size, change, attributes)
        except NotMapped as refusal:
            if self._link.behind_iommu and refusal.reason is DmaReason.UNMAPPED:
                self._forward_later(refusal, ((address, size),), attributes, write=False)
            raise

    def ranges(self) -> list[tuple[int, int]]:
        """Return the bus addresses that the client has mapped, in order: (address, bytes)."""
        client = self._link.client
        return list(client.ranges()) if client is not None else []

    def reachable(self, address: int, length: int, *, write: bool) -> bool:
        """Return whether memory is there for a request, perhaps by a message.

        Nothing is sent, and the interconnect is not asked.
        """
        return self._check.reachable(address, length, write=write)

    def _forward_later(
        self, refusal: DmaRefused, segments: ScatterList, attributes: Attributes, *, write: bool
    ) -> None:
        """Forward a refusal to the client's IOMMU later: its caller does not wait."""
        page = page_at_fault(segments, refusal.address, write=write)
        if page is None or self._untold >= UNTOLD_MAX:
            return
        if page.data is not None:
            page = page._replace(data=bytes(page.data))
        segments = ((page.address, page.data if write else page.length),)
        asking = self._forwarding.forward(bare(refusal), page, attributes)
        dma = Started(segments, attributes, write, True, page.length, self._forwarded, asking)
        self._untold += self.queue.start(dma)

    def _forwarded(self, _outcome: Outcome) -> None:
        self._untold -= 1

    def cancel(self) -> None:
        """Forget every DMA that was started and is not done."""
        self._untold = 0
        self.queue.cancel()
        self.on_cancel()

    def leave(self, first: Callable[[], None] = lambda: None) -> None:
        """End every DMA that was started: its client is going. CLIENT_GONE, where it is needed.

        ``first`` is called while the client is already out of reach.
        """
        self._link.leaving = True
        try:
            first()
            self.queue.finish()
        finally:
            self._link.leaving = False

    def _ask(self, ask: Ask, answered: Callable[[bytes | MemoryFault], None]) -> None:
        if self._link.client is not None:
            self._link.client.ask(ask, answered)
