# SPDX-License-Identifier: Apache-2.0
"""Buffers for tests, where the device reaches them and aligned for it; codes of IOKit calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from dma_rehearsal.guest.drivers.device_limits import Limits
from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IOOptions,
    IOReturn,
    IOReturnError,
    Task,
    current_task,
)
from dma_rehearsal.guest.iobuffer.memory.carveout import CarveoutPool
from dma_rehearsal.guest.iobuffer.memory.heap_pool import HeapPool
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.memory.pool_registry import RESERVED, known
from dma_rehearsal.guest.testkit.attestation import CheckFailed

ADDRESS_BITS: Final = 64


class MakeBuffer(Protocol):
    """The fixture `buffer`: makes a buffer that the test's end releases."""

    def __call__(
        self,
        options: IOOptions | int,
        capacity: int,
        alignment: int | None = None,
        *,
        mask: int = 0,
        pool: str | None = None,
        task: Task | None = None,
    ) -> IOBufferMemoryDescriptor:
        """Make a buffer of ``capacity`` bytes; see `make_buffer` for the other arguments."""


def free_sizes() -> dict[str, int]:
    """Return the bytes that each carve-out could still give to this process."""
    return {name: known()[name].free_size() for name in ("main", "high", "low")}


def reached_pool(limits: Limits) -> str | None:
    """Return the name of a pool that the device reaches whole; None when it reaches all pools.

    A pool that callers must name comes last. `CheckFailed` when the device reaches none.
    """
    ends = {
        name: pool.extents.zone.start + pool.extents.zone.size
        for name, pool in known().items()
        if isinstance(pool, HeapPool) and isinstance(pool.extents, CarveoutPool)
    }
    if max(ends.values(), default=0) <= limits.end:
        return None
    reached = [name for name, end in ends.items() if end <= limits.end]
    if not reached:
        raise CheckFailed(
            f"no pool lies below the {limits.address_bits} address bits of the device"
        )
    return min(reached, key=lambda name: name in RESERVED)


def make_buffer(
    limits: Limits,
    options: IOOptions | int,
    capacity: int,
    alignment: int | None = None,
    *,
    mask: int = 0,
    pool: str | None = None,
    task: Task | None = None,
) -> IOBufferMemoryDescriptor:
    """Make a buffer like `inTaskWithOptions`, where the device reaches it, and aligned for it.

    An invalid alignment is passed on, so that the allocator refuses it. ``mask``: the address
    bits that the buffer may have, as for `inTaskWithPhysicalMask`; 0: those that the device
    drives.
    """
    if 0 < (1 if alignment is None else alignment) < limits.alignment:
        alignment = limits.alignment
    if not pool and limits.address_bits < ADDRESS_BITS and (mask or dma_platform.translated):
        mask = min(mask or limits.end, limits.end - 1)
    if mask:
        return IOBufferMemoryDescriptor.inTaskWithPhysicalMask(
            task or current_task(),
            options,
            capacity,
            mask & -alignment if alignment and alignment > 0 else mask,
            pool=pool,
        )
    return IOBufferMemoryDescriptor.inTaskWithOptions(
        task or current_task(),
        options,
        capacity,
        alignment,
        pool=pool or reached_pool(limits),
    )


def refusal(call: Callable[[], object]) -> IOReturnError | None:
    """Return the error that a call raises."""
    try:
        call()
    except IOReturnError as error:
        return error
    return None


def code_of(call: Callable[..., object], *arguments: object) -> IOReturn:
    """Return the code that a call ends with, kIOReturnSuccess when it returns."""
    try:
        call(*arguments)
    except IOReturnError as error:
        return error.code
    return IOReturn.kIOReturnSuccess
