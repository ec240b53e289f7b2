# SPDX-License-Identifier: Apache-2.0
"""The NVMe example while a command waits for memory: abort, deletion, resets, the client's end."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import pytest

from dma_rehearsal.device.vfio_user.errors import NoDescriptor, Unmapped
from examples.nvme.layout import BLOCK, FATAL, PAGE, READY, TRANSFER, Reg, Status
from tests.unit.device.fakes import BASE, SIZE, FakeClient
from tests.unit.examples.nvme_host import (
    DATA,
    ENABLE,
    NAMESPACE,
    Admin,
    Host,
    Io,
    Pair,
    tail_doorbell,
)

SLOW = 1 << 32  # memory that only messages reach
OK = Status.SUCCESS


class SlowClient(FakeClient):
    """A client whose memory at SLOW has no descriptor: it is asked, and answers when it likes."""

    def memory(self, address: int, length: int, *, write: bool) -> list[memoryview]:
        if SLOW <= address < SLOW + SIZE:
            raise NoDescriptor(address)
        return super().memory(address, length, write=write)


@dataclass
class SlowHost(Host):
    client: SlowClient = field(default_factory=SlowClient)

    def under_way(self, pair: Pair, opcode: Io = Io.READ) -> int:
        """Submit a command whose data are slow; return its identifier."""
        found = self.submit(pair, opcode, 0, 0, 1, namespace=NAMESPACE, prp=(SLOW, 0))
        assert len(self.client.messages) == 1
        assert self.answers(pair, ring=False) == []
        return found

    def abort(self, admin: Pair, pair: Pair, identifier: int) -> tuple[Status, int]:
        return self.do(admin, Admin.ABORT, pair.number | identifier << 16)


@pytest.fixture
def host() -> SlowHost:
    return SlowHost()


@pytest.fixture
def admin(host: SlowHost) -> Pair:
    return host.enable()


@pytest.fixture
def io(host: SlowHost, admin: Pair) -> Pair:
    return host.io_pair(admin)


def test_a_command_completes_when_its_data_have_moved(host: SlowHost, io: Pair) -> None:
    wanted = host.under_way(io, Io.WRITE)
    host.client.answer(b"w" * 2 * BLOCK)
    assert [(each.identifier, each.status) for each in host.answers(io)] == [(wanted, OK)]
    assert host.nvme.namespaces[1].data[: 2 * BLOCK] == b"w" * 2 * BLOCK


def test_data_that_the_client_refuses(host: SlowHost, io: Pair) -> None:
    host.under_way(io)
    host.client.answer(Unmapped(SLOW))
    assert [each.status for each in host.answers(io)] == [Status.DATA_TRANSFER_ERROR]
    assert host.csts == READY


def test_another_queue_goes_on(host: SlowHost, admin: Pair, io: Pair) -> None:
    other = host.io_pair(admin, 2)
    host.under_way(io)
    host.submit(other, Io.FLUSH, namespace=NAMESPACE)
    host.client.answer()
    assert [each.status for each in host.answers(other)] == [OK]
    assert [each.status for each in host.answers(io)] == [OK]


def slow_list(host: SlowHost, pair: Pair, opcode: Io) -> int:
    """Submit a command of two pages and a list that is slow."""
    words = 0, 0, 3 * PAGE // BLOCK - 1
    return host.submit(pair, opcode, *words, namespace=NAMESPACE, prp=(DATA, SLOW))


LIST = struct.pack("<2Q", DATA + PAGE, DATA + 2 * PAGE)


def test_abort(host: SlowHost, admin: Pair, io: Pair) -> None:
    """The command ends with its status, and moves no data; one that is done is not aborted."""
    wanted = slow_list(host, io, Io.READ)
    behind = host.submit(io, Io.FLUSH, namespace=NAMESPACE)
    stopped = host.submit(admin, Admin.ABORT, io.number | wanted << 16)
    host.client.answer(LIST)
    (answer,) = host.answers(admin)
    assert (answer.identifier, answer.status, answer.result) == (stopped, OK, 0)
    assert [(each.identifier, each.status) for each in host.answers(io)] == [
        (wanted, Status.ABORT_REQUESTED),
        (behind, OK),
    ]
    writes = [each.address for each in host.nvme.bus.transactions if each.write]
    assert io.completions in writes
    assert DATA not in writes
    assert host.abort(admin, io, wanted) == (OK, 1)
    assert host.abort(admin, Pair(4, 0, 0, 0), wanted) == (OK, 1)
    assert host.abort(admin, admin, wanted) == (OK, 1)


def test_an_aborted_write_stores_nothing(host: SlowHost, admin: Pair, io: Pair) -> None:
    host.put(DATA, b"w" * 3 * PAGE)
    wanted = slow_list(host, io, Io.WRITE)
    host.submit(admin, Admin.ABORT, io.number | wanted << 16)
    host.client.answer(LIST)
    assert [each.status for each in host.answers(io)] == [Status.ABORT_REQUESTED]
    assert host.nvme.namespaces[1].data[: 3 * PAGE] == bytes(3 * PAGE)


def test_no_message_of_an_aborted_command_is_sent(host: SlowHost, admin: Pair, io: Pair) -> None:
    wanted = slow_list(host, io, Io.READ)
    host.submit(admin, Admin.ABORT, io.number | wanted << 16)
    host.client.answer(struct.pack("<2Q", DATA + PAGE, SLOW + PAGE))
    assert host.client.messages == []
    assert [each.status for each in host.answers(admin)] == [OK]
    assert [each.status for each in host.answers(io)] == [Status.ABORT_REQUESTED]


def test_abort_of_a_request_for_events(host: SlowHost, admin: Pair) -> None:
    waiting = host.submit(admin, Admin.EVENT_REQUEST)
    stopped = host.submit(admin, Admin.ABORT, waiting << 16)
    found = {each.identifier: (each.status, each.result) for each in host.answers(admin)}
    assert found == {waiting: (Status.ABORT_REQUESTED, 0), stopped: (OK, 0)}


@pytest.mark.parametrize("way", ["controller", "device", "function"])
def test_nothing_moves_after_a_reset(host: SlowHost, io: Pair, way: str) -> None:
    host.under_way(io, Io.WRITE)
    host.submit(io, Io.FLUSH, namespace=NAMESPACE)
    before = len(host.client.interrupts)
    if way == "controller":
        host.write(Reg.CC, 0)
    elif way == "device":
        host.nvme.device_reset()
    else:
        host.nvme._function_level_reset()
    memory = bytes(host.client.ram)
    host.client.answer(b"w" * 2 * BLOCK)
    assert bytes(host.client.ram) == memory
    assert host.nvme.namespaces[1].data[:BLOCK] == bytes(BLOCK)
    assert len(host.client.interrupts) == before
    host.put(BASE, bytes(SIZE))
    host.__post_init__()
    assert host.move(host.io_pair(host.enable()), Io.READ, 0, 1) is OK


def test_a_long_transfer_stops_at_a_controller_reset(host: SlowHost, io: Pair) -> None:
    """Of a page in several messages, no other one is sent."""
    host.client.message_max = 512
    host.under_way(io)
    host.write(Reg.CC, 0)
    host.client.answer()
    assert host.client.messages == []


def test_a_queue_is_deleted_with_a_command_under_way(host: SlowHost, admin: Pair, io: Pair) -> None:
    slow_list(host, io, Io.READ)
    deleted = host.submit(admin, Admin.DELETE_SQ, 1)
    host.client.answer(LIST)
    assert [(each.identifier, each.status) for each in host.answers(admin)] == [(deleted, OK)]
    assert host.answers(io, ring=False) == []
    writes = [each.address for each in host.nvme.bus.transactions if each.write]
    assert admin.completions + 16 * (admin.head - 1) in writes
    assert DATA not in writes
    assert host.move(host.io_pair(admin, 2), Io.READ, 0, 1) is OK


def test_the_client_goes(host: SlowHost, io: Pair) -> None:
    host.under_way(io)
    host.nvme.detach()
    host.nvme.device_reset()
    host.client.ram[:] = bytes(SIZE)
    host.__post_init__()
    assert host.move(host.io_pair(host.enable()), Io.READ, 0, 1) is OK


def test_a_queue_in_slow_memory(host: SlowHost, admin: Pair) -> None:
    """Commands are fetched by messages; completions need memory that is mapped."""
    assert host.do(admin, Admin.CREATE_CQ, 7 << 16 | 1, 1, prp=(DATA, 0))[0] is OK
    assert host.do(admin, Admin.CREATE_SQ, 7 << 16 | 1, 1 << 16 | 1, prp=(SLOW, 0))[0] is OK
    host.write(Reg.SQTDBL + 8, 1)
    host.client.answer(Unmapped(SLOW))
    assert host.csts == READY | FATAL
    host.write(Reg.CC, 0)
    host.write(Reg.CC, ENABLE)
    assert host.csts == READY


def test_much_to_clear_leaves_others_a_turn(host: SlowHost, io: Pair) -> None:
    """The doorbell is answered before all is done: each command clears a whole namespace."""
    namespace = host.nvme.namespaces[NAMESPACE]
    for _ in range(3):
        host.submit(io, Io.WRITE_ZEROES, 0, 0, namespace.blocks - 1, namespace=1, ring=False)
    host.write(tail_doorbell(1), io.tail)
    assert host.nvme.submissions[1].head == 1
    while host.nvme.timers.kept:
        host.nvme.timers.run_due()
    assert [each.status for each in host.answers(io)] == [OK] * 3


def test_a_reset_ends_the_clearing(host: SlowHost, io: Pair) -> None:
    blocks = host.nvme.namespaces[NAMESPACE].blocks
    for _ in range(3):
        host.submit(io, Io.WRITE_ZEROES, 0, 0, blocks - 1, namespace=1)
    host.write(Reg.CC, 0)
    memory = bytes(host.client.ram)
    host.nvme.timers.run_due()
    assert bytes(host.client.ram) == memory


def test_a_read_that_is_too_long_copies_nothing(host: SlowHost, io: Pair) -> None:
    namespace = host.nvme.namespaces[NAMESPACE]
    namespace.data = None  # type: ignore[assignment]
    assert host.move(io, Io.READ, 0, TRANSFER // BLOCK + 1) is Status.INVALID_FIELD
