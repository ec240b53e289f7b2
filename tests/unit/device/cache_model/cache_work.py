# SPDX-License-Identifier: Apache-2.0
"""Counts the work of an operation in steps of Python's own, so that no clock has a say."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from types import FrameType
from typing import Any

from dma_rehearsal.device.cache_model.masks import blended
from tests.unit.device.cache_model.cache_sequences import Memory


class TooMuchWork(AssertionError):
    """An operation took more steps than it may."""


def steps(action: Callable[[], object], most: int) -> int:
    """Return how many bytecodes an action runs. TooMuchWork: more than ``most``, and no further."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        if event == "opcode":
            count += 1
            if count > most:
                raise TooMuchWork(f"more than {most} steps, in {frame.f_code.co_qualname}")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


class QuickMemory(Memory):
    """Takes a store of many runs in one step: how many there are is the length's affair alone."""

    def write_where(self, backing: Hashable, offset: int, data: bytes, mask: bytes) -> None:
        memory, place = self.backings[str(backing)], slice(offset, offset + len(data))
        memory[place] = blended(memory[place], data, mask)
