# SPDX-License-Identifier: Apache-2.0
"""The platform's errors as IOKit's, for callers that use the platform through the allocator."""

from __future__ import annotations

import errno
from typing import Final

from dma_rehearsal.guest.drivers.platform.command import CommandInProgress, PlatformDeviceError
from dma_rehearsal.guest.iobuffer import IODeviceError, IONotPermittedError, IOReturn, IOReturnError

_NO_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE)


def as_return(
    error: PlatformDeviceError,
    *,
    address: int | None = None,
    length: int | None = None,
    direction: int | None = None,
) -> IOReturnError:
    """Return IOKit's error for a failed command of the platform, which did not carry it out.

    `IONotPermittedError`: it came in the middle of another command of this thread, from a finalizer
    or a signal handler, and can be done when that one has ended. Else `IODeviceError`, with
    kIOReturnNoResources when the process has no descriptor left to open the lock file with.
    """
    if isinstance(error, CommandInProgress):
        return IONotPermittedError(
            f"{error}: not from a finalizer or a signal handler; leave it to the program",
            address=address,
            length=length,
            direction=direction,
        )
    cause = error.__cause__
    full = isinstance(cause, OSError) and cause.errno in _NO_DESCRIPTORS
    code = IOReturn.kIOReturnNoResources if full else IOReturn.kIOReturnError
    return IODeviceError(str(error), code=code, address=address, length=length, direction=direction)
