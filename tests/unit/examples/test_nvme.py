# SPDX-License-Identifier: Apache-2.0
"""The NVMe example, by a driver without a kernel: its life, its commands, and hostile ones."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dma_rehearsal.device import loader
from examples.nvme.controller import Nvme
from examples.nvme.layout import (
    BLOCK,
    ENTRIES_MAX,
    FATAL,
    PAGE,
    QUEUES,
    READY,
    SHUTDOWN_COMPLETE,
    TRANSFER_PAGES,
    Reg,
    Status,
)
from examples.nvme.namespace import EVENT_REQUESTS
from tests.unit.device.fakes import BASE, SIZE, read32
from tests.unit.examples.nvme_host import (
    DATA,
    ENABLE,
    NAMESPACE,
    Admin,
    Host,
    Io,
    Pair,
    head_doorbell,
    tail_doorbell,
)

TRANSFER_MAX = PAGE * TRANSFER_PAGES
BLOCKS = 32768  # of the first namespace
IO_QUEUES = QUEUES - 1
DOORBELLS = [
    doorbell(queue) for queue in range(QUEUES) for doorbell in (tail_doorbell, head_doorbell)
]
PATTERN = bytes(range(256)) * 512  # 128 KiB
OK = Status.SUCCESS


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def admin(host: Host) -> Pair:
    return host.enable()


@pytest.fixture
def io(host: Host, admin: Pair) -> Pair:
    return host.io_pair(admin)


def test_it_is_found_by_its_name() -> None:
    assert loader.find("examples.nvme.controller:Nvme") is Nvme


# Its life.


def test_registers_at_reset(host: Host) -> None:
    capabilities = struct.unpack("<Q", host.nvme.region_read(0, 0, 8))[0]
    assert capabilities & 0xFFFF == ENTRIES_MAX - 1
    assert capabilities >> 37 & 1, "the NVM command set"
    assert read32(host.nvme, 0, Reg.VS) == 0x10400
    assert (read32(host.nvme, 0, Reg.CC), host.csts) == (0, 0)


def test_enable_disable_and_enable_again(host: Host) -> None:
    for _ in range(3):
        admin = host.enable()
        pair = host.io_pair(admin)
        assert host.move(pair, Io.READ, 0, 1) is OK
        host.write(Reg.CC, 0)
        assert host.csts == 0
        assert not host.nvme.submissions
        assert not host.nvme.completions
        host.put(BASE, bytes(SIZE))


@pytest.mark.parametrize(
    ("register", "value"),
    [
        (Reg.CC, ENABLE | 1 << 7),
        (Reg.CC, ENABLE | 1 << 4),
        (Reg.CC, 1),
        (Reg.AQA, 0),
        (Reg.AQA, 7),
    ],
)
def test_what_it_cannot_be_enabled_with_is_fatal(host: Host, register: Reg, value: int) -> None:
    host.write(Reg.AQA, 7 | 7 << 16)
    host.write(register, value)
    if register is not Reg.CC:
        host.write(Reg.CC, ENABLE)
    assert host.csts == FATAL
    host.write(Reg.CC, 0)
    assert host.csts == 0
    host.enable()


def test_shutdown(host: Host, io: Pair) -> None:
    assert host.move(io, Io.WRITE, 0, 1) is OK
    host.write(Reg.CC, ENABLE | 1 << 14)
    assert host.csts == READY | SHUTDOWN_COMPLETE
    host.write(Reg.CC, ENABLE & ~1)
    assert host.csts == 0


def test_blocks_outlive_a_reset(host: Host, io: Pair) -> None:
    host.put(DATA, PATTERN[:BLOCK])
    assert host.move(io, Io.WRITE, 5, 1) is OK
    host.nvme.device_reset()
    host.client.ram[:] = bytes(SIZE)
    host.__post_init__()
    pair = host.io_pair(host.enable())
    assert host.move(pair, Io.READ, 5, 1) is OK
    assert host.get(DATA, BLOCK) == PATTERN[:BLOCK]


# Administration.


def identify(host: Host, admin: Pair, structure: int, namespace: int = 0) -> tuple[Status, bytes]:
    done = host.do(admin, Admin.IDENTIFY, structure, namespace=namespace, prp=(DATA, 0))
    return done[0], host.get(DATA, PAGE)


def test_identify(host: Host, admin: Pair) -> None:
    status, data = identify(host, admin, 1)
    assert status is OK
    assert data[4:9] == b"DMA-1"
    assert data[512:514] == b"\x66\x44"
    assert struct.unpack_from("<I", data, 516) == (2,)
    assert data[77] == TRANSFER_PAGES.bit_length() - 1
    assert identify(host, admin, 0, NAMESPACE)[1][:8] == BLOCKS.to_bytes(8, "little")
    assert identify(host, admin, 0, 2)[1][:8] == (8192).to_bytes(8, "little")
    assert identify(host, admin, 2)[1][:12] == struct.pack("<III", NAMESPACE, 2, 0)
    assert identify(host, admin, 2, NAMESPACE)[1][:8] == struct.pack("<II", 2, 0)
    names = [identify(host, admin, 3, number)[1] for number in (1, 2)]
    assert [each[:2] for each in names] == [b"\x03\x10"] * 2
    assert names[0] != names[1]
    assert names[0][4:20] == identify(host, admin, 0, NAMESPACE)[1][104:120]


@pytest.mark.parametrize(
    ("structure", "namespace", "status"),
    [
        (0, 3, Status.INVALID_NAMESPACE),
        (3, 0, Status.INVALID_NAMESPACE),
        (2, 0xFFFF_FFFF, Status.INVALID_NAMESPACE),
        (0x7F, 1, Status.INVALID_FIELD),
    ],
)
def test_identify_refuses(
    host: Host, admin: Pair, structure: int, namespace: int, status: Status
) -> None:
    assert identify(host, admin, structure, namespace)[0] is status


def test_features(host: Host, admin: Pair) -> None:
    most = IO_QUEUES - 1
    assert host.do(admin, Admin.SET_FEATURES, 7, 0x40_0001) == (OK, most << 16 | most)
    assert host.do(admin, Admin.GET_FEATURES, 7) == (OK, most << 16 | most)
    assert host.do(admin, Admin.GET_FEATURES, 6) == (OK, 1)
    assert host.do(admin, Admin.SET_FEATURES, 6, 0) == (OK, 0)
    assert host.do(admin, Admin.GET_FEATURES, 6) == (OK, 0)
    for number, value, status in (
        (7, 0xFFFF, Status.INVALID_FIELD),
        (0x7F, 0, Status.INVALID_FIELD),
        (6 | 1 << 31, 0, Status.NOT_SAVEABLE),
    ):
        assert host.do(admin, Admin.SET_FEATURES, number, value)[0] is status
    assert host.do(admin, Admin.GET_FEATURES, 0x7F)[0] is Status.INVALID_FIELD
    for select in range(1, 8):  # ONCS does not announce it (Identify Controller, 5.15.2.2)
        assert host.do(admin, Admin.GET_FEATURES, select << 8 | 6)[0] is Status.INVALID_FIELD


def test_log_pages(host: Host, admin: Pair) -> None:
    assert host.do(admin, Admin.GET_LOG_PAGE, 2 | 127 << 16, prp=(DATA, 0)) == (OK, 0)
    assert struct.unpack_from("<H", host.get(DATA, 512), 1) == (310,)
    host.put(DATA, b"x" * 64)
    assert host.do(admin, Admin.GET_LOG_PAGE, 3 | 3 << 16, 0, 8, prp=(DATA, 0)) == (OK, 0)
    assert host.get(DATA, 17) == b"1.0     ".ljust(16, b"\0") + b"x"
    for words, status in (
        ((9, 0), Status.INVALID_LOG_PAGE),
        ((2, 0, 2), Status.INVALID_FIELD),
        ((2, 0, 516), Status.INVALID_FIELD),
        ((2, 2), Status.INVALID_FIELD),  # longer than a transfer may be
    ):
        assert host.do(admin, Admin.GET_LOG_PAGE, *words, prp=(DATA, 0))[0] is status


def test_abort_and_an_unknown_command(host: Host, admin: Pair) -> None:
    assert host.do(admin, Admin.ABORT, 7 << 16) == (OK, 1)
    assert host.do(admin, 0x7F)[0] is Status.INVALID_OPCODE
    assert host.do(admin, Admin.ABORT, flags=1)[0] is Status.INVALID_FIELD


CQ, SQ = Admin.CREATE_CQ, Admin.CREATE_SQ


@pytest.mark.parametrize(
    ("opcode", "words", "prp1", "status"),
    [
        (CQ, (7 << 16, 1), BASE, Status.INVALID_QUEUE_IDENTIFIER),
        (CQ, (7 << 16 | IO_QUEUES + 1, 1), BASE, Status.INVALID_QUEUE_IDENTIFIER),
        (CQ, (7 << 16 | 1, 1), BASE, Status.INVALID_QUEUE_IDENTIFIER),  # it exists
        (CQ, (2, 1), BASE, Status.INVALID_QUEUE_SIZE),
        (CQ, (ENTRIES_MAX << 16 | 2, 1), BASE, Status.INVALID_QUEUE_SIZE),
        (CQ, (7 << 16 | 2, 0), BASE, Status.INVALID_FIELD),
        (CQ, (7 << 16 | 2, 1), BASE + 64, Status.PRP_OFFSET_INVALID),
        (CQ, (7 << 16 | 2, 99 << 16 | 3), BASE, Status.INVALID_INTERRUPT_VECTOR),
        (SQ, (7 << 16 | 1, 1 << 16 | 1), BASE, Status.INVALID_QUEUE_IDENTIFIER),
        (SQ, (7 << 16 | 2, 1), BASE, Status.INVALID_QUEUE_IDENTIFIER),
        (SQ, (7 << 16 | 2, 3 << 16 | 1), BASE, Status.COMPLETION_QUEUE_INVALID),
        (Admin.DELETE_SQ, (0,), 0, Status.INVALID_QUEUE_IDENTIFIER),
        (Admin.DELETE_SQ, (2,), 0, Status.INVALID_QUEUE_IDENTIFIER),
        (Admin.DELETE_CQ, (0,), 0, Status.INVALID_QUEUE_IDENTIFIER),
        (Admin.DELETE_CQ, (2,), 0, Status.INVALID_QUEUE_IDENTIFIER),
        (Admin.DELETE_CQ, (1,), 0, Status.INVALID_QUEUE_DELETION),
    ],
)
@pytest.mark.usefixtures("io")
def test_queues_that_cannot_be(
    host: Host, admin: Pair, opcode: Admin, words: tuple[int, ...], prp1: int, status: Status
) -> None:
    assert host.do(admin, opcode, *words, prp=(prp1, 0))[0] is status


def test_queues_are_deleted(host: Host, admin: Pair, io: Pair) -> None:
    assert host.do(admin, Admin.DELETE_SQ, 1)[0] is OK
    host.submit(io, Io.READ)
    assert host.answers(io, ring=False) == []
    assert host.do(admin, Admin.DELETE_CQ, 1)[0] is OK
    assert host.move(host.io_pair(admin, 1), Io.READ, 0, 1) is OK


# Events.


def test_a_wrong_doorbell_is_an_event(host: Host, admin: Pair) -> None:
    waiting = [host.submit(admin, Admin.EVENT_REQUEST) for _ in range(EVENT_REQUESTS)]
    assert host.answers(admin) == []
    assert host.do(admin, Admin.EVENT_REQUEST)[0] is Status.EVENT_LIMIT_EXCEEDED
    host.write(tail_doorbell(3), 1)
    host.write(head_doorbell(0), 5)
    host.write(tail_doorbell(0), 4000)
    (found,) = host.answers(admin)
    assert (found.identifier, found.result) == (waiting[0], 0x1_0000)
    # The next is told when software has read the log page of the first.
    retained = host.submit(admin, Admin.GET_LOG_PAGE, 1 | 1 << 15, prp=(DATA, 0))
    assert [each.identifier for each in host.answers(admin)] == [retained]
    read = host.submit(admin, Admin.GET_LOG_PAGE, 1, prp=(DATA, 0))
    found, log = host.answers(admin)
    assert (found.identifier, found.result, log.identifier) == (waiting[1], 0x1_0100, read)
    assert host.csts == READY


def test_the_head_of_a_completion_queue_lies_within_it(host: Host, admin: Pair) -> None:
    host.submit(admin, Admin.GET_FEATURES, 6)
    host.write(head_doorbell(0), 1 + admin.size)  # 1, once around
    waiting = host.submit(admin, Admin.EVENT_REQUEST)
    found = host.answers(admin)
    assert (found[1].identifier, found[1].result) == (waiting, 0x1_0100)


def test_events_wait_for_a_request(host: Host, admin: Pair) -> None:
    for _ in range(1000):
        host.write(tail_doorbell(3), 1)
    assert host.do(admin, Admin.EVENT_REQUEST) == (OK, 0x1_0000)


def test_doorbells_of_a_controller_that_is_off(host: Host) -> None:
    for doorbell in DOORBELLS:
        host.write(doorbell, 3)
    assert host.csts == 0
    assert host.client.interrupts == []


# Blocks.


@pytest.mark.parametrize("count", [1, 8, 9, 16, 17, 240])
@pytest.mark.parametrize("offset", [0, 512, 4092])
def test_blocks(host: Host, io: Pair, count: int, offset: int) -> None:
    """By one PRP, by two, and by a list, with and without an offset in the first page."""
    size = count * BLOCK
    pages = -(-(offset + size) // PAGE)
    rest = [DATA + PAGE * number for number in range(1, pages)]
    listed = BASE + 0x1_7000
    host.put(listed, struct.pack(f"<{len(rest)}Q", *rest))
    prp = DATA + offset, rest[0] if len(rest) == 1 else listed
    host.put(DATA + offset, PATTERN[:size])
    assert host.move(io, Io.WRITE, 100, count, prp) is OK
    host.put(DATA + offset, bytes(size))
    assert host.move(io, Io.READ, 100, count, prp) is OK
    assert host.get(DATA + offset, size) == PATTERN[:size]
    assert host.client.interrupts[-1] == (2, 1)


def test_a_list_goes_on_in_another_page(host: Host, io: Pair) -> None:
    pages = [DATA + PAGE * number for number in range(16)]
    first, second = BASE + 0x1_7000 - 24, BASE + 0x1_7000
    host.put(first, struct.pack("<3Q", pages[1], pages[2], second))
    host.put(second, struct.pack("<13Q", *pages[3:]))
    host.put(DATA, PATTERN[: 16 * PAGE])
    assert host.move(io, Io.WRITE, 0, 128, (pages[0], first)) is OK
    assert bytes(host.nvme.namespaces[1].data[: 16 * PAGE]) == PATTERN[: 16 * PAGE]
    host.put(first + 16, struct.pack("<Q", second + 8))
    assert host.move(io, Io.WRITE, 0, 128, (pages[0], first)) is Status.PRP_OFFSET_INVALID


@pytest.mark.parametrize(
    ("count", "prp", "status"),
    [
        (1, (DATA + 2, 0), Status.PRP_OFFSET_INVALID),
        (16, (DATA, DATA + 512), Status.PRP_OFFSET_INVALID),
        (32, (DATA, DATA + 4), Status.PRP_OFFSET_INVALID),
        (1, (1 << 50, 0), Status.DATA_TRANSFER_ERROR),
        (16, (DATA, 1 << 50), Status.DATA_TRANSFER_ERROR),
        (32, (DATA, 1 << 50), Status.DATA_TRANSFER_ERROR),
        (TRANSFER_MAX // BLOCK + 1, (DATA, DATA), Status.INVALID_FIELD),
    ],
)
@pytest.mark.parametrize("opcode", [Io.READ, Io.WRITE])
def test_data_that_cannot_be_moved(
    host: Host, io: Pair, opcode: Io, count: int, prp: tuple[int, int], status: Status
) -> None:
    assert host.move(io, opcode, 0, count, prp) is status
    assert host.csts == READY
    assert host.move(io, opcode, 0, 1) is OK


def test_blocks_that_are_not_there(host: Host, io: Pair) -> None:
    assert host.move(io, Io.READ, BLOCKS - 1, 1) is OK
    for start, count in ((BLOCKS - 1, 2), (BLOCKS, 1), ((1 << 64) - 1, 8)):
        for opcode in (Io.READ, Io.WRITE, Io.WRITE_ZEROES):
            assert host.move(io, opcode, start, count) is Status.LBA_OUT_OF_RANGE
    assert host.do(io, Io.READ, namespace=3, prp=(DATA, 0))[0] is Status.INVALID_NAMESPACE
    assert host.do(io, 0x7F, namespace=1)[0] is Status.INVALID_OPCODE


def test_zeroes_flush_and_deallocation(host: Host, io: Pair) -> None:
    host.nvme.namespaces[1].data[: 64 * BLOCK] = b"x" * 64 * BLOCK
    assert host.move(io, Io.WRITE_ZEROES, 1, 2) is OK
    assert host.do(io, Io.FLUSH, namespace=NAMESPACE)[0] is OK
    assert host.do(io, Io.FLUSH, namespace=0xFFFF_FFFF)[0] is OK
    ranges = [(0, 1, 8), (0, 2, 16)]
    host.put(DATA, b"".join(struct.pack("<IIQ", *each) for each in ranges))
    done = host.do(io, Io.DATASET_MANAGEMENT, 1, 0, namespace=1, prp=(DATA, 0))
    assert done[0] is OK, "a hint"
    done = host.do(io, Io.DATASET_MANAGEMENT, 1, 4, namespace=1, prp=(DATA, 0))
    assert done[0] is OK
    data = host.nvme.namespaces[1].data
    zero = {each for each in range(64) if not any(data[each * BLOCK : (each + 1) * BLOCK])}
    assert zero == {1, 2, 8, 16, 17}
    host.put(DATA, struct.pack("<IIQ", 0, 1, BLOCKS) * 2)
    done = host.do(io, Io.DATASET_MANAGEMENT, 1, 4, namespace=1, prp=(DATA, 0))
    assert done[0] is Status.LBA_OUT_OF_RANGE


# Queues.


def test_phase_tags_over_many_rounds(host: Host, io: Pair) -> None:
    for number in range(100):
        assert host.move(io, Io.READ, number, 1) is OK


def test_one_interrupt_for_the_commands_of_a_doorbell(host: Host, io: Pair) -> None:
    before = len(host.client.interrupts)
    wanted = [
        host.submit(io, Io.FLUSH, namespace=NAMESPACE, ring=number == 4) for number in range(5)
    ]
    assert [each.identifier for each in host.answers(io)] == wanted
    assert host.client.interrupts[before:] == [(2, 1)]


def test_commands_wait_for_room_in_the_completion_queue(host: Host, admin: Pair, io: Pair) -> None:
    """Two submission queues share one of completions."""
    other = Pair(2, BASE + 0x8000, io.completions, 8)
    shape = 7 << 16 | 2
    assert host.do(admin, Admin.CREATE_SQ, shape, 1 << 16 | 1, prp=(other.submissions, 0))[0] is OK
    for pair in io, other:
        for number in range(7):
            host.submit(pair, Io.FLUSH, namespace=NAMESPACE, ring=number == 6)
    assert host.nvme.completions[1].used == 7
    entries = 0
    for _ in range(14):
        entry = host.get(io.completions + 16 * io.head, 16)
        assert entry[14] & 1 == io.phase
        io.head = (io.head + 1) % io.size
        io.phase ^= not io.head
        host.write(head_doorbell(1), io.head)
        entries += 1
    assert entries == 14
    assert all(each.head == each.tail for each in host.nvme.submissions.values())


@pytest.mark.parametrize("number", range(1, IO_QUEUES + 1))
def test_each_pair_has_its_vector(host: Host, admin: Pair, number: int) -> None:
    pair = host.io_pair(admin, number)
    assert host.move(pair, Io.WRITE, 0, 1) is OK
    assert host.client.interrupts[-1] == (2, number)


def test_a_queue_without_interrupts(host: Host, admin: Pair) -> None:
    place = BASE + 0x8000
    assert host.do(admin, CQ, 7 << 16 | 1, 1, prp=(place, 0))[0] is OK
    assert host.do(admin, SQ, 7 << 16 | 1, 1 << 16 | 1, prp=(place + PAGE, 0))[0] is OK
    pair, before = Pair(1, place + PAGE, place, 8), len(host.client.interrupts)
    assert host.do(pair, Io.FLUSH, namespace=NAMESPACE)[0] is OK
    assert len(host.client.interrupts) == before


@pytest.mark.parametrize("which", ["submissions", "completions"])
def test_a_queue_that_memory_refuses_is_fatal(host: Host, admin: Pair, which: str) -> None:
    place = {"submissions": BASE + 0x8000, "completions": BASE + 0x9000} | {which: 1 << 40}
    assert host.do(admin, CQ, 7 << 16 | 1, 3, prp=(place["completions"], 0))[0] is OK
    assert host.do(admin, SQ, 7 << 16 | 1, 1 << 16 | 1, prp=(place["submissions"], 0))[0] is OK
    host.write(tail_doorbell(1), 1)
    assert host.csts == READY | FATAL
    host.submit(admin, Admin.IDENTIFY, 1)
    assert host.answers(admin) == [], "it does nothing more"
    host.write(Reg.CC, 0)
    host.put(BASE, bytes(SIZE))
    host.enable()


@settings(max_examples=300, deadline=None)
@given(
    writes=st.lists(
        st.tuples(
            st.sampled_from([*Reg, *DOORBELLS]),
            st.one_of(st.integers(0, 0xFFFF_FFFF), st.sampled_from([0, 1, 7, ENABLE, BASE])),
        ),
        max_size=24,
    ),
    memory=st.binary(max_size=1024),
)
def test_any_driver_is_answered(writes: list[tuple[int, int]], memory: bytes) -> None:
    host = Host()
    host.put(BASE, memory)
    admin = host.enable()
    host.io_pair(admin)
    host.put(BASE, memory)
    for register, value in writes:
        host.write(register, value)
    assert len(host.nvme.namespaces[1].data) == BLOCKS * BLOCK
    assert host.csts & ~0xF == 0
