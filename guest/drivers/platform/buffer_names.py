# SPDX-License-Identifier: Apache-2.0
"""The names of tracked buffers by their tags, in a file that all processes of the guest share.

A report of the cache model has the tag of a buffer. The process that takes the report may be
another one than the process that made the buffer, which may be dead by then.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from dma_rehearsal.guest.drivers.platform import command

_SIZE_MAX: Final = 1 << 20  # bytes; above that the oldest names are dropped
_NAME_MAX: Final = 400  # characters
_MODE: Final = 0o600


class BufferNames:
    """A file of lines, one for each tag. New lines go to the end; the last line of a tag counts."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or command.LOCKS / "cache-buffers"

    def tell(self, tag: int, name: str) -> None:
        """Name a tag from now on. A file that cannot be written is not an error."""
        line = f"{tag:#x} {' '.join(name.split())[:_NAME_MAX]} of process {os.getpid()}\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(
                self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE
            )
            try:
                if os.fstat(descriptor).st_size > _SIZE_MAX:
                    os.ftruncate(descriptor, 0)
                os.write(descriptor, line.encode())  # in one piece: other processes write, too
            finally:
                os.close(descriptor)
        except OSError:
            return  # a report then has only the tag

    def find(self, tag: int) -> str | None:
        """Return the newest name of a tag, or None."""
        try:
            lines = self._path.read_text(errors="replace").splitlines()
        except OSError:
            return None
        start = f"{tag:#x} "
        return next(
            (line.removeprefix(start) for line in lines[::-1] if line.startswith(start)), None
        )
