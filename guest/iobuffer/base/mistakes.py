# SPDX-License-Identifier: Apache-2.0
"""Mistakes of a driver that no return code can report, since the call itself is right.

A test kit takes them, and fails the test; a program gets a warning.
"""

from __future__ import annotations

import warnings
from collections import deque
from typing import Final

KEPT_MAX: Final = 64

_found: deque[str] = deque(maxlen=KEPT_MAX)


class IOMistakeWarning(UserWarning):
    """A driver's mistake; the message says what it loses, and which call is missing."""


def record(words: str) -> None:
    """Keep a mistake, and warn of it where no test kit looks."""
    _found.append(words)
    warnings.warn(words, IOMistakeWarning, stacklevel=4)


def taken() -> list[str]:
    """Return the mistakes since the last call, the oldest first, at most `KEPT_MAX`."""
    found = list(_found)
    for _ in found:
        _found.popleft()
    return found
