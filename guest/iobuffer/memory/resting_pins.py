# SPDX-License-Identifier: Apache-2.0
"""Pinned pages of released buffers: they rest, and go back to the kernel when that is over.

The kernel does not give a pinned page to anybody, so a late DMA hits unused memory.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from dma_rehearsal.guest.iobuffer.os.pin import Pin

BYTES_MAX: Final = 8 << 20
PINS_MAX: Final = 64

_resting: Final[deque[Pin]] = deque()  # the oldest first; shared with finalizers


def rest(pin: Pin) -> None:
    """Keep a pin, which is ours from now on, until others are more recent.

    The newest rests also when it alone is larger than all that may.
    """
    _resting.append(pin)
    while len(_resting) > 1 and (
        len(_resting) > PINS_MAX or sum(each.length for each in list(_resting)) > BYTES_MAX
    ):
        _close_oldest()


def wake() -> bool:
    """Unpin all that rests; whether there was something."""
    found = False
    while _close_oldest():
        found = True
    return found


def _close_oldest() -> bool:
    try:
        pin = _resting.popleft()
    except IndexError:
        return False
    pin.close()
    return True
