# SPDX-License-Identifier: Apache-2.0
"""Memory of other processes, imported from the file descriptors that they pass.

Memory has one owner, which decides what devices may do with it: the process whose descriptor made
it. A descriptor of it here grants nothing, until the owner has let go of a buffer that it made
here.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from typing import Any, Final, TypeVar

from dma_rehearsal.guest.iobuffer.base import deferred, provenance
from dma_rehearsal.guest.iobuffer.base.errors import IOBadArgumentError, IOBusyError, IOReturnError
from dma_rehearsal.guest.iobuffer.base.options import IODirection, IOOptions
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.base.task import Task, current_task
from dma_rehearsal.guest.iobuffer.descriptors.buffer import IOBufferMemoryDescriptor
from dma_rehearsal.guest.iobuffer.descriptors.creation import check_supported, check_values
from dma_rehearsal.guest.iobuffer.descriptors.memory_map import IOMemoryMap
from dma_rehearsal.guest.iobuffer.descriptors.remote_owners import Maker, MapOwner, wait_for_end
from dma_rehearsal.guest.iobuffer.memory import pool_registry
from dma_rehearsal.guest.iobuffer.memory.backing import CARVE_OUT, FILE, Backing, Share
from dma_rehearsal.guest.iobuffer.memory.carveout import CarveoutPool
from dma_rehearsal.guest.iobuffer.memory.claim_backing import ClaimBacking
from dma_rehearsal.guest.iobuffer.memory.heap_pool import HeapPool
from dma_rehearsal.guest.iobuffer.memory.kernel_pools import FIXED_SIZE
from dma_rehearsal.guest.iobuffer.memory.pinnable_backing import PinnableBacking
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.memory.pool import Extent
from dma_rehearsal.guest.iobuffer.os.pin import Pin
from dma_rehearsal.guest.iobuffer.os.port_messages import close_all

_LARGEST: Final = 1 << 40  # bytes


class Mapped(IOBufferMemoryDescriptor):
    """Memory of another process, mapped in this one. Devices' rights are its owner's alone."""

    def _prepare_itself(self) -> None:
        """Grant nothing: the owner has, as far as it wants."""

    def _wire(self, direction: IODirection) -> None:  # noqa: ARG002
        raise self._busy(f"{self.task} owns it, and decides what devices may do with it")

    def _may_prefault(self) -> bool:
        return True  # the owner has prepared it


class ImportedMap:
    """A mapping that another process made in this one, and keeps as long as it wants."""

    def __init__(self, buffer: Mapped, mapped: IOMemoryMap) -> None:
        self._buffer, self._map = buffer, mapped

    @property
    def address(self) -> int:
        """Where it is mapped."""
        return self._map.getVirtualAddress()

    def withdraw(self) -> None:
        """Unmap it. When that fails it goes on where it failed, called again."""
        if not self._map.unmapped:
            self._map.unmap()
        if not self._buffer.released:
            self._buffer.release()


class ImportedBuffer(IOBufferMemoryDescriptor):
    """A buffer that another process made in this one. It is ours to release.

    It has one owner, which decides what devices may do with it, and tells the cache model: its
    maker, until that has let go of it (by `release`, by dropping it, by its end), and we from then
    on. In IOKit the maker is the owner for good, and the task has no more than a mapping, which
    goes with the maker's descriptor. Until we are the owner `prepare` and `setDirection` are
    `IOBusyError`.
    """

    _maker: Maker | None = None
    _ours = False  # whether we are the owner
    _unprepared = False  # we are, and it could not be prepared for us yet

    def withdraw(self) -> None:
        """Release it, as far as nothing here uses it."""
        with contextlib.suppress(IOBusyError):
            if not self.released:
                self.release()

    def made_by(self, maker: Task, connection: socket.socket) -> Maker:
        """Follow its maker on ``connection``; return the listener."""
        self._maker = Maker(self, maker, connection)
        return self._maker

    def take_over(self, *, died: Task | None = None) -> None:
        """Be the owner from now on. ``died``: of whom the grants may still be in force."""
        with self._lock:
            self._maker, self._ours = None, True
            if self.released:
                return
            if died is not None:
                wait_for_end(died.pid)
                deferred.finalize(dma_platform.reclaim_grants, f"what {died} had granted")
            self._unprepared = True
            self._catch_up()

    def turn(self, direction: IODirection) -> None:
        """Take note that the owner has changed the direction."""
        self._direction = self._record.direction = direction

    def setDirection(self, direction: IODirection | IOOptions | int) -> None:
        """See `IOBufferMemoryDescriptor`; `IOBusyError` while another process is the owner."""
        with self._lock:
            self._check_attached()
            self._check_ours()
            super().setDirection(direction)

    def _check_attached(self) -> None:
        super()._check_attached()
        with self._lock:
            if self._maker is not None:
                self._maker.go_on()
            self._catch_up()

    def _catch_up(self) -> None:
        """Prepare wired memory, once it is ours. After a refusal the next call tries again."""
        if self._unprepared:
            self._unprepared = False  # not again from within
            try:
                self._prepare_itself()
            except IOReturnError:
                self._unprepared = True

    def _prepare_itself(self) -> None:
        if self._ours:
            super()._prepare_itself()

    def _wire(self, direction: IODirection) -> None:
        self._check_ours()
        super()._wire(direction)

    def _check_ours(self) -> None:
        if self._maker is not None:
            raise self._busy(
                f"its maker, {self._maker.task}, decides what devices may do with it until "
                "it has released the memory"
            )


def _backing(share: Share, *, mapped: bool) -> Backing:
    """Take the memory over; the descriptors are closed whatever happens."""
    wanted = {CARVE_OUT: (1,), FILE: (1, 2)}.get(share.kind, ())
    if len(share.fds) not in wanted or share.size <= 0 or share.size % PAGE:
        close_all(share.fds)
        raise IOBadArgumentError(
            f"memory of kind {share.kind!r}, {share.size} bytes, {len(share.fds)} descriptors"
        )
    if share.kind == CARVE_OUT:
        try:
            pool = pool_registry.named(share.pool)
            extents = pool.extents if isinstance(pool, HeapPool) else None
            if not isinstance(extents, CarveoutPool):
                raise IOBadArgumentError(f"pool {share.pool} is not a carve-out")
        except BaseException:
            close_all(share.fds)
            raise
        claim = extents.adopt(share.fds[0], Extent(share.address, share.size))
        return ClaimBacking(extents, claim, share.mode, mapped=mapped, clean=False)
    memory, *pins = share.fds
    try:
        _check_file(memory, share.size)
        made = PinnableBacking(share.pool, os.dup(memory), share.size, mapped=mapped)
        try:
            if pins:
                _adopt_pin(made, Pin.from_fd(pins.pop()))
        except BaseException:
            made.close()
            raise
    finally:
        close_all((memory, *pins))
    return made


def _adopt_pin(backing: PinnableBacking, pin: Pin) -> None:
    """Refuse a pin that is not one of all of the memory, for writing."""
    if pin.length != backing.size or not pin.writable:
        pin.close()
        raise IOBadArgumentError(
            f"{pin!r} for {backing.size} bytes that devices write", length=backing.size
        )
    backing.adopt(pin)


def _check_file(fd: int, size: int) -> None:
    """Refuse a descriptor of something else, and a file that is, or can become, too short."""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)  # only a memfd has seals
    except OSError as error:
        raise IOBadArgumentError(f"a descriptor that is not a memfd: {error}") from error
    if seals & FIXED_SIZE != FIXED_SIZE:
        raise IOBadArgumentError(
            "a memfd whose size can change: an access past a new end is a SIGBUS; seal it "
            "(F_SEAL_SHRINK, F_SEAL_GROW)"
        )
    found = os.fstat(fd).st_size
    if not size <= found <= _LARGEST:
        raise IOBadArgumentError(f"a memfd of {found} bytes, {size} are claimed", length=size)


def import_memory(
    call: str, share: Share, details: dict[str, Any], asker: Task, connection: socket.socket
) -> tuple[ImportedBuffer, Maker] | tuple[ImportedMap, MapOwner]:
    """Make a buffer or a mapping for another process; errors as for a call of this process.

    ``make``: a buffer of this task. ``map``: a mapping of the asker's buffer. Return the result,
    and the object that answers the asker on ``connection`` from then on.
    """
    if call not in ("make", "map"):
        close_all(share.fds)
        raise IOBadArgumentError(f"call {call!r}: make or map")
    backing = _backing(share, mapped=call == "make")
    with provenance.made_by(f"process {asker.pid}"):
        if call == "make":
            made = _of(ImportedBuffer, backing, details, current_task())
            return made, made.made_by(asker, connection)
        mapped = _mapped(_of(Mapped, backing, details, asker), details)
        return mapped, MapOwner(mapped, asker, connection)


_Kind = TypeVar("_Kind", bound=IOBufferMemoryDescriptor)


def _of(kind: type[_Kind], backing: Backing, details: dict[str, Any], task: Task) -> _Kind:
    """Return a descriptor of memory that is ours from now on."""
    try:
        options = IOOptions(int(details["options"]))
        capacity = int(details["capacity"])
        alignment = int(details.get("alignment", 1))
        check_values(options, capacity, alignment)
        check_supported(options)
        if capacity > backing.size:
            raise IOBadArgumentError(f"{capacity} bytes of {backing.size}", length=capacity)
        return kind._with(backing, task, options, capacity, alignment, alignment)
    except BaseException:
        backing.close()
        raise


def _mapped(buffer: Mapped, details: dict[str, Any]) -> ImportedMap:
    try:
        mapped = buffer.createMappingInTask(
            current_task(),
            int(details["map_address"]),
            int(details["map_options"]) | int(details["cache"]),
            int(details["offset"]),
            int(details["length"]),
        )
    except BaseException:
        buffer.release()
        raise
    return ImportedMap(buffer, mapped)
