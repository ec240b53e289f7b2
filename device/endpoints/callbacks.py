# SPDX-License-Identifier: Apache-2.0
"""The content of a BAR whose accesses call the endpoint: ``read_bar2`` and ``write_bar2``."""

from __future__ import annotations

from dma_rehearsal.device.endpoints.bar_content import BarContent


def method_name(kind: str, bar: int) -> str:
    """Return the name of the method for an access ("read" or "write") to a BAR."""
    return f"{kind}_bar{bar}"


class Callbacks(BarContent):
    """Calls ``owner``, with offsets from the start of the BAR, ``start`` bytes before this part.

    A function that is stopped calls nothing, and reads 0 here.
    """

    def __init__(self, owner: object, bar: int, start: int = 0) -> None:
        self._start = start
        self._name = f"{type(owner).__name__}.{method_name('read', bar)}"
        self._read = getattr(owner, method_name("read", bar), None)
        self._write = getattr(owner, method_name("write", bar), None)

    def read(self, offset: int, length: int) -> bytes:
        """Return what the endpoint returns. ValueError where that is not ``length`` bytes."""
        if self._read is None:
            return bytes(length)
        place = self._start + offset
        data = self._read(place, length)
        if not isinstance(data, bytes | bytearray | memoryview) or len(data) != length:
            raise ValueError(
                f"{self._name}({place:#x}, {length}) returned {repr(data)[:60]}; return bytes, "
                f"{length} of them"
            )
        return bytes(data)

    def write(self, offset: int, data: bytes) -> None:
        """Hand ``data`` to the endpoint."""
        if self._write is not None:
            self._write(self._start + offset, data)

    def acts(self, offset: int, length: int) -> bool:
        """Return whether the endpoint is called by a write."""
        del offset, length
        return self._write is not None
