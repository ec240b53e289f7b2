# SPDX-License-Identifier: Apache-2.0
"""Errors between a client and the server.

The tree of exceptions::

    VfioUserError
    ├── LocalProtocolError   we were about to break the protocol
    ├── RemoteProtocolError  the client broke it; carries the errno of the reply
    ├── TooMuchPosted        other threads post more work than the server does
    ├── TooManyTimers        a model sets more timers than it cancels or waits for
    └── MemoryFault          a DMA address cannot be reached
        ├── Unmapped
        │   ├── NoDescriptor mapped, but only the client can reach it
        │   └── WriteOnly    mapped, but not for a device that reads
        ├── ReadOnly
        └── ClientFault      the client was asked by message, and refused or was silent
            └── ClientGone   it disconnected
"""

from __future__ import annotations

import errno


class VfioUserError(Exception):
    """Base of the package's errors."""


class LocalProtocolError(VfioUserError):
    """This side asked for something that the protocol does not allow."""


class RemoteProtocolError(VfioUserError):
    """The client sent something that the protocol does not allow.

    ``errno`` is what the error reply carries. ``fatal`` says that the stream cannot be trusted any
    more, so the connection is closed.
    """

    def __init__(self, message: str, code: int = errno.EINVAL, *, fatal: bool = False) -> None:
        super().__init__(message)
        self.errno = code
        self.fatal = fatal


class TooMuchPosted(VfioUserError):
    """So much posted work waits that no more is taken. Nothing of it is lost."""

    def __init__(self, waiting: int) -> None:
        super().__init__(
            f"{waiting} posted actions wait for the thread that serves the device; post once for "
            "many events, or wait for the result of post_future before the next"
        )


class TooManyTimers(VfioUserError):
    """So many timers are set that no more is taken. Those that are set go on."""

    def __init__(self, waiting: int) -> None:
        super().__init__(
            f"{waiting} timers of the device are set; cancel those that are not needed, or keep "
            "the deadlines in a list and set one timer for the next of them"
        )


class MemoryFault(VfioUserError):
    """A range of bus addresses cannot be reached; ``address`` is the first byte that cannot."""

    def __init__(self, address: int, reason: str) -> None:
        super().__init__(f"bus address {address:#x}: {reason}")
        self.address = address


class Unmapped(MemoryFault):
    """Nothing is mapped that can be reached: no mapping, or one whose memory is not there."""

    def __init__(self, address: int, reason: str = "not mapped") -> None:
        super().__init__(address, reason)


class NoDescriptor(Unmapped):
    """The mapping came without a descriptor: only a message to the client reaches it."""


class WriteOnly(Unmapped):
    """The mapping does not allow a device to read there."""

    def __init__(self, address: int) -> None:
        super().__init__(address, "mapped write-only")


class ReadOnly(MemoryFault):
    """The mapping does not allow a device to write there."""

    def __init__(self, address: int) -> None:
        super().__init__(address, "mapped read-only")


class ClientFault(MemoryFault):
    """A DMA by message came to nothing: the client refused it, or was silent.

    ``address`` is where its first piece that failed starts. Of a write, the pieces before it were
    moved.
    """


class ClientGone(ClientFault):
    """The client went before a DMA was done."""

    def __init__(self, address: int) -> None:
        super().__init__(address, "the client is gone")
