# SPDX-License-Identifier: Apache-2.0
"""Named faults of the ownership of memory, applied from outside.

Each is a function that breaks one promise for the rest of this process, and in what it forks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from dma_rehearsal.guest.drivers.platform.grants import PlatformAccess
from dma_rehearsal.guest.drivers.platform.protection_unit import process_owner
from dma_rehearsal.guest.iobuffer.base.errors import IOReturnError
from dma_rehearsal.guest.iobuffer.descriptors.buffer import IOBufferMemoryDescriptor
from dma_rehearsal.guest.iobuffer.descriptors.imported_memory import ImportedBuffer, Mapped
from dma_rehearsal.guest.iobuffer.descriptors.remote import Remote

_withdraw = PlatformAccess.withdraw


def mapping_grants() -> None:
    """A process that maps another process's memory has a grant of its own."""
    for name in ("_prepare_itself", "_wire"):
        setattr(Mapped, name, getattr(IOBufferMemoryDescriptor, name))


def unmap_not_awaited() -> None:
    """unmap() does not wait until the other task has unmapped."""
    setattr(Remote, Remote.close.__name__, Remote.drop)


def two_owners() -> None:
    """A buffer that was made in another task has two owners."""
    for name in ("_prepare_itself", "_wire", "setDirection"):
        setattr(ImportedBuffer, name, getattr(IOBufferMemoryDescriptor, name))


def withdrawal_failure_hidden() -> None:
    """A withdrawal that failed counts as done."""

    def withdraw(access: PlatformAccess, grant: object) -> None:
        with contextlib.suppress(IOReturnError):
            _withdraw(access, grant)

    setattr(PlatformAccess, withdraw.__name__, withdraw)


def child_counts_as_parent() -> None:
    """A forked child treats its parent's grants as its own."""

    def begin_process(access: PlatformAccess) -> None:
        if access._pid != os.getpid():
            access._pid, access._owner = os.getpid(), process_owner()

    setattr(PlatformAccess, PlatformAccess._begin_process.__name__, begin_process)


IMPLEMENTATIONS: dict[str, Callable[[], None]] = {
    "allocator-mapping-grants": mapping_grants,
    "allocator-unmap-not-awaited": unmap_not_awaited,
    "allocator-two-owners": two_owners,
    "allocator-withdrawal-failure-hidden": withdrawal_failure_hidden,
    "allocator-child-counts-as-parent": child_counts_as_parent,
}
