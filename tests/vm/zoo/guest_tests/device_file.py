# SPDX-License-Identifier: Apache-2.0
"""Device files as the tests of the zoo use them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def opened(name: str) -> Iterator[int]:
    """Open /dev/NAME; the descriptor is closed at the end."""
    file = os.open(f"/dev/{name}", os.O_RDWR | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)


def written(file: int, data: bytes) -> None:
    """Write all of ``data`` in one call."""
    assert os.write(file, data) == len(data)


def pattern(length: int, seed: int = 0) -> bytes:
    """Return bytes that differ from their neighbours, and from those of another seed."""
    return bytes((seed * 31 + at * 7 + (at >> 8)) & 0xFF for at in range(length))


def inverted(data: bytes) -> bytes:
    """Return what the device makes of ``data``."""
    return bytes(each ^ 0xFF for each in data)
