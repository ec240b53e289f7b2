"""What other processes make in this one: their memory, adopted from the descriptors they pass."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import Any, Final

from . import pools, provenance
from .backing import CARVE_OUT, FILE, Backing, ClaimBacking, PinnableBacking, Share
from .buffer import IOBufferMemoryDescriptor
from .carveout import CarveoutPool
from .creation import check_supported, check_values
from .errors import IOBadArgumentError, IOBusyError
from .heap_pool import HeapPool
from .managed import FIXED_SIZE
from .mapping import IOMemoryMap
from .options import IOOptions
from .pin import Pin
from .pool import PAGE, Extent
from .task import Task, current_task

_LARGEST: Final = 1 << 40  # bytes


class PlacedBuffer(IOBufferMemoryDescriptor):
    """A buffer that another process made in this one. It is ours to release."""

    def withdraw(self) -> None:
        """Release it, as far as nothing here uses it."""
        with contextlib.suppress(IOBusyError):
            self.release()


class PlacedMap:
    """A mapping that another process made in this one, for as long as that one wants it."""

    def __init__(self, buffer: IOBufferMemoryDescriptor, mapped: IOMemoryMap) -> None:
        self._buffer, self._map = buffer, mapped

    @property
    def address(self) -> int:
        """Where it is mapped."""
        return self._map.getVirtualAddress()

    def withdraw(self) -> None:
        """Unmap it."""
        self._map.unmap()
        self._buffer.release()


def _backing(share: Share, *, mapped: bool) -> Backing:
    """Take the memory over; the descriptors are closed whatever happens."""
    wanted = {CARVE_OUT: (1,), FILE: (1, 2)}.get(share.kind, ())
    if len(share.fds) not in wanted or share.size <= 0 or share.size % PAGE:
        _close(share.fds)
        raise IOBadArgumentError(
            f"memory of kind {share.kind!r}, {share.size} bytes, {len(share.fds)} descriptors"
        )
    if share.kind == CARVE_OUT:
        try:
            pool = pools.named(share.pool)
            extents = pool.extents if isinstance(pool, HeapPool) else None
            if not isinstance(extents, CarveoutPool):
                raise IOBadArgumentError(f"pool {share.pool} is no carve-out")
        except BaseException:
            _close(share.fds)
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
        _close((memory, *pins))
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
        raise IOBadArgumentError(f"a descriptor that is no memfd: {error}") from error
    if seals & FIXED_SIZE != FIXED_SIZE:
        raise IOBadArgumentError(
            "a memfd whose size can change: to touch what was cut off ends in SIGBUS; seal it "
            "(F_SEAL_SHRINK, F_SEAL_GROW)"
        )
    found = os.fstat(fd).st_size
    if not size <= found <= _LARGEST:
        raise IOBadArgumentError(f"a memfd of {found} bytes, {size} are claimed", length=size)


def place(
    call: str, share: Share, details: dict[str, Any], asker: Task
) -> PlacedBuffer | PlacedMap:
    """Do what another process asks for; raises what a call of this process would raise.

    ``make``: a buffer of this task. ``map``: a mapping of the asker's buffer.
    """
    if call not in ("make", "map"):
        _close(share.fds)
        raise IOBadArgumentError(f"call {call!r}: make or map")
    backing = _backing(share, mapped=call == "make")
    with provenance.made_by(f"process {asker.pid}"):
        return _placed(call, backing, details, asker)


def _placed(
    call: str, backing: Backing, details: dict[str, Any], asker: Task
) -> PlacedBuffer | PlacedMap:
    """Make what is asked for of memory that is ours from now on."""
    try:
        options = IOOptions(int(details["options"]))
        capacity = int(details["capacity"])
        alignment = int(details.get("alignment", 1))
        check_values(options, capacity, alignment)
        check_supported(options)
        if capacity > backing.size:
            raise IOBadArgumentError(f"{capacity} bytes of {backing.size}", length=capacity)
        if call == "make":
            return PlacedBuffer._with(
                backing, current_task(), options, capacity, alignment, alignment
            )
        buffer = IOBufferMemoryDescriptor._with(
            backing, asker, options, capacity, alignment, alignment
        )
    except BaseException:
        backing.close()
        raise
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
    return PlacedMap(buffer, mapped)


def _close(fds: tuple[int, ...]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
