# SPDX-License-Identifier: Apache-2.0
"""Each row of docs/vfio-user.md against a live server: where its answers are decided."""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dma_rehearsal.device.vfio_user import messages as wire
from dma_rehearsal.device.vfio_user.messages import (
    HEADER_SIZE,
    MAX_DATA_XFER,
    MAX_MESSAGE,
    Command,
    DeviceState,
    DmaUnmapFlag,
    Feature,
    FeatureFlag,
    Flags,
    Header,
    Irq,
    SetIrqsFlag,
)
from tests.unit.vfio_user.client import RawClient, Refused
from tests.unit.vfio_user.endpoint import BUFFER, STATE, Prober, Reg
from tests.unit.vfio_user.serving import serving

PAGE = wire.PAGE_SIZE
TABLE = Path(__file__).parents[3] / "docs" / "vfio-user.md"
INFO = struct.pack("<IIII", 16, 0, 0, 0)
NONE, EVENTFD = SetIrqsFlag.DATA_NONE, SetIrqsFlag.DATA_EVENTFD
MASK, UNMASK, TRIGGER = (
    SetIrqsFlag.ACTION_MASK,
    SetIrqsFlag.ACTION_UNMASK,
    SetIrqsFlag.ACTION_TRIGGER,
)


def rows() -> list[list[str]]:
    """Return the cells of each row of the page's table."""
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


ROWS = rows()


@dataclass
class Bench:
    """A client that has not negotiated, and a descriptor of 1 MiB of memory."""

    client: RawClient
    memory: int

    def map(self, *pages: int) -> None:
        """Map single pages, each by its own message, where the file has them."""
        for page in pages:
            self.client.dma_map(page * PAGE, PAGE, self.memory, offset=page * PAGE)

    def start_log(self) -> None:
        """Start to log what the device writes."""
        data = wire.LoggingControl(PAGE, 0, 0).pack()
        self.client.feature(FeatureFlag.SET | Feature.DMA_LOGGING_START, data)

    def reply(self) -> Header:
        """Return the header of what comes, whatever it replies to. Refused for an error."""
        header = self.client.receive().header
        if header.flags & Flags.ERROR:
            raise Refused(header.error)
        return header

    def report(self, page: int, count: int) -> None:
        """Ask which pages were written."""
        data = wire.LoggingReport(page * PAGE, count * PAGE, PAGE).pack()
        self.client.feature(FeatureFlag.GET | Feature.DMA_LOGGING_REPORT, data)

    def propose(self, **capabilities: object) -> dict[str, object]:
        """Negotiate; return the capabilities of the reply."""
        text = json.dumps({"capabilities": capabilities}).encode() + b"\0"
        found: dict[str, object] = json.loads(self.client.version(text)[4:-1])["capabilities"]
        return found


Case = Callable[[Bench], str | None]
CASES: dict[str, Case] = {}


def case(name: str, *, negotiated: bool = True) -> Callable[[Case], Case]:
    """Play the row of that name; what is done returns None for 0, or raises what a client sees."""

    def register(play: Case) -> Case:
        def begin(bench: Bench) -> str | None:
            if negotiated:
                bench.client.version()
            return play(bench)

        CASES[name] = begin
        return play

    return register


@pytest.fixture
def bench(tmp_path: Path, prober: Prober, memory: int) -> Iterator[Bench]:
    with (
        serving(tmp_path / "prober", prober) as path,
        RawClient(path, negotiate=False) as client,
    ):
        yield Bench(client, memory)


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_the_answer_is_what_the_table_says(bench: Bench, row: list[str]) -> None:
    name, _specification, _elsewhere, here, _why = row
    try:
        outcome = CASES[name](bench) or "0"
    except Refused as refusal:
        outcome = errno.errorcode[refusal.errno]
        if not name.startswith("VERSION"):
            assert bench.client.call(Command.DEVICE_GET_INFO, INFO), "the connection goes on"
    except EOFError:
        outcome = "closed"
    assert outcome == here


def test_each_case_has_its_row_and_each_row_its_reason() -> None:
    assert [row[0] for row in ROWS] == list(CASES)
    assert all(len(row) == 5 and all(row) for row in ROWS)


@case("SET_IRQS: MASK of ERR")
def _mask_err(bench: Bench) -> None:
    bench.client.set_irqs(NONE | MASK, Irq.ERR, 0, 1)


@case("SET_IRQS: UNMASK of REQ")
def _unmask_req(bench: Bench) -> None:
    bench.client.set_irqs(NONE | UNMASK, Irq.REQ, 0, 1)


@case("SET_IRQS: MASK of an empty range")
def _mask_none(bench: Bench) -> None:
    bench.client.set_irqs(NONE | MASK, Irq.INTX, 0, 0)


@case("SET_IRQS: eventfds for an empty range")
def _no_eventfds(bench: Bench) -> None:
    bench.client.set_irqs(EVENTFD | TRIGGER, Irq.INTX, 0, 0)


@case("SET_IRQS: an index without interrupts goes off")
def _off_without(bench: Bench) -> None:
    bench.client.set_irqs(NONE | TRIGGER, Irq.INTX, 0, 0)  # one that has them does
    bench.client.set_irqs(NONE | TRIGGER, Irq.MSI, 0, 0)


@case("SET_IRQS: MASK by an eventfd")
def _mask_by_eventfd(bench: Bench) -> None:
    bench.client.set_irqs(EVENTFD | MASK, Irq.INTX, 0, 1, descriptors=[bench.memory])


@case("SET_IRQS: a descriptor that is not an eventfd")
def _no_eventfd(bench: Bench) -> None:
    bench.client.set_irqs(EVENTFD | TRIGGER, Irq.INTX, 0, 1, descriptors=[bench.memory])


@case("SET_IRQS: a flag that is not defined")
def _unknown_irq_flag(bench: Bench) -> None:
    bench.client.set_irqs(NONE | TRIGGER | 1 << 6, Irq.INTX, 0, 1)


@case("DMA_UNMAP: an address that is not mapped")
def _unmap_nothing(bench: Bench) -> None:
    bench.map(0)
    bench.client.dma_unmap(5 * PAGE, PAGE)


@case("DMA_UNMAP: two mappings at once")
def _unmap_two(bench: Bench) -> None:
    bench.map(0, 1)
    bench.client.dma_unmap(0, 2 * PAGE)
    bench.map(0, 1)


@case("DMA_UNMAP: a part of a mapping")
def _unmap_part(bench: Bench) -> None:
    bench.client.dma_map(0, 2 * PAGE, bench.memory)
    bench.client.dma_unmap(0, PAGE)


@case("DMA_UNMAP: argsz above 1 MiB")
def _unmap_with_room(bench: Bench) -> None:
    bench.map(0)
    payload = wire.DmaUnmap(MAX_DATA_XFER + 1, 0, 0, PAGE).pack()
    assert bench.client.call(Command.DMA_UNMAP, payload) == payload


@case("DMA_UNMAP: ALL with DIRTY")
def _unmap_all_dirty(bench: Bench) -> None:
    bench.client.dma_unmap(0, 0, DmaUnmapFlag.ALL | DmaUnmapFlag.GET_DIRTY_BITMAP)


@case("DMA_UNMAP: DIRTY")
def _unmap_dirty(bench: Bench) -> None:
    bench.map(0)
    bench.client.dma_unmap(0, PAGE, DmaUnmapFlag.GET_DIRTY_BITMAP)


@case("DMA_MAP: the same mapping again")
def _map_again(bench: Bench) -> None:
    bench.map(0, 0)


@case("DMA_MAP: over a part of a mapping")
def _map_over(bench: Bench) -> None:
    bench.map(1)
    bench.client.dma_map(0, 2 * PAGE, bench.memory)


@case("DMA_MAP: neither readable nor writable")
def _map_for_nothing(bench: Bench) -> None:
    bench.client.dma_map(0, PAGE, bench.memory, flags=0)


@case("DMA_MAP: the flags of libvfio-user's own")
def _map_by_mmap(bench: Bench) -> None:
    bench.client.dma_map(0, PAGE, bench.memory, flags=3 | 4)


@case("DMA_MAP: a part of a page")
def _map_less(bench: Bench) -> None:
    bench.client.dma_map(0, PAGE // 2, bench.memory)


@case("DMA_MAP: past the end of its file")
def _map_past_the_end(bench: Bench) -> None:
    size = os.fstat(bench.memory).st_size
    bench.client.dma_map(0, 2 * PAGE, bench.memory, offset=size - PAGE)


@case("DMA_MAP: two descriptors")
def _map_two_files(bench: Bench) -> None:
    request = wire.DmaMap(32, 3, 0, 0, PAGE).pack()
    bench.client.call(Command.DMA_MAP, request, descriptors=[bench.memory] * 2)


@case("DMA_MAP: bytes behind its fields")
def _long_map(bench: Bench) -> None:
    bench.client.call(Command.DMA_MAP, wire.DmaMap(32, 3, 0, 0, PAGE).pack() + bytes(8))


@case("DEVICE_GET_INFO: a descriptor")
def _info_with_descriptor(bench: Bench) -> None:
    bench.client.call(Command.DEVICE_GET_INFO, INFO, descriptors=[bench.memory])


@case("GET_REGION_IO_FDS: argsz above 1 MiB")
def _io_fds_with_room(bench: Bench) -> None:
    request = wire.REGION_IO_FDS.pack(MAX_DATA_XFER + 1, 0, BUFFER, 0)
    bench.client.call(Command.DEVICE_GET_REGION_IO_FDS, request)


@case("header: a size of 15 bytes")
def _short_header(bench: Bench) -> None:
    bench.client.send(Command.DEVICE_GET_INFO, size=HEADER_SIZE - 1)
    bench.reply()


@case("header: a size above the largest message")
def _long_header(bench: Bench) -> None:
    bench.client.send(Command.DEVICE_GET_INFO, size=MAX_MESSAGE + 1)
    bench.reply()


@case("header: 1 MiB announced and 33 bytes sent")
def _cut_message(bench: Bench) -> str:
    """The first answer is that to the whole message: nothing came before its end."""
    size = 1 << 20
    header = Header(7, Command.DEVICE_GET_REGION_INFO, size, Flags.COMMAND, 0).pack()
    payload = wire.REGION_INFO.pack(32, 0, BUFFER, 0, 0, 0).ljust(size - HEADER_SIZE, b"\0")
    bench.client.send_raw(header + payload[:17])
    bench.client.send_raw(payload[17:])
    return "waits" if bench.reply().message_id == 7 else "another reply"


@case("header: a reply to nothing")
def _reply_to_nothing(bench: Bench) -> None:
    bench.client.send(Command.DMA_READ, bytes(16), flags=Flags.REPLY)
    bench.reply()


@case("header: a command that is not known")
def _unknown_command(bench: Bench) -> None:
    bench.client.call(14, bytes(16))


@case("header: a flag that is not defined")
def _unknown_header_flag(bench: Bench) -> None:
    bench.client.call(Command.DEVICE_GET_INFO, INFO, flags=1 << 6)


@case("header: the reply of an error")
def _error(bench: Bench) -> str:
    flags = FeatureFlag.SET | Feature.MIG_DEVICE_STATE
    payload = wire.DeviceFeature(16, flags).pack() + wire.MigState(9, -1).pack()
    bench.client.send(Command.DEVICE_FEATURE, payload)
    reply = bench.client.receive()
    alone = reply.header.flags & Flags.ERROR and not reply.payload
    return "the header alone" if alone else f"{reply}"


@case("REGION_READ: 0 bytes")
def _read_nothing(bench: Bench) -> None:
    bench.client.call(Command.REGION_READ, wire.RegionAccess(0, BUFFER, 0).pack())


@case("VERSION: max_msg_fds of 1025", negotiated=False)
def _many_descriptors(bench: Bench) -> None:
    bench.propose(max_msg_fds=1025)


@case("VERSION: migration as text", negotiated=False)
def _migration_as_text(bench: Bench) -> None:
    bench.propose(migration="yes")


@case("VERSION: a migration pgsize of 4095", negotiated=False)
def _odd_page_size(bench: Bench) -> None:
    bench.propose(migration={"pgsize": 4095})


@case("VERSION: a migration pgsize of 8192", negotiated=False)
def _large_page_size(bench: Bench) -> None:
    bench.propose(migration={"pgsize": 8192})


@case("VERSION: pgsizes of 4095", negotiated=False)
def _small_page_sizes(bench: Bench) -> None:
    bench.propose(pgsizes=4095)


@case("VERSION: write_multiple as a number", negotiated=False)
def _number_for_boolean(bench: Bench) -> None:
    bench.propose(write_multiple=1)


@case("VERSION: a capability that is not proposed", negotiated=False)
def _not_proposed(bench: Bench) -> str:
    return "left out" if bench.propose(pgsizes=PAGE) == {"pgsizes": PAGE} else "told"


@case("VERSION: another major version", negotiated=False)
def _other_major(bench: Bench) -> None:
    try:
        bench.client.version(major=1)
    finally:
        bench.client.version()


@case("MIG_DATA_WRITE: above the client's own maximum", negotiated=False)
def _large_write(bench: Bench) -> None:
    bench.propose(max_data_xfer_size=STATE // 2)
    bench.client.set_state(DeviceState.RESUMING)
    bench.client.migration_write(bytes(STATE))


@case("MIG_DATA_WRITE: argsz without room for the data")
def _write_without_room(bench: Bench) -> None:
    bench.client.set_state(DeviceState.RESUMING)
    bench.client.call(Command.MIG_DATA_WRITE, wire.MigData(8, STATE).pack() + bytes(STATE))


@case("MIG_DATA_WRITE: more data than its size")
def _write_more(bench: Bench) -> None:
    bench.client.set_state(DeviceState.RESUMING)
    payload = wire.MigData(8 + STATE, STATE).pack() + bytes(STATE + 1)
    bench.client.call(Command.MIG_DATA_WRITE, payload)


@case("MIG_DATA_READ: above the client's own maximum", negotiated=False)
def _large_read(bench: Bench) -> None:
    bench.propose(max_data_xfer_size=STATE // 2)
    bench.client.set_state(DeviceState.STOP_COPY)
    bench.client.migration_read(STATE // 2)
    bench.client.migration_read(STATE // 2 + 1)


@case("MIG_DEVICE_STATE: RESUMING to STOP without data")
def _no_data(bench: Bench) -> None:
    bench.client.set_state(DeviceState.RESUMING)
    bench.client.set_state(DeviceState.STOP)


@case("DEVICE_GET_INFO: in STOP")
def _info_in_stop(bench: Bench) -> None:
    bench.client.set_state(DeviceState.STOP)
    bench.client.call(Command.DEVICE_GET_INFO, INFO)


@case("DMA_UNMAP: in STOP")
def _unmap_in_stop(bench: Bench) -> None:
    bench.map(0)
    bench.client.set_state(DeviceState.STOP)
    bench.client.dma_unmap(0, PAGE)


@case("DEVICE_RESET: in STOP_COPY")
def _reset_in_stop_copy(bench: Bench) -> None:
    bench.client.set_state(DeviceState.STOP_COPY)
    bench.client.call(Command.DEVICE_RESET)
    assert bench.client.state() == DeviceState.RUNNING


@case("REGION_READ: in STOP_COPY")
def _read_in_stop_copy(bench: Bench) -> None:
    bench.client.set_state(DeviceState.STOP_COPY)
    bench.client.region_read(BUFFER, Reg.BUSY, 4)


@case("REGION_WRITE: a register, in STOP")
def _write_in_stop(bench: Bench) -> str:
    bench.client.write32(BUFFER, Reg.CHAIN, 1)
    bench.client.set_state(DeviceState.STOP)
    bench.client.write32(BUFFER, Reg.CHAIN, 2)
    return "0, and is lost" if bench.client.read32(BUFFER, Reg.CHAIN) == 1 else "0"


@case("DMA_LOGGING_START: twice")
def _start_twice(bench: Bench) -> None:
    bench.start_log()
    bench.start_log()


@case("DMA_LOGGING_START: a page size of 3")
def _start_odd(bench: Bench) -> None:
    data = wire.LoggingControl(3, 0, 0).pack()
    bench.client.feature(FeatureFlag.SET | Feature.DMA_LOGGING_START, data)


@case("DMA_LOGGING_STOP: off already")
def _stop_twice(bench: Bench) -> None:
    bench.client.feature(FeatureFlag.SET | Feature.DMA_LOGGING_STOP)


@case("DMA_LOGGING_REPORT: a range that is not mapped")
def _report_unmapped(bench: Bench) -> None:
    bench.start_log()
    bench.report(7, 2)


@case("DMA_LOGGING_REPORT: a part of a mapping")
def _report_part(bench: Bench) -> None:
    bench.client.dma_map(0, 2 * PAGE, bench.memory)
    bench.start_log()
    bench.report(1, 1)


@case("DMA_LOGGING_REPORT: a page larger than the range")
def _report_by_large_pages(bench: Bench) -> None:
    bench.client.dma_map(0, 2 * PAGE, bench.memory)
    bench.start_log()
    data = wire.LoggingReport(0, 2 * PAGE, 1 << 20).pack()
    bench.client.feature(FeatureFlag.GET | Feature.DMA_LOGGING_REPORT, data)


@case("DEVICE_FEATURE: one that is not offered")
def _unknown_feature(bench: Bench) -> None:
    bench.client.feature(FeatureFlag.GET | 3)


@case("DEVICE_RESET: a payload")
def _reset_with_payload(bench: Bench) -> None:
    bench.client.call(Command.DEVICE_RESET, bytes(4))
