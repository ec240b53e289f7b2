# SPDX-License-Identifier: Apache-2.0
"""Linux capabilities of this thread (capabilities(7)), and how to drop one for a while."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

CAP_IPC_LOCK: Final = 14
_VERSION_3: Final = 0x20080522
_HEADER: Final = struct.Struct("<Ii")  # version, thread (0: this one)
_DATA: Final = struct.Struct("<6I")  # effective, permitted, inheritable: low words, then high ones

_libc: Final = ctypes.CDLL(None, use_errno=True)


@contextmanager
def without_capability(number: int) -> Iterator[None]:
    """Take a capability, 0 to 31, out of this thread's effective ones; OSError when that fails."""
    before = bytearray(_DATA.size)
    _call(_libc.capget, before)
    effective, *others = _DATA.unpack(before)
    _call(_libc.capset, bytearray(_DATA.pack(effective & ~(1 << number), *others)))
    try:
        yield
    finally:
        _call(_libc.capset, before)


def _call(function: Callable[..., Any], data: bytearray) -> None:
    header = bytearray(_HEADER.pack(_VERSION_3, 0))
    arguments = [(ctypes.c_char * len(each)).from_buffer(each) for each in (header, data)]
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
