# SPDX-License-Identifier: Apache-2.0
"""Limits of a peer: maps, files, descriptors, memory, time. A flood is refused."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma_rehearsal.device.endpoints.bar_memory import SharedMemory
from dma_rehearsal.device.vfio_user import connection, dma_map, server
from dma_rehearsal.device.vfio_user.dma_map import DmaMap
from dma_rehearsal.device.vfio_user.errors import RemoteProtocolError, Unmapped
from dma_rehearsal.device.vfio_user.messages import Command, Flags
from dma_rehearsal.device.vfio_user.timers import Timers
from tests.unit.vfio_user.client import RawClient, Refused
from tests.unit.vfio_user.endpoint import BUFFER, SHARED, SHARED_SIZE, Prober, Reg
from tests.unit.vfio_user.serving import serving

PAGE = 4096
MAY_GROW = 16 << 20


def resident() -> int:
    """Return the bytes of this process that are in memory: the client's and the server's."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


class Counted(int):
    """A bus address that counts how often it is compared."""

    comparisons = 0

    def __lt__(self, other: int) -> bool:
        Counted.comparisons += 1
        return int(self) < int(other)

    def __gt__(self, other: int) -> bool:
        Counted.comparisons += 1
        return int(self) > int(other)


@pytest.fixture
def full_map(memory: int) -> Iterator[DmaMap]:
    """All the mappings that there may be, each of 4 KiB, with a gap behind each."""
    made = DmaMap()
    for number in range(dma_map.MAX_MAPPINGS):
        made.add(2 * number * PAGE, PAGE, 3, 0, memory)
    yield made
    made.clear()


def test_maps_are_counted(full_map: DmaMap, memory: int) -> None:
    with pytest.raises(RemoteProtocolError) as refusal:
        full_map.add(1 << 40, PAGE, 3, 0, memory)
    assert refusal.value.errno == errno.ENOSPC
    full_map.remove(0, PAGE)
    full_map.add(1 << 40, PAGE, 3, 0, memory)


def test_a_map_is_found_by_halving_not_by_looking_at_all(full_map: DmaMap, memory: int) -> None:
    """65,535 maps: 16 halvings find one, or the place of a new one."""
    full_map.remove(2 * 999 * PAGE, PAGE)
    actions = (
        lambda: full_map.views(Counted(2 * 40_000 * PAGE), 1, write=False),
        lambda: full_map.add(Counted(2 * 999 * PAGE), PAGE, 3, 0, memory),
        lambda: full_map.remove(Counted(2 * 999 * PAGE), PAGE),
    )
    for action in actions:
        Counted.comparisons = 0
        action()
        assert 16 <= Counted.comparisons <= 40


def test_files_are_counted(client: RawClient, memory: int) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for number in range(dma_map.MAX_FILES + 3):
        descriptor = os.memfd_create("one of many")
        os.ftruncate(descriptor, PAGE)
        refused = (
            pytest.raises(Refused) if number >= dma_map.MAX_FILES else contextlib.nullcontext()
        )
        with refused as refusal:
            client.dma_map(number * PAGE, PAGE, descriptor)
        if refusal is not None:
            assert refusal.value.errno == errno.ENOSPC
        os.close(descriptor)
    client.dma_unmap(0, 0, flags=2)
    client.dma_map(0, PAGE, memory)
    assert len(os.listdir("/proc/self/fd")) == before + 1  # noqa: PTH208


def test_a_file_of_any_size_is_refused_not_mapped(client: RawClient) -> None:
    descriptor = os.memfd_create("huge")
    os.ftruncate(descriptor, dma_map.MAX_FILE_BYTES + PAGE)
    with pytest.raises(Refused) as refusal:
        client.dma_map(0, PAGE, descriptor)
    os.close(descriptor)
    assert refusal.value.errno == errno.ENOSPC


def test_a_file_that_its_client_cuts_is_not_followed(
    probed: RawClient, prober: Prober, unsealed: int
) -> None:
    """Behind the end of its file a mapping raises SIGBUS, which would end the process."""
    probed.dma_map(0, 1 << 20, unsealed)
    client = prober.bus.client
    assert client
    os.ftruncate(unsealed, 2 * PAGE)
    assert client.memory(0, 2 * PAGE, write=True)
    for address, length in ((2 * PAGE - 1, 2), (2 * PAGE, 1), (0, 1 << 20)):
        with pytest.raises(Unmapped):
            client.memory(address, length, write=True)
    os.ftruncate(unsealed, 1 << 20)
    assert client.memory(0, 1 << 20, write=True)


def test_sealed_memory_cannot_be_cut_and_is_not_asked(probed: RawClient, prober: Prober) -> None:
    descriptor = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, PAGE)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    probed.dma_map(0, PAGE, descriptor)
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 0)
    os.close(descriptor)
    client = prober.bus.client
    assert client
    assert client.memory(0, PAGE, write=True)


def test_a_client_that_never_reads_is_not_read_from_and_then_closed(
    probed: RawClient, prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SEND_TIMEOUT_S", 0.3)
    read = struct.pack("<QII", 0, SHARED, SHARED_SIZE)
    before, sent = resident(), 0
    probed.socket.settimeout(5)

    def flood() -> None:
        nonlocal sent
        while True:
            probed.send(Command.REGION_READ, read)
            sent += 1

    started = time.monotonic()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        flood()
    assert time.monotonic() - started < 5, "the server did not close"
    assert resident() - before < MAY_GROW
    assert sent < 10_000, "the server read on"
    deadline = time.monotonic() + 5
    while prober.bus.client is not None:
        assert time.monotonic() < deadline


def test_a_client_that_takes_its_time_is_served(probed: RawClient) -> None:
    """Replies that do not fit the socket wait; the rest of the stream stays in step."""
    read = struct.pack("<QII", 0, SHARED, SHARED_SIZE)
    sent = [probed.send(Command.REGION_READ, read) for _ in range(64)]
    for identity in sent:
        reply = probed.receive()
        assert (reply.header.message_id, len(reply.payload)) == (identity, 16 + SHARED_SIZE)


def test_a_flood_of_posted_writes_takes_no_memory(probed: RawClient) -> None:
    write = struct.pack("<QIII", Reg.CHAIN, BUFFER, 4, 1)
    header = struct.pack("<HHIII", 1, Command.REGION_WRITE, 36, Flags.NO_REPLY, 0)
    burst = (header + write) * 1000
    probed.send_raw(burst)
    before = resident()
    for _ in range(50):
        probed.send_raw(burst)
    assert probed.read32(BUFFER, Reg.CHAIN) == 1
    assert resident() - before < MAY_GROW


def test_a_flood_of_errors_fills_no_log(
    probed: RawClient, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(10 * connection._MAX_LOGGED):
        with pytest.raises(Refused):
            probed.call(0)
    assert len(caplog.records) <= connection._MAX_LOGGED + 1
    assert "not logged" in caplog.records[-1].getMessage()


def test_a_name_is_there_once_it_can_be_connected_to(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    seen: list[bool] = []

    def listen(stream: socket.socket, backlog: int) -> None:
        seen.append(path.exists())
        original(stream, backlog)

    original = socket.socket.listen
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "listen", listen)
        with serving(path, Prober()) as served:
            assert served.is_socket()
            assert list(tmp_path.iterdir()) == [path], "no other name is left"
    assert seen == [False]


# Timers.


def test_timers_run_in_order_and_once() -> None:
    now, ran = 0.0, list[str]()
    timers = Timers(lambda: now)
    timers.after(2, lambda: ran.append("second"))
    timers.after(1, lambda: ran.append("first"))
    cancelled = timers.after(0.5, lambda: ran.append("cancelled"))
    cancelled.cancel()
    assert timers.next_deadline() == 1
    timers.run_due()
    assert ran == []
    now = 3
    timers.run_due()
    timers.run_due()
    assert ran == ["first", "second"]
    assert timers.next_deadline() is None


def test_a_timer_that_sets_itself_again_lets_others_run() -> None:
    now, ran = 1.0, list[str]()
    timers = Timers(lambda: now)

    def again() -> None:
        ran.append("again")
        timers.after(0, again)

    again()
    timers.run_due()
    timers.run_due()
    assert ran == ["again"] * 3


def test_a_timer_that_fails_leaves_the_others(caplog: pytest.LogCaptureFixture) -> None:
    ran: list[str] = []
    timers = Timers(lambda: 0.0)

    def fail() -> None:
        raise RuntimeError("a bug in an endpoint")

    timers.after(0, fail)
    timers.after(-5, lambda: ran.append("other"))
    timers.run_due()
    assert ran == ["other"]
    assert "a bug in an endpoint" in caplog.text


def test_timers_run_without_a_client_and_however_far_ahead(tmp_path: Path) -> None:
    prober = Prober()
    ran: list[float] = []
    prober.timers.after(1e12, lambda: ran.append(-1.0))
    with serving(tmp_path / "socket", prober):
        prober.timers.after(0.0, lambda: ran.append(time.monotonic()))
        with RawClient(tmp_path / "socket"):
            deadline = time.monotonic() + 5
            while not ran:
                assert time.monotonic() < deadline
    assert len(ran) == 1
    prober.window.close()


# Memory to map.


@pytest.mark.parametrize(
    "area", [(0, 0), (1, PAGE), (0, PAGE + 1), (-PAGE, PAGE), (0, 3 * PAGE), (2 * PAGE, PAGE)]
)
def test_an_area_outside_of_its_memory(area: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="area"):
        SharedMemory(2 * PAGE, [area])


def test_a_client_cannot_cut_the_memory_that_it_may_map(probed: RawClient) -> None:
    request = struct.pack("<IIIIQQ", 80, 0, SHARED, 0, 0, 0)
    (descriptor,) = probed.exchange(Command.DEVICE_GET_REGION_INFO, request).descriptors
    for size in (0, 2 * SHARED_SIZE):
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, size)
    os.close(descriptor)
    assert probed.region_read(SHARED, 0, 4) == bytes(4)


def test_a_client_that_takes_no_descriptor_is_offered_nothing_to_map(tmp_path: Path) -> None:
    prober = Prober()
    with (
        serving(tmp_path / "socket", prober) as path,
        RawClient(path, negotiate=False) as client,
    ):
        client.version(b'{"capabilities":{"max_msg_fds":0}}\0')
        request = struct.pack("<IIIIQQ", 80, 0, SHARED, 0, 0, 0)
        reply = client.exchange(Command.DEVICE_GET_REGION_INFO, request)
        assert struct.unpack("<IIIIQQ", reply.payload) == (32, 3, SHARED, 0, SHARED_SIZE, 0)
    prober.window.close()


def test_timer_is_active_until_it_ran_or_was_forgotten() -> None:
    now = 0.0
    timers = Timers(lambda: now)
    ran: list[str] = []
    done, cancelled, cleared = (timers.after(1, lambda: ran.append("done")) for _ in range(3))
    assert [each.active for each in (done, cancelled, cleared)] == [True] * 3
    cancelled.cancel()
    assert not cancelled.active
    timers.clear()
    assert not cleared.active
    assert timers.next_deadline() is None
    later = timers.after(1, lambda: ran.append("later"))
    now = 2.0
    timers.run_due()
    assert ran == ["later"]
    assert not later.active


def test_cancelled_timers_are_not_kept() -> None:
    """A guest may have a device set and cancel as often as it likes."""
    timers = Timers(lambda: 0.0)
    ran: list[int] = []
    timers.after(1, lambda: ran.append(1))
    for _ in range(10_000):
        timers.after(3600, lambda: None).cancel()
    assert timers.kept < 200
    many = [timers.after(2, lambda: ran.append(2)) for _ in range(1000)]
    for each in many[::2]:
        each.cancel()
        each.cancel()
    assert 500 <= timers.kept <= 1001 + 100
    assert timers.next_deadline() == 1
    for each in many:
        each.cancel()
    assert timers.kept < 200
    assert timers.next_deadline() == 1


def test_action_that_clears_the_timers_is_the_last() -> None:
    """A reset within an action: what is due beside it does not run, nor what it had set."""
    timers = Timers(lambda: 0.0)
    ran: list[str] = []

    def reset() -> None:
        timers.after(0, lambda: ran.append("set before"))
        timers.clear()
        timers.after(0, lambda: ran.append("set after"))

    timers.after(0, reset)
    timers.after(0, lambda: ran.append("due beside it"))
    timers.run_due()
    assert ran == []
    timers.run_due()
    assert ran == ["set after"]
