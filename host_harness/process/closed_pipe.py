# SPDX-License-Identifier: Apache-2.0
"""Standard output whose reader may leave early, such as ``| head``.

A status is about what the command found, and not about its reader. So the command goes on to its
own end, and the rest of its output is discarded.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Descriptor(io.RawIOBase):
    """Bytes to a descriptor; to the null device once the reader of its pipe has left."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer) -> int:
        try:
            return os.write(self._descriptor, data)
        except BrokenPipeError:
            # Children inherit the descriptor: they must not fail either.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._descriptor)
            os.close(null)
            return memoryview(data).nbytes


def discard_when_closed() -> None:
    """Have sys.stdout and sys.stderr of this process discard what nobody reads any more."""
    sys.stdout, sys.stderr = _discarding(sys.stdout), _discarding(sys.stderr)


def _discarding(stream: TextIO) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):  # None where the descriptor was closed
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Descriptor(stream.fileno())),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
