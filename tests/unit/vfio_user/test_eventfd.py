# SPDX-License-Identifier: Apache-2.0
"""A client's eventfd, in whatever state its client brings it: nobody waits for the client."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
from collections.abc import Iterator

import pytest

from dma_rehearsal.device.layout import MSICTL_TRIGGER, Reg
from dma_rehearsal.device.vfio_user import eventfd, interrupts
from dma_rehearsal.device.vfio_user.eventfd import (
    AioSignaller,
    PollSignaller,
    Signaller,
    is_eventfd,
)
from dma_rehearsal.device.vfio_user.messages import Irq
from tests.unit.vfio_user.client import RawClient, Refused

FULL = (1 << 64) - 2  # write(2) goes no further
OVERFLOWED = (1 << 64) - 1  # the kernel does


@pytest.fixture(params=[AioSignaller, PollSignaller])
def each_signaller(request: pytest.FixtureRequest) -> Signaller:
    made: Signaller = request.param()
    return made


@pytest.fixture
def counter() -> Iterator[int]:
    """A blocking eventfd."""
    made = os.eventfd(0)
    yield made
    os.close(made)


def overflow(descriptor: int) -> None:
    """Bring a counter beyond what write(2) can: it polls POLLERR, and not POLLOUT, from then on."""
    os.eventfd_write(descriptor, FULL)
    assert AioSignaller().signal(descriptor)
    ask = select.poll()
    ask.register(descriptor, select.POLLOUT)
    assert ask.poll(0) == [(descriptor, select.POLLERR)]


def within(seconds: float, action: Signaller, descriptor: int) -> bool:
    """Signal in a thread; fail when that has no end."""
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(action.signal(descriptor)), daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, "it waits for the client"
    return found[0]


def test_adds_one(each_signaller: Signaller, counter: int) -> None:
    for _ in range(3):
        assert each_signaller.signal(counter)
    assert os.eventfd_read(counter) == 3


def test_full_counter(each_signaller: Signaller, counter: int) -> None:
    os.eventfd_write(counter, FULL)
    assert within(10, each_signaller, counter)
    assert os.eventfd_read(counter) >= FULL
    assert each_signaller.signal(counter)
    assert os.eventfd_read(counter) == 1


def test_overflowed_counter(each_signaller: Signaller, counter: int) -> None:
    overflow(counter)
    assert within(10, each_signaller, counter)
    assert os.eventfd_read(counter) == OVERFLOWED
    assert each_signaller.signal(counter)
    assert os.eventfd_read(counter) == 1


def test_semaphore(each_signaller: Signaller) -> None:
    semaphore = os.eventfd(0, os.EFD_SEMAPHORE)
    for _ in range(2):
        assert each_signaller.signal(semaphore)
    assert [os.eventfd_read(semaphore) for _ in range(2)] == [1, 1]
    os.eventfd_write(semaphore, FULL)
    assert within(10, each_signaller, semaphore)
    os.close(semaphore)


def test_client_that_fills_the_counter_all_the_time(counter: int) -> None:
    """A write between a look at the counter and the server's own would stop the server."""
    done = threading.Event()

    def fill() -> None:
        while not done.is_set():
            os.set_blocking(counter, False)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_write(counter, FULL)
            os.set_blocking(counter, True)

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    try:
        assert all(within(10, AioSignaller(), counter) for _ in range(50))
    finally:
        done.set()
        thread.join(10)


def test_more_signals_than_completions_have_room(counter: int) -> None:
    made = AioSignaller()
    assert all(made.signal(counter) for _ in range(5000))
    assert os.eventfd_read(counter) == 5000


def test_of_several_threads(counter: int) -> None:
    made, other = AioSignaller(), os.eventfd(0)

    def signal(descriptor: int) -> None:
        for _ in range(2000):
            made.signal(descriptor)

    threads = [threading.Thread(target=signal, args=(each,)) for each in (counter, other) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (os.eventfd_read(counter), os.eventfd_read(other)) == (4000, 4000)
    os.close(other)


def test_descriptor_of_another_kind_or_none(each_signaller: Signaller) -> None:
    read_end, write_end = os.pipe()
    assert not each_signaller.signal(read_end)
    os.close(read_end)
    os.close(write_end)
    assert not AioSignaller().signal(read_end)


@pytest.mark.parametrize("machine", ["s390x", "sparc64", ""])
def test_machine_without_known_numbers_is_written_to(
    monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    with pytest.raises(OSError, match="asynchronous") as refusal:
        AioSignaller(machine)
    assert refusal.value.errno == errno.ENOSYS
    monkeypatch.setattr(eventfd, "AioSignaller", lambda: AioSignaller(machine))
    eventfd.signaller.cache_clear()
    assert isinstance(eventfd.signaller(), PollSignaller)
    monkeypatch.undo()
    eventfd.signaller.cache_clear()
    assert isinstance(eventfd.signaller(), AioSignaller)


def test_forked_child_makes_its_own(counter: int) -> None:
    eventfd.signaller()
    child = os.fork()
    if not child:
        os._exit(0 if eventfd.signaller().signal(counter) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert os.eventfd_read(counter) == 1


# SET_IRQS.


@pytest.fixture(params=[AioSignaller, PollSignaller])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections signal in this way."""
    made = request.param()
    monkeypatch.setattr(interrupts, "signaller", lambda: made)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("beyond", [False, True])
def test_server_goes_on_with_a_counter_at_its_end(
    server: object, request: pytest.FixtureRequest, counter: int, beyond: bool
) -> None:
    del server
    client: RawClient = request.getfixturevalue("client")
    if beyond:
        overflow(counter)
    else:
        os.eventfd_write(counter, FULL)
    client.set_irqs(4 | 32, Irq.MSIX, 0, 1, descriptors=[counter])
    client.start()
    client.write32(0, Reg.MSICTL, MSICTL_TRIGGER)
    assert os.eventfd_read(counter) >= FULL
    client.write32(0, Reg.MSICTL, MSICTL_TRIGGER)
    assert os.eventfd_read(counter) == 1


def others() -> dict[str, int]:
    """Descriptors of kinds that are not an eventfd; some can be written to, and wait."""
    read_end, write_end = os.pipe()
    ours, theirs = socket.socketpair()
    return {
        "pipe": write_end,
        "pipe's other end": read_end,
        "socket": ours.detach(),
        "socket's other end": theirs.detach(),
        "memory": os.memfd_create("anon_inode:[eventfd]"),
        "null": os.open("/dev/null", os.O_RDWR),
        "epoll": select.epoll().fileno(),
        "eventfd as a name": os.open("/proc/self/fd", os.O_PATH),
    }


def test_descriptor_that_is_not_an_eventfd_is_refused(client: RawClient, counter: int) -> None:
    """VFIO refuses it too; a write to one of them could wait for the client."""
    assert is_eventfd(counter)
    kept = os.eventfd(0)
    client.set_irqs(4 | 32, Irq.MSIX, 0, 1, descriptors=[kept])
    client.start()
    made = others()
    for kind, descriptor in made.items():
        assert not is_eventfd(descriptor), kind
        with pytest.raises(Refused) as refusal:
            client.set_irqs(4 | 32, Irq.MSIX, 0, 2, descriptors=[counter, descriptor])
        assert refusal.value.errno == errno.EINVAL, kind
    client.write32(0, Reg.MSICTL, MSICTL_TRIGGER)
    assert os.eventfd_read(kept) == 1, "what was set before stays"
    os.set_blocking(counter, False)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(counter)
    for descriptor in (*made.values(), kept):
        with contextlib.suppress(OSError):
            os.close(descriptor)
