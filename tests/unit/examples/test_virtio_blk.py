# SPDX-License-Identifier: Apache-2.0
"""The virtio block device: registers, rings, interrupts, and drivers that break the rules."""

from __future__ import annotations

import ast
import struct
import tokenize
from collections.abc import Callable
from pathlib import Path

import pytest

from dma_rehearsal.device.pci.msix import ENABLE, MsiX
from dma_rehearsal.device.vfio_user.messages import Irq
from examples import virtio_blk
from examples.virtio_blk import blk_device
from examples.virtio_blk.blk_device import (
    BLOCK,
    BLOCKS,
    CAPABILITIES,
    CONFIG_CAUSE,
    FLUSH,
    IN,
    IOERR,
    NO_VECTOR,
    OK,
    OUT,
    QUEUE_CAUSE,
    QUEUE_SIZE,
    QUEUES,
    UNSUPP,
    Feature,
    Reg,
    Status,
)
from tests.unit.device.fakes import BASE
from tests.unit.examples.virtio_host import (
    DATA,
    HEADERS,
    INDIRECT,
    NEXT,
    OFFERED,
    STATUS_BYTE,
    TABLES,
    UNTOUCHED,
    WRITE,
    Host,
    Ring,
)

PLAIN = Feature.VERSION_1 | Feature.ACCESS_PLATFORM
OUT_OF_MEMORY = BASE + (1 << 30)
LINES_MAX = 300
_CODE = (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING)


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def ring(host: Host) -> Ring:
    return host.begin()


def pattern(length: int) -> bytes:
    return bytes(n * 7 % 251 for n in range(length))


# --- registers


def test_capabilities_say_where_the_parts_are(host: Host) -> None:
    found, at = [], host.disk.region_read(7, 0x34, 1)[0]
    while at:
        kind, following, size = host.disk.region_read(7, at, 3)
        if kind == 9:
            found.append(host.disk.region_read(7, at + 3, size - 3))
        at = following
    assert sorted(found) == sorted(CAPABILITIES)
    bar = struct.unpack("<I", host.disk.region_read(7, 0x10, 4))[0]
    assert bar & 0x7 == 4, "memory of 64 bits"


def test_features_are_read_by_halves(host: Host) -> None:
    halves = []
    for select in range(3):
        host.write(Reg.DEVICE_FEATURE_SELECT, select)
        halves.append(host.read(Reg.DEVICE_FEATURE))
    assert halves == [OFFERED & 0xFFFF_FFFF, OFFERED >> 32, 0]


@pytest.mark.parametrize(
    ("features", "agrees"),
    [
        (OFFERED, True),
        (PLAIN, True),
        (Feature.VERSION_1, False),
        (Feature.ACCESS_PLATFORM | Feature.FLUSH, False),
        (OFFERED | 1 << 40, False),
        (0, False),
    ],
)
def test_the_device_agrees_on_features_that_it_can_work_with(
    host: Host, features: int, agrees: bool
) -> None:
    assert host.agree(features) is agrees


def test_features_stay_once_they_are_agreed(host: Host) -> None:
    assert host.agree()
    host.write(Reg.DRIVER_FEATURE_SELECT, 1)
    host.write(Reg.DRIVER_FEATURE, 0)
    host.write(Reg.DEVICE_STATUS, host.status, 1)
    assert Status.FEATURES_OK in host.status


def test_registers_of_a_queue_are_those_of_the_selected_one(host: Host) -> None:
    host.agree()
    host.add_ring(1, 64)
    host.write(Reg.QUEUE_SELECT, 0, 2)
    assert host.read(Reg.QUEUE_SIZE, 2) == QUEUE_SIZE
    assert host.read(Reg.QUEUE_ENABLE, 2) == 0
    assert host.read(Reg.QUEUE_DESC, 8) == 0
    host.write(Reg.QUEUE_SELECT, 1, 2)
    assert host.read(Reg.QUEUE_SIZE, 2) == 64
    assert host.read(Reg.QUEUE_ENABLE, 2) == 1
    assert host.read(Reg.QUEUE_NOTIFY_OFF, 2) == 1
    assert host.read(Reg.QUEUE_DESC, 8) == Ring(1, 64).base
    host.write(Reg.QUEUE_SELECT, QUEUES, 2)
    assert host.read(Reg.QUEUE_SIZE, 2) == 0, "there is no such queue"
    host.write(Reg.QUEUE_ENABLE, 1, 2)
    assert host.read(Reg.QUEUE_ENABLE, 2) == 0


@pytest.mark.parametrize("size", [0, 3, 2 * QUEUE_SIZE])
def test_a_queue_of_a_wrong_size_is_not_enabled(host: Host, size: int) -> None:
    host.agree()
    host.add_ring(size=size)
    assert host.read(Reg.QUEUE_ENABLE, 2) == 0


def test_a_vector_that_does_not_exist_is_none(host: Host) -> None:
    for register in Reg.QUEUE_MSIX_VECTOR, Reg.CONFIG_MSIX_VECTOR:
        host.write(register, 2, 2)
        assert host.read(register, 2) == 2
        host.write(register, 3, 2)
        assert host.read(register, 2) == NO_VECTOR


def test_the_disk_is_described(host: Host) -> None:
    assert host.read(Reg.CAPACITY, 8) == BLOCKS
    assert host.read(Reg.CAPACITY) == BLOCKS
    assert host.read(Reg.CAPACITY + 4) == 0
    assert host.read(Reg.DISK_QUEUES, 2) == QUEUES


def test_reset_takes_all_back_but_the_blocks(host: Host, ring: Ring) -> None:
    host.put(DATA, pattern(BLOCK))
    host.request(ring, OUT, 1, [(DATA, BLOCK, 0)])
    host.write(Reg.DEVICE_STATUS, 0, 1)
    assert host.status == Status(0)
    assert host.read(Reg.QUEUE_SIZE, 2) == QUEUE_SIZE
    assert host.read(Reg.QUEUE_ENABLE, 2) == 0
    host.client.interrupts.clear()
    host.request(ring, IN, 1, [(DATA, BLOCK, WRITE)])
    assert host.answer == UNTOUCHED
    again = host.begin()
    host.put(DATA, bytes(BLOCK))
    host.request(again, IN, 1, [(DATA, BLOCK, WRITE)])
    assert host.get(DATA, BLOCK) == pattern(BLOCK)


# --- requests


@pytest.mark.parametrize("indirect", [False, True])
def test_blocks_read_as_they_were_written(host: Host, ring: Ring, indirect: bool) -> None:
    data = pattern(4 * BLOCK)
    host.put(DATA, data)
    parts = [(DATA, 3 * BLOCK - 8, 0), (DATA + 3 * BLOCK - 8, BLOCK + 8, 0)]
    head = host.request(ring, OUT, BLOCKS - 4, parts, indirect=indirect)
    assert host.answer == OK
    assert host.used(ring) == [(head, 1)]
    host.put(DATA, bytes(len(data)))
    parts = [(address, length, WRITE) for address, length, _ in parts]
    head = host.request(ring, IN, BLOCKS - 4, parts, indirect=indirect)
    assert host.used(ring) == [(head, len(data) + 1)]
    assert host.get(DATA, len(data)) == data


@pytest.mark.parametrize("segments", [QUEUE_SIZE - 2, QUEUE_SIZE - 1, QUEUE_SIZE])
def test_an_indirect_table_is_as_long_as_the_queue(host: Host, segments: int) -> None:
    ring = host.begin(size=QUEUE_SIZE)
    host.put(DATA, pattern(segments * BLOCK))
    parts = [(DATA + n * BLOCK, BLOCK, 0) for n in range(segments)]
    host.request(ring, OUT, 0, parts, indirect=True)
    fits = segments + 2 <= QUEUE_SIZE
    assert (Status.NEEDS_RESET in host.status) is not fits
    assert (host.disk.blocks[: segments * BLOCK] == pattern(segments * BLOCK)) is fits


def test_a_driver_frames_requests_as_it_likes(host: Host, ring: Ring) -> None:
    host.put(DATA, struct.pack("<IIQ", OUT, 0, 5) + pattern(BLOCK))
    host.offer(ring, [(DATA, 3, 0), (DATA + 3, 13 + BLOCK, 0), (STATUS_BYTE, 1, WRITE)])
    assert host.answer == OK
    host.put(HEADERS, struct.pack("<IIQ", IN, 0, 5))
    host.offer(ring, [(HEADERS, 16, 0), (DATA, BLOCK + 1, WRITE)])
    assert host.get(DATA, BLOCK + 1) == pattern(BLOCK) + bytes([OK])


def test_flush_and_an_unknown_request(host: Host, ring: Ring) -> None:
    host.request(ring, FLUSH)
    assert host.answer == OK
    host.request(ring, 77)
    assert host.answer == UNSUPP
    assert len(host.used(ring)) == 2


@pytest.mark.parametrize(
    ("sector", "length"),
    [
        (BLOCKS, BLOCK),
        (BLOCKS - 1, 2 * BLOCK),
        (0, BLOCK - 1),
        (1 << 60, BLOCK),
        (0, BLOCKS * BLOCK + BLOCK),
    ],
)
def test_an_io_error_is_the_requests(host: Host, ring: Ring, sector: int, length: int) -> None:
    for kind, flags in (IN, WRITE), (OUT, 0):
        host.request(ring, kind, sector, [(DATA, length, flags)])
        assert host.answer == IOERR
    assert Status.NEEDS_RESET not in host.status


def test_data_that_memory_refuses_is_an_io_error(host: Host, ring: Ring) -> None:
    for kind, flags in (IN, WRITE), (OUT, 0):
        head = host.request(ring, kind, 0, [(OUT_OF_MEMORY, BLOCK, flags)])
        assert host.answer == IOERR
        assert host.used(ring) == [(head, int(kind == OUT))]
    host.request(ring, FLUSH)
    assert host.answer == OK


def test_the_indexes_wrap(host: Host, ring: Ring) -> None:
    ring.available = ring.seen = 0xFFFE
    queue = host.disk._queues[0]
    queue.taken = queue.used = queue.told = 0xFFFE
    for _ in range(4):
        host.client.interrupts.clear()
        host.put(ring.driver + 4 + 2 * ring.size, struct.pack("<H", ring.available & 0xFFFF))
        head = host.request(ring, FLUSH)
        assert host.used(ring) == [(head, 1)]
        assert host.client.interrupts == [(Irq.MSIX, 1)]
    assert queue.used == 2


def test_two_queues_work_side_by_side(host: Host, ring: Ring) -> None:
    other = host.add_ring(1, 16)
    host.request(other, FLUSH)
    assert host.client.interrupts == [(Irq.MSIX, 2)]
    host.request(ring, FLUSH)
    assert host.client.interrupts == [(Irq.MSIX, 2), (Irq.MSIX, 1)]


def test_a_driver_that_goes_on_adding_waits_its_turn(host: Host, ring: Ring) -> None:
    posted: list[Callable[[], None]] = []
    host.disk.post = posted.append  # type: ignore[assignment,method-assign]
    carry_out = host.disk._carry_out

    def added_meanwhile(chain: object) -> int:
        host.publish(ring, 0)
        return carry_out(chain)  # type: ignore[arg-type]

    host.disk._carry_out = added_meanwhile  # type: ignore[method-assign]
    host.request(ring, FLUSH)
    assert len(host.used(ring)) == 1
    host.notify(ring)
    assert len(host.used(ring)) == 0, "what is posted does it"
    (action,) = posted
    action()
    assert len(host.used(ring)) == 1
    assert len(posted) == 2


def test_large_requests_leave_others_a_turn(
    host: Host, ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blk_device, "TURN_BYTES", 2 * BLOCK)
    posted: list[Callable[[], None]] = []
    host.disk.post = posted.append  # type: ignore[assignment,method-assign]
    for _ in range(2):
        host.request(ring, IN, data=[(DATA, 2 * BLOCK, WRITE)], ring_bell=False)
    host.notify(ring)
    assert len(host.used(ring)) == 1
    (action,) = posted
    action()
    assert len(host.used(ring)) == 1
    assert len(posted) == 1


def test_what_was_posted_before_a_reset_leaves_the_new_ring_whole(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blk_device, "TURN_BYTES", 1)
    posted: list[Callable[[], None]] = []
    host.disk.post = posted.append  # type: ignore[assignment,method-assign]
    old = host.begin()
    for _ in range(2):
        host.request(old, FLUSH, ring_bell=False)
    host.notify(old)
    new = host.begin()
    (action,) = posted
    action()
    assert host.used(new) == []
    assert Status.NEEDS_RESET not in host.status
    host.request(new, FLUSH)
    assert len(host.used(new)) == 1


def test_queues_that_are_not_there_are_not_kept(host: Host, ring: Ring) -> None:
    for number in (2, 3, 0xFFFF):
        host.write(Reg.QUEUE_SELECT, number, 2)
        host.write(Reg.QUEUE_SIZE, 8, 2)
        host.write(Reg.QUEUE_ENABLE, 1, 2)
        assert host.read(Reg.QUEUE_ENABLE, 2) == 0
    assert host.disk._queues.keys() == {ring.number}


def test_only_a_reset_ends_the_need_of_one(host: Host, ring: Ring) -> None:
    host.write(Reg.DEVICE_STATUS, host.status | Status.NEEDS_RESET, 1)
    assert Status.NEEDS_RESET not in host.status, "it is the device's to say"
    index_that_goes_back(host, ring)
    host.notify(ring)
    assert Status.NEEDS_RESET in host.status
    host.write(Reg.DEVICE_STATUS, host.status & ~Status.NEEDS_RESET, 1)
    assert Status.NEEDS_RESET in host.status
    host.write(Reg.DEVICE_STATUS, 0, 1)
    assert host.status == 0


@pytest.mark.parametrize("size", [BLOCK, 0xFFFF_FFFF])
def test_a_request_that_reads_nothing_says_so(host: Host, ring: Ring, size: int) -> None:
    """A part that only IN would write is left alone, however large."""
    head = host.request(ring, FLUSH, data=[(DATA, size, WRITE)])
    assert host.answer == OK
    assert host.used(ring) == [(head, 0)]


# --- interrupts


def event(host: Host, ring: Ring, at: int) -> None:
    host.put(ring.driver + 4 + 2 * ring.size, struct.pack("<H", at))


def test_an_interrupt_goes_when_the_index_passes_the_event(host: Host, ring: Ring) -> None:
    event(host, ring, 2)
    for _ in range(2):
        host.request(ring, FLUSH)
    assert host.client.interrupts == []
    host.request(ring, FLUSH)
    assert host.client.interrupts == [(Irq.MSIX, 1)]
    assert host.word(ring.device + 4 + 8 * ring.size) == 3, "the driver shall tell of the next"


def test_several_in_one_turn_pass_the_event_once(host: Host, ring: Ring) -> None:
    event(host, ring, 1)
    for last in (False, False, True):
        host.request(ring, FLUSH, ring_bell=last)
    assert host.client.interrupts == [(Irq.MSIX, 1)]


def test_without_event_indexes_a_flag_turns_interrupts_off(host: Host) -> None:
    ring = host.begin(PLAIN)
    host.put(ring.driver, struct.pack("<H", 1))
    host.request(ring, FLUSH)
    assert host.client.interrupts == []
    host.put(ring.driver, struct.pack("<H", 0))
    host.request(ring, FLUSH)
    host.notify(ring)  # with nothing to do
    assert host.client.interrupts == [(Irq.MSIX, 1)]
    assert host.word(ring.device + 4 + 8 * ring.size) == 0, "not the device's without EVENT_IDX"


def test_a_queue_without_a_vector_is_silent(host: Host) -> None:
    assert host.agree()
    ring = host.add_ring(vector=NO_VECTOR)
    host.write(Reg.DEVICE_STATUS, host.status | Status.DRIVER_OK, 1)
    host.request(ring, FLUSH)
    assert host.client.interrupts == []
    assert host.used(ring) == [(0, 1)]


def test_without_messages_the_line_is_up_until_its_cause_is_read() -> None:
    host = Host(messages=False)
    ring = host.begin()
    host.request(ring, FLUSH)
    assert host.disk.interrupts.intx.level
    assert host.read(Reg.ISR_STATUS, 1) == QUEUE_CAUSE
    assert not host.disk.interrupts.intx.level
    assert host.read(Reg.ISR_STATUS, 1) == 0
    host.publish(ring, 99)
    host.notify(ring)
    assert host.read(Reg.ISR_STATUS, 1) == CONFIG_CAUSE
    host.request(host.begin(), FLUSH)
    host.write(Reg.DEVICE_STATUS, 0, 1)
    assert not host.disk.interrupts.intx.level


def test_messages_leave_the_cause_alone(host: Host, ring: Ring) -> None:
    host.request(ring, FLUSH)
    assert host.read(Reg.ISR_STATUS, 1) == 0
    at = host.disk.config.start_of(MsiX)
    assert at is not None
    host.disk.region_write(7, at + 2, struct.pack("<H", ENABLE))


# --- hostile rings


def loop_of_descriptors(host: Host, ring: Ring) -> None:
    host.describe(ring.base, 0, HEADERS, 16, NEXT, 1)
    host.describe(ring.base, 1, HEADERS, 16, NEXT, 0)
    host.publish(ring, 0)


def loop_to_itself(host: Host, ring: Ring) -> None:
    host.describe(ring.base, 0, HEADERS, 16, NEXT, 0)
    host.publish(ring, 0)


def right_request(host: Host, table: int, index: int) -> None:
    """Describe a request that a device would carry out, if it looked there."""
    host.describe(table, index, HEADERS, 16, NEXT, index + 1)
    host.describe(table, index + 1, STATUS_BYTE, 1, WRITE, 0)


def head_outside(host: Host, ring: Ring) -> None:
    right_request(host, ring.base, ring.size)
    host.publish(ring, ring.size)


def next_outside(host: Host, ring: Ring) -> None:
    right_request(host, ring.base, ring.size)
    host.describe(ring.base, 0, HEADERS, 16, NEXT, ring.size + 1)
    host.publish(ring, 0)


def far_outside(host: Host, ring: Ring) -> None:
    host.describe(ring.base, 0, HEADERS, 16, NEXT, 0xFFFF)
    host.publish(ring, 0)


def more_than_the_queue(host: Host, ring: Ring) -> None:
    right_request(host, ring.base, 0)
    host.put(ring.driver + 2, struct.pack("<H", ring.size + 1))


def index_that_goes_back(host: Host, ring: Ring) -> None:
    host.put(ring.driver + 2, struct.pack("<H", 0xFFFF))


def written_before_read(host: Host, ring: Ring) -> None:
    host.offer(ring, [(STATUS_BYTE, 1, WRITE), (HEADERS, 16, 0)], ring_bell=False)


def no_status(host: Host, ring: Ring) -> None:
    host.offer(ring, [(HEADERS, 16, 0)], ring_bell=False)


def empty_status(host: Host, ring: Ring) -> None:
    host.offer(ring, [(HEADERS, 16, 0), (STATUS_BYTE, 0, WRITE)], ring_bell=False)


def short_header(host: Host, ring: Ring) -> None:
    host.offer(ring, [(HEADERS, 15, 0), (STATUS_BYTE, 1, WRITE)], ring_bell=False)


def table_in_a_table(host: Host, ring: Ring) -> None:
    right_request(host, TABLES + 0x100, 0)
    host.offer(ring, [(TABLES + 0x100, 32, INDIRECT)], indirect=True, ring_bell=False)


def table_in_the_middle(host: Host, ring: Ring) -> None:
    host.describe(ring.base, 0, TABLES, 32, INDIRECT | NEXT, 1)
    host.publish(ring, 0)


def table_with_a_rest(host: Host, ring: Ring) -> None:
    host.describe(ring.base, 0, TABLES, 40, INDIRECT, 0)
    host.publish(ring, 0)


def empty_table(host: Host, ring: Ring) -> None:
    host.describe(ring.base, 0, TABLES, 0, INDIRECT, 0)
    host.publish(ring, 0)


def loop_in_a_table(host: Host, ring: Ring) -> None:
    host.describe(TABLES, 0, HEADERS, 16, NEXT, 0)
    host.describe(ring.base, 0, TABLES, 0xFFFF_FFF0, INDIRECT, 0)
    host.publish(ring, 0)


def table_outside(host: Host, ring: Ring) -> None:
    host.describe(ring.base, 0, OUT_OF_MEMORY, 16, INDIRECT, 0)
    host.publish(ring, 0)


def header_outside(host: Host, ring: Ring) -> None:
    host.offer(ring, [(OUT_OF_MEMORY, 16, 0), (STATUS_BYTE, 1, WRITE)], ring_bell=False)


def status_outside(host: Host, ring: Ring) -> None:
    host.offer(ring, [(HEADERS, 16, 0), (OUT_OF_MEMORY, 1, WRITE)], ring_bell=False)


@pytest.mark.parametrize(
    "mistake",
    [
        *(loop_of_descriptors, loop_to_itself, head_outside, next_outside, far_outside),
        more_than_the_queue,
        *(index_that_goes_back, written_before_read, no_status, empty_status, short_header),
        *(table_in_a_table, table_in_the_middle, table_with_a_rest, empty_table, loop_in_a_table),
        *(table_outside, header_outside, status_outside),
    ],
)
def test_a_ring_that_breaks_a_rule_stops_the_device(
    host: Host, ring: Ring, mistake: Callable[[Host, Ring], None]
) -> None:
    host.put(HEADERS, struct.pack("<IIQ", FLUSH, 0, 0))
    mistake(host, ring)
    host.notify(ring)
    assert Status.NEEDS_RESET in host.status
    assert host.client.interrupts == [(Irq.MSIX, 0)], "of the configuration"
    host.notify(ring)
    assert len(host.client.interrupts) == 1
    again = host.begin()
    host.request(again, FLUSH)
    assert host.answer == OK


def test_an_indirect_table_without_the_feature(host: Host) -> None:
    ring = host.begin(PLAIN)
    host.request(ring, FLUSH, indirect=True)
    assert Status.NEEDS_RESET in host.status


def test_a_queue_that_is_not_there_does_nothing(host: Host, ring: Ring) -> None:
    host.notify(Ring(1, 8))
    assert host.client.interrupts == []
    host.write(Reg.DEVICE_STATUS, host.status & ~Status.DRIVER_OK, 1)
    host.request(ring, FLUSH)
    assert host.answer == UNTOUCHED, "not before DRIVER_OK"


def test_it_is_short() -> None:
    """Blank lines, comments and docstrings do not count."""
    folder = Path(virtio_blk.__file__).parent
    lines = sum(len(_code_lines(path)) for path in folder.glob("*.py"))
    assert lines <= LINES_MAX


def _code_lines(path: Path) -> set[int]:
    found: set[int] = set()
    docstrings = {
        node.body[0].lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
    }
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type in _CODE and token.start[0] not in docstrings:
                found |= set(range(token.start[0], token.end[0] + 1))
    return found
