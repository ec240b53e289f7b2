# SPDX-License-Identifier: Apache-2.0
"""The message stream against a naive model: whatever order, each answer is what the model says."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dma_rehearsal.device.vfio_user import messages as wire
from dma_rehearsal.device.vfio_user.connection import Connection
from dma_rehearsal.device.vfio_user.framing import Framer
from dma_rehearsal.device.vfio_user.messages import (
    Command,
    DeviceState,
    Feature,
    FeatureFlag,
    Flags,
    Header,
)
from dma_rehearsal.device.vfio_user.migration import path
from tests.fuzz.targets import ENDPOINT, framed
from tests.generated import examples
from tests.unit.vfio_user.endpoint import BUFFER, STATE, Prober, Reg

PAGE = 4096
PAGES = 6
PATTERN = bytes(range(256)) * 64
pages = st.integers(0, PAGES)


class Stream(RuleBasedStateMachine):
    """One client's life. Memory is a file of PAGES pages, mapped page to page."""

    def __init__(self) -> None:
        super().__init__()
        logging.disable(logging.CRITICAL)
        self.device: Prober = ENDPOINT
        self.device.as_new()
        self.connection, self.framer = Connection(self.device), Framer()
        self.file = os.memfd_create("stream", os.MFD_ALLOW_SEALING)
        os.ftruncate(self.file, PAGES * PAGE)
        self.memory = bytearray(PAGES * PAGE)
        self.ready = False
        self.mapped: dict[int, tuple[int, bool]] = {}  # first page -> pages, writable
        self.dirty: set[int] | None = None
        self.state = DeviceState.RUNNING
        self.received = 0

    def teardown(self) -> None:
        self.connection.close()
        self.framer.close()
        os.close(self.file)
        logging.disable(logging.NOTSET)

    def call(
        self, command: int, payload: bytes = b"", *, flags: int = 0, descriptor: bool = False
    ) -> tuple[int, bytes]:
        """Return the errno and the payload of the reply; EINVAL before VERSION is checked here."""
        descriptors = [os.dup(self.file)] if descriptor else []
        for message in self.framer.feed(framed(5, command, payload, flags), descriptors):
            self.connection.handle(message)
        if flags & Flags.NO_REPLY:
            return 0, b""
        reply = self.connection.outbox.popleft().data
        header = Header.unpack(reply)
        assert (header.message_id, header.command, header.size) == (5, command, len(reply))
        return header.error, reply[16:]

    def expect(self, answer: tuple[int, bytes], code: int, payload: bytes | None = None) -> None:
        if not self.ready:
            assert answer == (errno.EINVAL, b""), "a command before VERSION"
            return
        assert answer[0] == code
        if payload is not None and not code:
            assert answer[1] == payload

    def covered(self, address: int, length: int, *, write: bool) -> bool:
        found = {
            page: writable
            for first, (count, writable) in self.mapped.items()
            for page in range(first, first + count)
        }
        wanted = range(address // PAGE, (address + length - 1) // PAGE + 1)
        return all(found.get(page, False) or (page in found and not write) for page in wanted)

    @initialize(
        at_once=st.sampled_from([True, True, True, False]),
        writable=st.booleans(),
        sealed=st.booleans(),
    )
    def begin(self, at_once: bool, writable: bool, sealed: bool) -> None:
        if sealed:  # it is mapped then; otherwise the kernel copies its bytes
            fcntl.fcntl(self.file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        if at_once:
            self.version()
            self.map(0, PAGES // 2, writable)
            self.map(PAGES // 2, PAGES // 2 - 1, not writable)

    @rule()
    def version(self) -> None:
        code, _ = self.call(Command.VERSION, bytes(4))
        assert code == (errno.EINVAL if self.ready else 0)
        self.ready = True

    @rule(first=pages, count=st.integers(0, 3), writable=st.booleans())
    def map(self, first: int, count: int, writable: bool) -> None:
        request = wire.DmaMap(32, 3 if writable else 1, first * PAGE, first * PAGE, count * PAGE)
        overlaps = any(a < first + count and first < a + n for a, (n, _) in self.mapped.items())
        bad = count == 0 or (first + count > PAGES and not overlaps)
        code = errno.EINVAL if bad else errno.EEXIST if overlaps else 0
        self.expect(self.call(Command.DMA_MAP, request.pack(), descriptor=True), code, b"")
        if self.ready and not code:
            self.mapped[first] = (count, writable)

    @rule(first=pages, count=st.integers(0, 2))
    def unmap(self, first: int, count: int) -> None:
        end = first + count
        touched = {a: n for a, (n, _) in self.mapped.items() if a < end and first < a + n}
        bad = count == 0 or any(a < first or a + n > end for a, n in touched.items())
        payload = wire.DmaUnmap(24, 0, first * PAGE, count * PAGE).pack()
        answer = self.call(Command.DMA_UNMAP, payload)
        self.expect(answer, errno.EINVAL if bad else 0, payload)
        if self.ready and not bad:
            for each in touched:
                del self.mapped[each]

    @rule(
        address=st.integers(0, PAGES * PAGE),
        length=st.one_of(st.integers(1, 64), st.integers(1, 2 * PAGE)),
        write=st.booleans(),
        posted=st.booleans(),
    )
    def dma(self, address: int, length: int, write: bool, posted: bool) -> None:
        self.device.address, self.device.outcome = address, None
        access = struct.pack("<QIII", Reg.GO, BUFFER, 4, length | write << 31)
        flags = Flags.NO_REPLY if posted else 0
        answer = self.call(Command.REGION_WRITE, access, flags=flags)
        if not posted:
            self.expect(answer, 0, access[:16])
        if not self.ready:
            assert self.device.outcome is None
            return
        runs = self.state in (DeviceState.RUNNING, DeviceState.PRE_COPY)
        reached = runs and self.covered(address, length, write=write)
        assert self.device.moved == reached
        if reached and write:
            self.memory[address : address + length] = PATTERN[:length]
            if self.dirty is not None:
                self.dirty |= set(range(address // PAGE, (address + length - 1) // PAGE + 1))
        elif reached:
            assert self.device.outcome == self.memory[address : address + length]

    @precondition(lambda self: self.ready)
    @rule(address=st.integers(0, (PAGES - 1) * PAGE), write=st.booleans())
    def dma_with_the_log_on(self, address: int, write: bool) -> None:
        if self.dirty is None:
            self.start_log(PAGE)
        self.dma(address, 100, write, posted=False)
        self.report(address // PAGE, 2)

    @rule(value=st.integers(0, 0xFFFF_FFFF), region=st.sampled_from([3, 8, 9, 1 << 31]))
    def access_outside(self, value: int, region: int) -> None:
        access = struct.pack("<QII", value, region, 4)
        self.expect(self.call(Command.REGION_READ, access), errno.EINVAL)

    @rule(page_size=st.sampled_from([PAGE, 1 << 20, PAGE, 0, 3]))
    def start_log(self, page_size: int) -> None:
        flags = FeatureFlag.SET | Feature.DMA_LOGGING_START
        data = wire.LoggingControl(page_size, 0, 0).pack()
        bad = self.dirty is not None or page_size in (0, 3)
        answer = self.call(Command.DEVICE_FEATURE, wire.DeviceFeature(64, flags).pack() + data)
        self.expect(answer, errno.EINVAL if bad else 0)
        if self.ready and not bad:
            self.dirty = set()

    @rule()
    def stop_log(self) -> None:
        flags = FeatureFlag.SET | Feature.DMA_LOGGING_STOP
        answer = self.call(Command.DEVICE_FEATURE, wire.DeviceFeature(64, flags).pack())
        self.expect(answer, 0)
        if self.ready:
            self.dirty = None

    @rule(first=pages, count=st.integers(0, PAGES))
    def report(self, first: int, count: int) -> None:
        flags = FeatureFlag.GET | Feature.DMA_LOGGING_REPORT
        data = wire.LoggingReport(first * PAGE, count * PAGE, PAGE).pack()
        request = wire.DeviceFeature(64, flags).pack() + data
        code, answer = self.call(Command.DEVICE_FEATURE, request)
        bad = self.dirty is None or count == 0
        self.expect((code, answer), errno.EINVAL if bad else 0)
        if self.ready and not bad and self.dirty is not None:
            found = {first + i for i in range(64) if answer[32 + i // 8] >> i % 8 & 1}
            wanted = {page for page in self.dirty if first <= page < first + count}
            assert found == wanted
            self.dirty -= wanted

    @rule(state=st.integers(0, 8))
    def set_state(self, state: int) -> None:
        flags = FeatureFlag.SET | Feature.MIG_DEVICE_STATE
        request = wire.DeviceFeature(16, flags).pack() + wire.MigState(state, -1).pack()
        way = path(self.state, DeviceState(state)) if state < 8 else None
        loads = way and self.state is DeviceState.RESUMING
        bad = way is None or (loads and self.received < STATE)
        answer = self.call(Command.DEVICE_FEATURE, request)
        self.expect(answer, errno.EINVAL if bad else 0, request)
        if self.ready and not bad:
            if way:
                self.received = 0
            self.state = DeviceState(state)

    @rule(size=st.integers(0, STATE))
    def migration_write(self, size: int) -> None:
        payload = wire.MigData(8, size).pack() + bytes(size)
        answer = self.call(Command.MIG_DATA_WRITE, payload)
        bad = self.state is not DeviceState.RESUMING
        self.expect(answer, errno.EINVAL if bad else 0, b"")
        if self.ready and not bad:
            self.received += size

    @rule()
    def reset(self) -> None:
        self.expect(self.call(Command.DEVICE_RESET), 0, b"")
        if self.ready:
            self.state, self.received = DeviceState.RUNNING, 0

    @rule(command=st.integers(19, 0xFFFF))
    def unknown(self, command: int) -> None:
        self.expect(self.call(command), errno.ENOTSUP)

    @precondition(lambda self: self.ready)
    @invariant()
    def memory_and_map_agree(self) -> None:
        assert os.pread(self.file, PAGES * PAGE, 0) == self.memory
        ranges = [(first * PAGE, count * PAGE) for first, (count, _) in self.mapped.items()]
        assert list(self.connection.ranges()) == sorted(ranges)

    @invariant()
    def nothing_piles_up(self) -> None:
        assert not self.connection.outbox


TestStream = Stream.TestCase
TestStream.settings = settings(
    max_examples=examples(120),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
