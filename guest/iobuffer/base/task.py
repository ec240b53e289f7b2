# SPDX-License-Identifier: Apache-2.0
"""Tasks: the process in whose address space a buffer is mapped."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Task:
    """A process by its id; ``pid`` 0 is the kernel.

    ``handle`` comes from the `TaskPort` of another process: with it, buffers and mappings can be
    made in that process. Without one, only the calling process and the kernel can be asked.
    """

    pid: int
    handle: str = ""

    @property
    def is_current(self) -> bool:
        """Whether this is the calling process."""
        return self.pid == os.getpid()

    @property
    def is_kernel(self) -> bool:
        """Whether this is `kernel_task`."""
        return self.pid == 0

    def __str__(self) -> str:
        return "kernel_task" if self.pid == 0 else f"task {self.pid}"


kernel_task = Task(0)


def current_task() -> Task:
    """Return the calling process as a task."""
    return Task(os.getpid())
