# SPDX-License-Identifier: Apache-2.0
"""A function that a migration holds: it sends nothing, changes nothing, and still answers."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from typing import ClassVar

import pytest

from dma_rehearsal.device.endpoints.bars import Bars, MemoryBar, RegisterBar, SharedBar
from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.endpoints.registers import Access, Register
from dma_rehearsal.device.endpoints.routing import Fabric
from dma_rehearsal.device.endpoints.saved_state import StatePart
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.pci.config import Command, Identity, Status
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.errors import ReadOnly, RemoteProtocolError
from dma_rehearsal.device.vfio_user.messages import DeviceState as S
from dma_rehearsal.device.vfio_user.messages import Irq
from dma_rehearsal.device.vfio_user.migration import Migration
from dma_rehearsal.device.vfio_user.timers import Timers
from tests.unit.device.fakes import BASE, FakeClient, read32, start, write32

STANDING = [S.STOP, S.STOP_COPY, S.RESUMING]
COMMAND, STATUS = 4, 6
MASTER = Command.BUS_MASTER | Command.MEMORY_SPACE


class Reg(IntEnum):
    """BAR0."""

    PLAIN = 0
    COUNT = 4  # each read adds 1
    GO = 8


class Worker(Endpoint):
    """It does all that it is told to do."""

    identity = Identity(0x1234, 1, 0xFF0000, interrupt_pin=1)
    bars: ClassVar[Bars] = {
        0: RegisterBar(
            [
                Register(Reg.PLAIN, Access.RW, reset=5),
                Register(Reg.COUNT),
                Register(Reg.GO, Access.WO),
            ]
        ),
        1: MemoryBar(4096),
        2: SharedBar(4096, ((0, 4096),)),
    }
    vectors = 2
    state: ClassVar[Sequence[StatePart]] = (StatePart(0, 0, 8),)
    command_at_reset = MASTER

    def __init__(self, fabric: Fabric) -> None:
        super().__init__(fabric=fabric)
        self.now = 0.0
        self.timers = Timers(lambda: self.now)
        self.did: list[str] = []
        self.running: Callable[[], None] = lambda: None
        self.stopping: Callable[[], None] = lambda: None

    def read_count(self) -> int:
        """Count."""
        self.registers(0)[Reg.COUNT] += 1
        return self.registers(0)[Reg.COUNT]

    def write_go(self, _value: int) -> None:
        """Take note."""
        self.did.append("go")

    def on_stopped(self) -> None:
        """Do as a test says."""
        self.did.append("stopped")
        self.stopping()

    def on_running(self) -> None:
        """Do as a test says."""
        self.did.append("running")
        self.running()


def moved(endpoint: Endpoint) -> Migration:
    assert endpoint.migration is not None
    return endpoint.migration


@pytest.fixture
def fabric() -> Fabric:
    return Fabric()


@pytest.fixture
def worker(client: FakeClient, fabric: Fabric) -> Iterator[Worker]:
    made = Worker(fabric)
    made.attach(client)
    yield made
    made.shared(2).close()


def fail() -> None:
    raise RuntimeError("a bug in an endpoint")


def stand(worker: Worker, state: S) -> None:
    """Get there, ERROR by a failure of the model's."""
    if state is not S.ERROR:
        moved(worker).set(state)
        return
    worker.stopping = fail
    with pytest.raises(RuntimeError):
        moved(worker).set(S.STOP)
    worker.stopping = lambda: None


@pytest.mark.parametrize("state", [*STANDING, S.ERROR])
def test_no_write_reaches_a_bar_and_no_read_has_a_side_effect(worker: Worker, state: S) -> None:
    read32(worker, 0, Reg.COUNT)
    stand(worker, state)
    worker.did.clear()
    write32(worker, 0, Reg.PLAIN, 77)
    write32(worker, 0, Reg.GO, 1)
    for bar in (1, 2):
        worker.region_write(bar, 16, b"bytes")
        assert worker.region_read(bar, 16, 5) == bytes(5)
    assert [read32(worker, 0, Reg.COUNT) for _ in range(3)] == [1, 1, 1]
    assert worker.region_read(0, 0, 12) == struct.pack("<III", 5, 1, 0)
    assert worker.region_read(0, 2, 4) == b"\0\0\1\0"
    assert worker.region_read(5, 2044, 4) == bytes(4)
    assert worker.did == []


@pytest.mark.parametrize("state", [S.RUNNING, S.PRE_COPY])
def test_where_it_runs_every_access_does_what_it_says(worker: Worker, state: S) -> None:
    moved(worker).set(state)
    write32(worker, 0, Reg.PLAIN, 77)
    write32(worker, 0, Reg.GO, 1)
    worker.region_write(1, 16, b"bytes")
    assert [read32(worker, 0, Reg.COUNT) for _ in range(2)] == [1, 2]
    assert (read32(worker, 0, Reg.PLAIN), worker.region_read(1, 16, 5)) == (77, b"bytes")
    assert worker.did == ["go"]


@pytest.mark.parametrize("state", [*STANDING, S.ERROR])
def test_nothing_is_sent(worker: Worker, client: FakeClient, state: S) -> None:
    outcomes: list[bytes | DmaRefused] = []
    stand(worker, state)
    for access in (
        lambda: worker.bus.write(BASE, b"late"),
        lambda: worker.bus.read(BASE, 4),
        lambda: worker.bus.write_list([(BASE, b"late")]),
    ):
        with pytest.raises(DmaRefused) as refusal:
            access()
        assert refusal.value.reason is DmaReason.BUS_MASTER_OFF
    worker.bus.write_async(BASE, b"late", outcomes.append)
    worker.bus.read_async(BASE, 4, outcomes.append, by_message=True)
    worker.go_on()
    assert all(isinstance(each, DmaRefused) for each in outcomes)
    assert len(outcomes) == 2
    assert not worker.msix(0)
    worker.intx(True)
    assert client.interrupts == []
    assert not any(client.ram)


def test_a_line_that_is_up_is_signalled_when_it_runs_again(
    worker: Worker, client: FakeClient
) -> None:
    moved(worker).set(S.STOP)
    worker.intx(True)
    worker.end_of_interrupt()
    assert client.interrupts == []
    assert struct.unpack("<H", worker.region_read(7, STATUS, 2))[0] & Status.INTERRUPT
    moved(worker).set(S.RUNNING)
    assert client.interrupts == [(Irq.INTX, 0)]
    start(worker)
    assert worker.msix(1)
    worker.bus.write(BASE, b"now")
    assert client.ram[:3] == b"now"


@pytest.mark.parametrize("state", STANDING)
def test_configuration_space_and_the_table_of_msix_take_writes(worker: Worker, state: S) -> None:
    moved(worker).set(state)
    worker.region_write(7, COMMAND, struct.pack("<H", Command.MEMORY_SPACE))
    assert worker.region_read(7, COMMAND, 2) == struct.pack("<H", Command.MEMORY_SPACE)
    worker.region_write(5, 16, b"the last of them")
    worker.region_write(5, 31, b"xx")
    worker.region_write(5, 32, b"x")
    assert worker.region_read(5, 16, 18) == b"the last of thex\0\0"


def test_pending_message_goes_when_it_runs_again(worker: Worker, client: FakeClient) -> None:
    start(worker)
    client.masked.add((Irq.MSIX, 1))
    assert not worker.msix(1)
    moved(worker).set(S.STOP)
    client.masked.clear()
    worker.message_unmasked(Irq.MSIX, 1)
    assert client.interrupts == []
    moved(worker).set(S.RUNNING)
    assert client.interrupts == [(Irq.MSIX, 1)]


def test_an_flr_resets_it_where_it_stands(worker: Worker) -> None:
    write32(worker, 0, Reg.PLAIN, 77)
    moved(worker).set(S.STOP)
    worker._function_level_reset()
    assert read32(worker, 0, Reg.PLAIN) == 5
    assert worker.config.stopped
    assert moved(worker).state is S.STOP


def test_what_was_under_way_is_forgotten_and_what_is_set_meanwhile_waits(worker: Worker) -> None:
    worker.timers.after(1, lambda: worker.did.append("of before"))
    worker.stopping = lambda: set_timer(worker)
    moved(worker).set(S.STOP)
    worker.now = 100
    worker.timers.run_due()
    assert worker.timers.next_deadline() is None
    moved(worker).set(S.RUNNING)
    assert worker.timers.next_deadline() == 103
    worker.timers.run_due()
    worker.now = 103
    worker.timers.run_due()
    assert worker.did == ["stopped", "running", "timer"]


def set_timer(worker: Worker) -> None:
    worker.timers.after(3, lambda: worker.did.append("timer"))


def test_timers_that_are_held_keep_their_time_and_their_order() -> None:
    now, ran = 10.0, list[str]()
    timers = Timers(lambda: now)
    timers.after(2, lambda: ran.append("second"))
    timers.after(1, lambda: ran.append("first"))
    timers.release()  # which were not held
    now = 10.5
    timers.hold()
    now = 20.0
    timers.hold()
    timers.after(1, lambda: ran.append("between"))
    timers.run_due()
    assert (timers.next_deadline(), ran) == (None, [])
    timers.release()
    assert timers.next_deadline() == 20.5
    now = 22
    timers.run_due()
    assert ran == ["first", "between", "second"]


def test_a_reset_ends_it_and_the_author_is_told(worker: Worker) -> None:
    """Otherwise a value that ``on_stopped`` set would stay for ever."""
    write32(worker, 0, Reg.PLAIN, 77)
    moved(worker).set(S.STOP_COPY)
    worker.running = lambda: worker.bus.write(BASE, b"runs")
    moved(worker).reset(worker.device_reset)
    assert moved(worker).state is S.RUNNING
    assert worker.did == ["stopped", "running"]
    assert read32(worker, 0, Reg.PLAIN) == 5
    moved(worker).reset(worker.device_reset)
    assert worker.did == ["stopped", "running"], "it ran"


def test_a_model_that_fails_to_stop_or_to_run_is_in_error_and_held(
    worker: Worker, client: FakeClient
) -> None:
    moved(worker).set(S.STOP)
    worker.running = fail
    with pytest.raises(RuntimeError):
        moved(worker).set(S.RUNNING)
    assert (moved(worker).state, worker.config.stopped) == (S.ERROR, True)
    set_timer(worker)
    worker.now = 10
    assert worker.timers.next_deadline() is None
    with pytest.raises(RemoteProtocolError, match="no way from ERROR"):
        moved(worker).set(S.STOP)
    worker.running = lambda: None
    moved(worker).reset(worker.device_reset)
    assert (moved(worker).state, worker.config.stopped) == (S.RUNNING, False)
    stand(worker, S.ERROR)
    assert worker.config.stopped
    assert client.interrupts == []


def test_a_state_that_cannot_be_saved_leaves_it_as_it_was() -> None:
    running: list[bool] = []
    broken = Migration(
        4,
        bytes,
        lambda _: None,
        stopped=lambda: running.append(False),
        running=lambda: running.append(True),
    )
    with pytest.raises(ValueError, match="0 bytes"):
        broken.set(S.PRE_COPY)
    assert (broken.state, running) == (S.RUNNING, [])
    with pytest.raises(ValueError, match="0 bytes"):
        broken.set(S.STOP_COPY)
    assert (broken.state, running) == (S.STOP, [False])


def test_a_model_that_fails_to_load_is_in_error() -> None:
    def load(_state: bytes) -> None:
        raise RuntimeError("a bug in an endpoint")

    broken = Migration(4, lambda: bytes(4), load)
    broken.set(S.RESUMING)
    broken.write(bytes(4))
    with pytest.raises(RuntimeError):
        broken.set(S.STOP)
    assert broken.state is S.ERROR


def test_a_peer_does_not_write_to_it(worker: Worker, fabric: Fabric) -> None:
    peer = Exerciser(Trace(), fabric=fabric)
    worker.region_write(7, 0x14, struct.pack("<I", 0xE000_0000))
    worker.region_write(7, COMMAND, struct.pack("<H", Command.MEMORY_SPACE))
    fabric.memory(peer, 0xE000_0000, 4, write=True)[:] = b"peer"
    moved(worker).set(S.STOP)
    assert bytes(fabric.memory(peer, 0xE000_0000, 4, write=False)) == b"peer"
    with pytest.raises(ReadOnly):
        fabric.memory(peer, 0xE000_0000, 4, write=True)


def test_it_is_silent_until_it_neither_sleeps_nor_stands_still(worker: Worker) -> None:
    config = worker.config
    for first, second in (("asleep", "stopped"), ("stopped", "asleep")):
        setattr(config, first, True)
        assert not config.bus_master
        setattr(config, second, True)
        setattr(config, first, False)
        assert not config.bus_master
        setattr(config, second, False)
        assert config.bus_master
