# SPDX-License-Identifier: Apache-2.0
"""Claims, task ports and where calls may block: on ordinary memory, between real processes."""

from __future__ import annotations

import asyncio
import fcntl
import functools
import gc
import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from itertools import pairwise

import pytest

from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IODeviceError,
    IONoMemoryError,
    IONotPermittedError,
    IOReturn,
    IOReturnError,
    TaskPort,
    current_task,
    kIODirectionInOut,
    kIOMapAnywhere,
    kIOMapUnique,
    kIOMemoryKernelUserShared,
    kIOMemoryPageable,
    task_of,
)
from dma_rehearsal.guest.iobuffer.base.blocking import check_may_block
from dma_rehearsal.guest.iobuffer.base.options import CacheMode
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.descriptors.remote import request
from dma_rehearsal.guest.iobuffer.memory import pool_registry
from dma_rehearsal.guest.iobuffer.memory.backing import Share
from dma_rehearsal.guest.iobuffer.memory.kernel_pools import FIXED_SIZE
from dma_rehearsal.guest.iobuffer.memory.pool import Extent
from dma_rehearsal.guest.iobuffer.os import virtual_memory
from dma_rehearsal.guest.iobuffer.os.port_messages import Lost
from tests.unit.guest.child import begin_child, in_a_child
from tests.unit.guest.shared_pool import ZONE, Remake


def free() -> int:
    return pool_registry.named("main").free_size()


def test_a_claim_is_passed_on_and_lasts(remake: Remake) -> None:
    pool = remake()
    before = pool.free_size()
    claim = pool.claim(3 * PAGE, PAGE)
    assert pool.free_size() == before - ZONE.arena_size, "an arena with a claim is not for arenas"
    copy = pool.adopt(os.dup(claim.fd), claim.extent)
    claim.close()
    assert pool.free_size() == before - ZONE.arena_size, "the copy has the lock"
    copy.close()
    assert pool.free_size() == before
    pool.close()


@pytest.mark.parametrize(
    "extent",
    [
        Extent(ZONE.start, PAGE),
        Extent(ZONE.start - PAGE, PAGE),
        Extent(ZONE.start + ZONE.size, PAGE),
        Extent(ZONE.start + ZONE.size - 4 * PAGE, 2 * PAGE),
        Extent(ZONE.start + ZONE.size - PAGE + 1, PAGE),
        Extent(ZONE.start, 0),
    ],
)
def test_what_nobody_has_claimed_is_not_adopted(remake: Remake, extent: Extent) -> None:
    pool = remake()
    claim = pool.claim(3 * PAGE, PAGE)
    with pytest.raises(IODeviceError) as refused:
        pool.adopt(os.dup(claim.fd), extent)
    assert refused.value.code is IOReturn.kIOReturnBadArgument
    claim.close()
    pool.close()


def test_claims_and_arenas_keep_clear_of_each_other(remake: Remake) -> None:
    pool = remake()
    claims = [pool.claim(5 * PAGE, PAGE) for _ in range(4)]
    taken: list[Extent] = []
    with pytest.raises(IONoMemoryError) as full:
        taken.extend(pool.allocate(16 * PAGE, PAGE) for _ in range(64))
    assert full.value.largest < 16 * PAGE
    ranges = sorted((e.address, e.end) for e in [*taken, *(c.extent for c in claims)])
    assert all(one[1] <= two[0] for one, two in pairwise(ranges))
    with pytest.raises(IONoMemoryError, match="largest free run"):
        pool.claim(ZONE.size // 2, PAGE)
    for extent in taken:
        pool.free(extent)
    for claim in claims:
        claim.close()
    assert pool.free_size() == ZONE.size
    pool.close()


def test_a_buffer_made_in_another_process(remake: Remake) -> None:
    before = free()
    with TaskPort() as port:

        def maker() -> None:
            remake()
            made = IOBufferMemoryDescriptor.inTaskWithOptions(
                task_of(port.handle), kIODirectionInOut, 5000
            )
            assert made.address == 0
            assert made.writeBytes(0, b"made" * 1250) == 5000
            made.release()

        ended = begin_child(maker)
        with port.receive(timeout=20) as memory:
            assert ended() == 0
            assert bytes(memory.view()) == b"made" * 1250
            assert free() == before - ZONE.arena_size
    assert free() == before


def test_a_mapping_goes_when_its_asker_dies(remake: Remake) -> None:
    before = free()
    there, here = os.pipe()
    with TaskPort() as port:

        def asker() -> None:
            remake()
            options = kIODirectionInOut | kIOMemoryKernelUserShared
            made = IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), options, 5000)
            mapped = made.createMappingInTask(
                task_of(port.handle), 0, kIOMapAnywhere | kIOMapUnique, 100, 50
            )
            os.write(here, b"%d" % mapped.getVirtualAddress())
            os.kill(os.getpid(), signal.SIGKILL)

        ended = begin_child(asker)
        assert int(os.read(there, 32)) % PAGE == 100
        assert ended() == -signal.SIGKILL
        # The port's thread sees the end; nothing else here would wait for it.
        for _ in range(200):
            if free() == before:
                break
            signal.sigtimedwait([], 0.05)
        assert free() == before
    os.close(there)
    os.close(here)


def test_what_was_not_received_is_released(remake: Remake) -> None:
    before = free()
    port = TaskPort()

    def maker() -> None:
        remake()
        IOBufferMemoryDescriptor.inTaskWithOptions(
            task_of(port.handle), kIODirectionInOut, 100
        ).release()

    assert in_a_child(maker) == 0
    with pytest.raises(Lost, match="no buffer"):
        TaskPort.receive(port, 0) and TaskPort.receive(port, 0)
    port.close()
    port.close()
    assert free() >= before - PAGE


@pytest.mark.parametrize("handle", ["", "x", "x:", ":1", "x:0", "x:-1", "x:y"])
def test_no_handle(handle: str) -> None:
    with pytest.raises(IODeviceError, match="not the handle of a task"):
        task_of(handle)


@pytest.mark.usefixtures("remake")
def test_nobody_answers() -> None:
    with pytest.raises(Lost, match="does not answer"):
        IOBufferMemoryDescriptor.inTaskWithOptions(task_of("nobody:1"), kIODirectionInOut, 1)
    assert free() == ZONE.size


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        json.dumps({"call": "make", "memory": {}}).encode(),
        json.dumps({"call": "make", "memory": {"kind": "carve-out", "pool": "main"}}).encode(),
        json.dumps(
            {
                "call": "make",
                "memory": {"kind": "x", "pool": "main", "address": 0, "size": 1, "mode": 3},
            }
        ).encode(),
        json.dumps(
            {
                "call": "erase",
                "memory": {"kind": "file", "pool": "main", "address": 0, "size": 4096, "mode": 3},
            }
        ).encode(),
        b"[" * 4000,
        json.dumps(
            {
                "call": "make",
                "memory": {"kind": "file", "pool": "main", "address": 1e999, "size": 1, "mode": 3},
            }
        ).encode(),
    ],
)
def test_a_hostile_asker_gets_an_error_and_the_port_goes_on(remake: Remake, message: bytes) -> None:
    remake()
    before = free()
    with TaskPort() as port, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asker:
        asker.settimeout(10)
        asker.connect(f"\0{port.handle}")
        if message:
            socket.send_fds(asker, [message], [0, 1])
        else:
            asker.shutdown(socket.SHUT_WR)
        answer = asker.recv(4096)
        assert not answer or "code" in json.loads(answer)
        # Still there for others; nothing is made of a descriptor of anything else.
        with pytest.raises(IOReturnError, match=r"not a memfd|kind"):
            request(
                task_of(port.handle),
                "make",
                Share("file", "main", 0, PAGE, CacheMode.COPYBACK, (0,)),
                {"options": 3, "capacity": 1, "alignment": 1},
            )
    assert free() == before


def sealed(size: int, seals: int = FIXED_SIZE) -> int:
    fd = os.memfd_create("memory", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def test_descriptors_are_closed_once(remake: Remake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that is closed can be another thread's a moment later."""
    remake()
    closed: list[int] = []
    close = os.close

    def note(fd: int) -> None:
        closed.append(fd)
        close(fd)

    memory = {"kind": "file", "pool": "pageable", "address": 0, "size": PAGE, "mode": 3}
    message = json.dumps({"call": "make", "memory": memory, "options": {}}).encode()
    fd = sealed(PAGE)
    with TaskPort() as port, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asker:
        asker.settimeout(10)
        asker.connect(f"\0{port.handle}")
        with monkeypatch.context() as patched:
            patched.setattr(os, "close", note)
            socket.send_fds(asker, [message], [fd])
            assert b"a malformed call" in asker.recv(4096)
    os.close(fd)
    assert len(closed) == len(set(closed)) == 2, "what came, and the copy that was made of it"


@pytest.mark.parametrize("seals", [0, fcntl.F_SEAL_GROW])
def test_a_file_that_can_be_cut_off_is_refused(remake: Remake, seals: int) -> None:
    remake()
    fd = sealed(PAGE, seals)
    with TaskPort() as port, pytest.raises(IOReturnError, match=r"size can change"):
        request(
            task_of(port.handle),
            "make",
            Share("file", "pageable", 0, PAGE, CacheMode.COPYBACK, (fd,)),
            {"options": 3 | int(kIOMemoryPageable), "capacity": 1, "alignment": 1},
        )
    os.close(fd)


@pytest.mark.parametrize("answer", [b"{}", b'{"address": "x"}', b'{"code": 7}', b"[" * 4000])
def test_an_answer_that_is_none(answer: bytes) -> None:
    handle = f"dma-rehearsal-task-nobody:{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"\0{handle}")
        listener.listen(1)

        def reply() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.send(answer)

        thread = threading.Thread(target=reply)
        thread.start()
        share = Share("file", "main", 0, PAGE, CacheMode.COPYBACK, ())
        with pytest.raises(Lost, match=r"malformed (answer|message)"):
            request(task_of(handle), "make", share, {})
        thread.join()


def test_shared_memory_comes_back_from_a_cycle_with_its_view(
    remake: Remake,
) -> None:
    """The collector may finalize the buffer while the view, garbage as well, is still there."""
    remake()
    cycle: list[object] = []
    for made in (
        IOBufferMemoryDescriptor.inTaskWithOptions(
            current_task(), kIODirectionInOut | kIOMemoryKernelUserShared, PAGE
        ),
        IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), kIODirectionInOut, PAGE),
    ):
        mapped = made.createMappingInTask(current_task(), 0, kIOMapAnywhere | kIOMapUnique)
        cycle += [made, made.view(), mapped, mapped.view(), cycle]
    mappings = len(virtual_memory._live)
    del cycle, made, mapped
    with pytest.warns(ResourceWarning):
        gc.collect()
    assert free() == ZONE.size
    assert len(virtual_memory._live) == mappings - 4


def test_a_forked_child_keeps_no_memory_of_its_parent(remake: Remake) -> None:
    """The locks belong to open files, and a child has copies of their descriptors."""
    remake()
    memory = IOBufferMemoryDescriptor.inTaskWithOptions(
        current_task(), kIODirectionInOut | kIOMemoryKernelUserShared, PAGE
    )
    ours, childs = socket.socketpair()

    def live_on() -> None:
        ours.close()
        childs.send(b"here")
        childs.recv(1)  # until the parent closes its end

    ended = begin_child(live_on)
    childs.close()
    assert ours.recv(4) == b"here"
    memory.release()
    assert free() == ZONE.size
    ours.close()
    assert ended() == 0


def test_blocking_is_refused_on_a_loop() -> None:
    async def call() -> None:
        check_may_block("it")

    with pytest.raises(IONotPermittedError, match="asyncio"):
        asyncio.run(call())
    check_may_block("it")


class Handler:
    """Handlers of every kind; each says what became of the call."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def method(self, *_: object) -> None:
        try:
            check_may_block("it")
            self.said.append("allowed")
        except IONotPermittedError as error:
            self.said.append(error.reason)

    def __call__(self, *_: object) -> None:
        self.method()


@pytest.mark.parametrize("kind", ["method", "object", "partial", "function"])
def test_blocking_is_refused_in_a_signal_handler(kind: str) -> None:
    handler = Handler()
    kinds: dict[str, Callable[..., None]] = {
        "method": handler.method,
        "object": handler,
        "partial": functools.partial(handler.method, 1),
        "function": lambda *_: handler.method(),
    }
    old = signal.signal(signal.SIGUSR1, kinds[kind])
    try:
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert len(handler.said) == 1
    assert "signal handler" in handler.said[0]
    check_may_block("outside")
