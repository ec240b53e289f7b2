# SPDX-License-Identifier: Apache-2.0
"""IOKit's return codes and the exceptions that carry them.

::

    IOReturnError                 base: code, address, length, direction, reason
    |-- IOBadArgumentError        kIOReturnBadArgument
    |-- IOUnsupportedError        kIOReturnUnsupported
    |-- IONoMemoryError           kIOReturnNoMemory; also a MemoryError
    |-- IOBusyError               kIOReturnBusy
    |-- IONotAttachedError        kIOReturnNotAttached: released, or not this process's
    |-- IONotReadyError           kIOReturnNotReady: not prepared, or not set up yet
    |-- IOCannotWireError         kIOReturnCannotWire: the pages cannot be pinned
    |-- IONotPermittedError       kIOReturnNotPermitted: not from here (a signal handler, a loop)
    `-- IODeviceError             any code: the driver or the lock files failed
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from enum import IntEnum
from typing import ClassVar, Final


class IOReturn(IntEnum):
    """Return codes with IOKit's names and values: 0xE0000000 | code."""

    kIOReturnSuccess = 0
    kIOReturnError = 0xE00002BC
    kIOReturnNoMemory = 0xE00002BD
    kIOReturnNoResources = 0xE00002BE
    kIOReturnBadArgument = 0xE00002C2
    kIOReturnUnsupported = 0xE00002C7
    kIOReturnVMError = 0xE00002C8
    kIOReturnCannotLock = 0xE00002CC
    kIOReturnNotReadable = 0xE00002CE
    kIOReturnNotWritable = 0xE00002CF
    kIOReturnNotAligned = 0xE00002D0
    kIOReturnDMAError = 0xE00002D4
    kIOReturnBusy = 0xE00002D5
    kIOReturnNotReady = 0xE00002D8
    kIOReturnNotAttached = 0xE00002D9
    kIOReturnNoSpace = 0xE00002DB
    kIOReturnCannotWire = 0xE00002DE
    kIOReturnMessageTooLarge = 0xE00002E1
    kIOReturnNotPermitted = 0xE00002E2
    kIOReturnUnderrun = 0xE00002E7
    kIOReturnOverrun = 0xE00002E8


class IOReturnError(Exception):
    """An operation failed: ``code`` is IOKit's return code, the message gives the reason.

    ``address`` and ``length`` are in bytes, ``direction`` is one of kIODirection's values; each is
    None where it does not apply. ``reason`` is the message without the code.
    """

    default_code: ClassVar[IOReturn] = IOReturn.kIOReturnError

    def __init__(
        self,
        reason: str,
        *,
        code: IOReturn | None = None,
        address: int | None = None,
        length: int | None = None,
        direction: int | None = None,
    ) -> None:
        self.code = self.default_code if code is None else code
        self.reason = reason
        self.address = address
        self.length = length
        self.direction = direction
        super().__init__(f"{self.code.name} ({self.code:#010x}): {reason}")

    def add(self, words: str) -> None:
        """Add words that are known only further up the call."""
        self.reason += f"; {words}"
        self.args = (f"{self.code.name} ({self.code:#010x}): {self.reason}",)


class IOBadArgumentError(IOReturnError):
    """An argument has a value that the call does not accept."""

    default_code = IOReturn.kIOReturnBadArgument


class IOUnsupportedError(IOReturnError):
    """The request is legal in IOKit; this platform, or this version, cannot do it."""

    default_code = IOReturn.kIOReturnUnsupported


class IONoMemoryError(IOReturnError, MemoryError):
    """No pool has a free run that is long enough.

    ``asked`` and ``largest`` are in bytes: the request, and the longest free run that exists.
    """

    default_code = IOReturn.kIOReturnNoMemory

    def __init__(self, reason: str, *, asked: int, largest: int) -> None:
        super().__init__(reason, length=asked)
        self.asked = asked
        self.largest = largest


class IOBusyError(IOReturnError):
    """Something still uses the memory that the call would take away."""

    default_code = IOReturn.kIOReturnBusy


class IONotAttachedError(IOReturnError):
    """The descriptor has been released, or belongs to another process."""

    default_code = IOReturn.kIOReturnNotAttached


class IONotReadyError(IOReturnError):
    """The call needs something that has not been done, such as prepare()."""

    default_code = IOReturn.kIOReturnNotReady


class IOCannotWireError(IOReturnError):
    """Memory cannot be kept in place. ``limit``, in bytes, is the limit reached, or None."""

    default_code = IOReturn.kIOReturnCannotWire

    def __init__(
        self, reason: str, *, address: int | None, length: int, limit: int | None = None
    ) -> None:
        super().__init__(reason, address=address, length=length)
        self.limit = limit


class IONotPermittedError(IOReturnError):
    """The call may block, and was made where that is not allowed."""

    default_code = IOReturn.kIOReturnNotPermitted


class IODeviceError(IOReturnError):
    """The driver, or a file of the system, is missing or refused."""


_OF_THE_SYSTEM: Final = {
    errno.EEXIST: IOReturn.kIOReturnNoSpace,  # something is mapped there
    errno.EMFILE: IOReturn.kIOReturnNoResources,
    errno.ENFILE: IOReturn.kIOReturnNoResources,
}


def of_the_system(
    what: str, error: OSError, *, length: int, address: int | None = None
) -> IOReturnError:
    """Return the kernel's refusal of ``length`` bytes in IOKit's terms."""
    said = f"{what} of {length} bytes"
    if address:
        said += f" at {address:#x}"
    said += f": {error.strerror}"
    if error.errno == errno.ENOMEM:
        return IONoMemoryError(said, asked=length, largest=0)
    code = _OF_THE_SYSTEM.get(error.errno or 0, IOReturn.kIOReturnVMError)
    return IODeviceError(said, code=code, address=address, length=length)


def undo(cause: BaseException, call: Callable[[], object]) -> None:
    """Call ``call`` while ``cause`` is raised, which stays the error; a failure is added to it."""
    try:
        call()
    except Exception as error:  # whatever it is, it must not take the cause's place
        words = f"what was done before is not undone: {error}"
        if isinstance(cause, IOReturnError):
            cause.add(words)
        else:
            cause.add_note(words)
