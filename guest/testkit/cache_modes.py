# SPDX-License-Identifier: Apache-2.0
"""The cache modes of IOKit that a buffer can have, and the memory type of each."""

from __future__ import annotations

from typing import Final

import pytest

from dma_rehearsal.device.layout import MemoryType
from dma_rehearsal.guest.iobuffer import (
    kIOMapCopybackCache,
    kIOMapDefaultCache,
    kIOMapInhibitCache,
    kIOMapWriteCombineCache,
    kIOMapWriteThruCache,
)

MODES: Final = {
    "kIOMapDefaultCache": (kIOMapDefaultCache, MemoryType.WB),
    "kIOMapInhibitCache": (kIOMapInhibitCache, MemoryType.UC),
    "kIOMapWriteThruCache": (kIOMapWriteThruCache, MemoryType.WT),
    "kIOMapCopybackCache": (kIOMapCopybackCache, MemoryType.WB),
    "kIOMapWriteCombineCache": (kIOMapWriteCombineCache, MemoryType.WC),
}


modes = pytest.mark.parametrize(
    "mode", [pytest.param(name, marks=pytest.mark.promise(name)) for name in MODES]
)
"""Runs a test once for each mode, with the mode's promise."""
