"""A fork while other threads use descriptors: the child is refused, and waits for nobody."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest
from iobuffer import IOBufferMemoryDescriptor, IOReturnError, current_task, kIODirectionInOut
from iobuffer.own_lock import make_lock

from tests.guest.memory_pool import MemoryPool


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


def in_child(call: Callable[[], bool]) -> bool:
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # for one that hangs
        status = 1
        with contextlib.suppress(BaseException):
            status = 0 if call() else 1
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("use", ["release", "getLength", "prepare", "view", "map"])
def test_a_buffer_in_use_by_a_thread_is_refused_in_the_child(main: MemoryPool, use: str) -> None:  # noqa: ARG001
    with IOBufferMemoryDescriptor.inTaskWithOptions(
        current_task(), kIODirectionInOut, 4096
    ) as memory:

        def refused() -> bool:
            with pytest.raises(IOReturnError, match="a fork does not inherit buffers"):
                getattr(memory, use)()
            return True

        with held_by_a_thread(memory._lock):
            assert in_child(refused)


def test_what_the_forking_thread_has_it_keeps() -> None:
    lock = make_lock()

    def released() -> bool:
        lock.release()
        with pytest.raises(RuntimeError):
            lock.release()
        return True

    with lock:
        assert in_child(released)
