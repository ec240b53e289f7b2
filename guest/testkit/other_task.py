# SPDX-License-Identifier: Apache-2.0
"""Another task for tests: a process that takes buffers over a TaskPort."""

from __future__ import annotations

from collections.abc import Iterator

from dma_rehearsal.guest.iobuffer import TaskPort
from dma_rehearsal.guest.testkit.buffers import free_sizes
from dma_rehearsal.guest.testkit.other_process import Ask


def owner_of_buffers(ask: Ask) -> Iterator[object]:
    """In the other process: take buffers that the test made, and report their content."""
    with TaskPort() as port:
        yield port.handle
        while (word := ask()) is not None:
            if word == "receive":
                memory = port.receive(timeout=30)
                yield memory.address
            elif word == "read":
                with memory.view() as view:
                    yield bytes(view)
            elif word == "release":
                memory.release()
                yield free_sizes()
            elif word == "write":
                with memory.view() as view:
                    view[:] = ask()
                yield None
