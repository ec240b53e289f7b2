# SPDX-License-Identifier: Apache-2.0
"""A fork while other threads use descriptors: the child is refused, and waits for nobody."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IOReturnError,
    current_task,
    kIODirectionInOut,
)
from dma_rehearsal.guest.iobuffer.base.fork_safe_lock import make_lock
from tests.unit.guest.child import in_a_child
from tests.unit.guest.memory_pool import MemoryPool


@contextlib.contextmanager
def held_by_a_thread(lock: contextlib.AbstractContextManager[object]) -> Iterator[None]:
    ready, end = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            ready.set()
            end.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        end.set()
        thread.join()


@pytest.mark.parametrize("use", ["release", "getLength", "prepare", "view", "map"])
def test_a_buffer_in_use_by_a_thread_is_refused_in_the_child(main: MemoryPool, use: str) -> None:  # noqa: ARG001
    with IOBufferMemoryDescriptor.inTaskWithOptions(
        current_task(), kIODirectionInOut, 4096
    ) as memory:

        def refused() -> None:
            with pytest.raises(IOReturnError, match="a fork does not inherit buffers"):
                getattr(memory, use)()

        with held_by_a_thread(memory._lock):
            assert in_a_child(refused) == 0


def test_what_the_forking_thread_has_it_keeps() -> None:
    lock = make_lock()

    def released() -> None:
        lock.release()
        with pytest.raises(RuntimeError):
            lock.release()

    with lock:
        assert in_a_child(released) == 0
