# SPDX-License-Identifier: Apache-2.0
"""The controller: its life, its queues and its commands.

What a driver gets wrong ends as the specification says: a command with a status, a doorbell as an
asynchronous event, and a queue that memory refuses as CSTS.CFS.
"""

from __future__ import annotations

import io
import os
import struct
from collections import deque
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from dma_rehearsal.device.endpoints import DmaRefused, Endpoint, Identity, Running, Trace
from examples.nvme import layout, prp
from examples.nvme.layout import COMMAND, COMPLETION, Command, CommandFailed, Reg, Status, check
from examples.nvme.namespace import EVENT_REQUESTS, LOG_PAGES, Namespace, identify_controller

EVERY_NAMESPACE, DO_NOT_RETRY = 0xFFFF_FFFF, 1 << 14
BAD_DOORBELL, BAD_VALUE = 0x01_0000, 0x01_0100  # events (5.2): errors, of log page 1
# 5.21.1: features at reset. The sixth is the write cache, the seventh the number of queues.
FEATURES = {**dict.fromkeys((1, 2, 4, 5, 8, 9, 10, 11), 0), 6: 1, 7: (layout.QUEUES - 2) * 0x1_0001}
DEALLOCATE, RANGE = 1 << 2, struct.Struct("<4xIQ")  # 6.7: blocks, and the first of them
# Commands that complete with one interrupt; bytes to clear before other accesses have their turn.
BATCH, CLEARED = 16, 16 << 20


@dataclass(slots=True, eq=False)
class CompletionQueue:
    size: int
    address: int
    vector: int | None  # None: without interrupts
    head: int = 0
    tail: int = 0
    phase: int = 1
    waiting: deque[tuple[SubmissionQueue, int, Status, int]] = field(default_factory=deque)

    @property
    def used(self) -> int:
        return (self.tail - self.head) % self.size


@dataclass(slots=True, eq=False)
class SubmissionQueue:
    number: int
    size: int
    address: int
    completions: CompletionQueue
    head: int = 0
    tail: int = 0
    command: int | None = None  # the identifier of the one that is under way
    running: Running | None = None  # carries it out

    def cancel(self) -> None:
        if self.running is not None:
            self.running.cancel()
        self.command = self.running = None


class Nvme(Endpoint):
    """``places`` has the namespaces: bytes of memory, or paths of files, as NVME_FILES has."""

    name = "nvme"
    identity = Identity(0x1234, 0x4E56, 0x010802, 0x1234, 0x4E56, interrupt_pin=1)
    vectors = layout.QUEUES
    bars: ClassVar = {0: layout.BAR}
    places: ClassVar[Sequence[int | str]] = (16 << 20, 4 << 20)

    def __init__(self, trace: Trace | None = None) -> None:
        super().__init__(trace)
        files = os.environ.get("NVME_FILES")
        places = enumerate(files.split(",") if files else self.places, 1)
        self.namespaces = {number: Namespace(number, place) for number, place in places}
        self.control = self.registers(0)
        self.submissions: dict[int, SubmissionQueue] = {}  # by number; 0 is that of administration
        self.completions: dict[int, CompletionQueue] = {}
        self.on_reset()

    def on_reset(self, csts: int = 0) -> None:
        """Forget queues, commands and INTMS; no DMA and no interrupt comes after this."""
        for queue in self.submissions.values():
            queue.cancel()
        self.bus.cancel()
        self.submissions, self.completions = {}, {}
        self.features = dict(FEATURES)
        self.requests: deque[int] = deque()  # outstanding Asynchronous Event Requests
        self.events: deque[int] = deque()  # that software has not been told
        # Of an event, whose log page it has not read; bytes, since other accesses had their turn.
        self.told, self.cleared = False, 0
        self.control[Reg.CSTS] = csts
        self.write_intmc(0xFFFF_FFFF)

    def write_cc(self, value: int) -> None:
        """Enable, disable, shut down (7.3, 7.6)."""
        control = self.control
        enabled = control[Reg.CSTS] & (layout.READY | layout.FATAL)
        if enabled and not value & layout.ENABLE:
            self.on_reset()
        elif not enabled and value & layout.ENABLE:
            sizes = [(control[Reg.AQA] >> shift & 0xFFF) + 1 for shift in (0, 16)]
            if value & layout.SHAPE_MASK != layout.SHAPE or min(sizes) < 2:
                self.on_reset(layout.FATAL)
                return
            self.completions[0] = CompletionQueue(sizes[1], control[Reg.ACQ], vector=0)
            admin = SubmissionQueue(0, sizes[0], control[Reg.ASQ], self.completions[0])
            self.submissions[0] = admin
            control[Reg.CSTS] = layout.READY
        control[Reg.CSTS] &= ~layout.SHUTDOWN_COMPLETE
        control[Reg.CSTS] |= layout.SHUTDOWN_COMPLETE if value & layout.SHUTDOWN else 0

    # Interrupts that are not MSI-X's (3.1.3, 3.1.4, 7.5.1).

    def write_intms(self, _mask: int) -> None:
        """Mask vectors, one for each bit; `write_intmc` unmasks them."""
        for vector in range(layout.QUEUES):
            self.update_line(vector)

    def write_intmc(self, mask: int) -> None:
        self.control[Reg.INTMS] &= ~mask
        self.write_intms(0)

    def read_intmc(self) -> int:
        return self.control[Reg.INTMS]

    def update_line(self, vector: int | None, *, posted: bool = False) -> None:
        """Have a line be up while there are completions to take; tell of some just ``posted``.

        None: the vector of a queue without interrupts.
        """
        if vector is not None:
            line, masked = self.interrupts.line(vector), self.control[Reg.INTMS] >> vector & 1
            queues = [each for each in self.completions.values() if each.vector == vector]
            up = not masked and any(each.used for each in queues)
            if posted and up:
                line.send()
            else:
                line.level = up

    # Doorbells (3.1.25, 3.1.26), and the work that they ask for.

    def write_sqtdbl(self, number: int, tail: int) -> None:
        queue = self.submissions.get(number)
        if queue is None or tail >= queue.size:
            self.tell(BAD_DOORBELL if queue is None else BAD_VALUE)
        else:
            queue.tail = tail
            self.serve(queue)

    def write_cqhdbl(self, number: int, head: int) -> None:
        queue = self.completions.get(number)
        if queue is None or (queue.tail - head) % queue.size > queue.used or head >= queue.size:
            self.tell(BAD_DOORBELL if queue is None else BAD_VALUE)
            return
        queue.head = head
        self.update_line(queue.vector)
        for each in [*self.submissions.values()]:
            if each.completions is queue:
                self.serve(each)

    def tell(self, *events: int) -> None:
        """Tell software of events (5.2): one by one, as it asks for them."""
        if admin := self.submissions.get(0):
            self.events.extend(each for each in events if each not in self.events)
            if self.events and self.requests and not self.told:
                self.told = True
                self.end(admin, self.requests.popleft(), Status.SUCCESS, self.events.popleft())

    def end(self, queue: SubmissionQueue, command: int, status: Status, result: int = 0) -> None:
        queue.completions.waiting.append((queue, command, status, result))
        self.serve(queue)

    def serve(self, queue: SubmissionQueue) -> None:
        if queue.running is None or queue.running.done:
            queue.running = self.start(self._serve(queue))

    async def _serve(self, queue: SubmissionQueue) -> None:
        """Carry out commands while there are some, and room for their completions."""
        try:
            while self._post(queue.completions) and queue.head != queue.tail:
                for _ in range(min((queue.tail - queue.head) % queue.size, BATCH)):
                    await self._next(queue)
        except DmaRefused:  # memory refuses a queue (9.5)
            self.on_reset(layout.READY | layout.FATAL)

    async def _next(self, queue: SubmissionQueue) -> None:
        at = queue.address + COMMAND.size * queue.head
        command = Command(*COMMAND.unpack(await self.bus.reading(at, COMMAND.size)))
        queue.head, queue.command = (queue.head + 1) % queue.size, command.id
        status, result = await self._carry_out(queue.number, command)
        queue.command = None
        if status is not Status.OUTSTANDING:
            queue.completions.waiting.append((queue, command.id, status, result))

    async def _carry_out(self, queue: int, command: Command) -> tuple[Status, int]:
        try:
            check(command.opcode in (IO if queue else ADMIN), Status.INVALID_OPCODE)
            check(not command.flags, Status.INVALID_FIELD)  # neither fused nor by SGLs
            action = (IO if queue else ADMIN)[command.opcode]
            return Status.SUCCESS, await action(self, command) or 0
        except CommandFailed as failure:
            return failure.args[0], 0
        except DmaRefused:
            return Status.DATA_TRANSFER_ERROR, 0
        except OSError:  # of a file
            return Status.INTERNAL_ERROR, 0

    def _post(self, queue: CompletionQueue) -> bool:
        """Write the completions that there is room for; return whether these were all."""
        before = queue.tail
        while queue.waiting and queue.used < queue.size - 1:
            submissions, command, status, result = queue.waiting.popleft()
            final = status not in (Status.SUCCESS, Status.ABORT_REQUESTED)
            state = (status | DO_NOT_RETRY * final) << 1 | queue.phase
            entry = COMPLETION.pack(result, submissions.head, submissions.number, command, state)
            self.bus.write(queue.address + COMPLETION.size * queue.tail, entry)
            queue.tail = (queue.tail + 1) % queue.size
            queue.phase ^= queue.tail == 0
        if queue.tail != before:
            self.update_line(queue.vector, posted=True)
        return not queue.waiting

    # Administration (5).

    def _new(self, command: Command, queues: Container[int]) -> tuple[int, int, int]:
        """Return number, size and address of a new queue."""
        number, size = command.dw10 & 0xFFFF, (command.dw10 >> 16) + 1
        check(1 <= number < layout.QUEUES and number not in queues, Status.INVALID_QUEUE_IDENTIFIER)
        check(2 <= size <= layout.ENTRIES_MAX, Status.INVALID_QUEUE_SIZE)
        check(command.dw11 & 1, Status.INVALID_FIELD)  # contiguous
        check(command.prp1 % layout.PAGE == 0, Status.PRP_OFFSET_INVALID)
        return number, size, command.prp1

    async def create_cq(self, command: Command) -> None:
        number, size, address = self._new(command, self.completions)
        vector = command.dw11 >> 16 if command.dw11 & 2 else None
        check((vector or 0) < layout.QUEUES, Status.INVALID_INTERRUPT_VECTOR)
        self.completions[number] = CompletionQueue(size, address, vector)

    async def create_sq(self, command: Command) -> None:
        number, size, address = self._new(command, self.submissions)
        wanted = command.dw11 >> 16
        check(1 <= wanted < layout.QUEUES, Status.INVALID_QUEUE_IDENTIFIER)
        check(wanted in self.completions, Status.COMPLETION_QUEUE_INVALID)
        self.submissions[number] = SubmissionQueue(number, size, address, self.completions[wanted])

    async def delete_sq(self, command: Command) -> None:
        number = command.dw10 & 0xFFFF
        check(number and number in self.submissions, Status.INVALID_QUEUE_IDENTIFIER)
        self.submissions.pop(number).cancel()

    async def delete_cq(self, command: Command) -> None:
        number = command.dw10 & 0xFFFF
        check(number and number in self.completions, Status.INVALID_QUEUE_IDENTIFIER)
        used = [each.completions for each in self.submissions.values()]
        check(self.completions[number] not in used, Status.INVALID_QUEUE_DELETION)
        self.update_line(self.completions.pop(number).vector)

    async def identify(self, command: Command) -> None:
        structure, number = command.dw10 & 0xFF, command.namespace
        check(structure <= 3, Status.INVALID_FIELD)
        if structure == 1:
            data = identify_controller(self.identity.vendor_id, len(self.namespaces))
        elif structure == 2:
            check(number < EVERY_NAMESPACE - 1, Status.INVALID_NAMESPACE)
            above = [each for each in self.namespaces if each > number]
            data = struct.pack(f"<{len(above)}I", *above).ljust(layout.PAGE, b"\0")
        else:
            namespace = self._namespace(command)
            data = namespace.descriptors() if structure else namespace.identify()
        await self._to_host(command, data)

    async def get_log_page(self, command: Command) -> None:
        page, start = LOG_PAGES.get(command.dw10 & 0xFF, b""), command.dw12 | command.dw13 << 32
        length = 4 * ((command.dw10 >> 16 | (command.dw11 & 0xFFFF) << 16) + 1)
        check(page, Status.INVALID_LOG_PAGE)
        check(start % 4 == 0 and start <= len(page), Status.INVALID_FIELD)
        check(length <= layout.TRANSFER, Status.INVALID_FIELD)
        await self._to_host(command, page[start : start + length].ljust(length, b"\0"))
        if command.dw10 & 0x80FF == 1:  # errors, without Retain Asynchronous Event
            self.told = False
            self.tell()

    async def set_features(self, command: Command) -> int:
        number, value = command.dw10 & 0xFF, command.dw11
        check(not command.dw10 >> 31, Status.NOT_SAVEABLE)
        check(number in FEATURES, Status.INVALID_FIELD)
        if number == 7:  # more than it asks for may be granted
            check(0xFFFF not in (value & 0xFFFF, value >> 16), Status.INVALID_FIELD)
            return FEATURES[number]
        self.features[number] = value
        return 0

    async def get_features(self, command: Command) -> int:
        check(command.dw10 & 0x7FF in FEATURES, Status.INVALID_FIELD)  # Select is not in ONCS
        return self.features[command.dw10 & 0xFF]

    async def abort(self, command: Command) -> int:
        """End a command that is under way; return 1 where it is not."""
        queue, identifier = self.submissions.get(command.dw10 & 0xFFFF), command.dw10 >> 16
        if queue and queue.number == 0 and identifier in self.requests:
            self.requests.remove(identifier)
        elif queue and queue.number and identifier == queue.command:
            queue.cancel()
        else:
            return 1
        self.end(queue, identifier, Status.ABORT_REQUESTED)
        return 0

    async def request_event(self, command: Command) -> None:
        check(len(self.requests) < EVENT_REQUESTS, Status.EVENT_LIMIT_EXCEEDED)
        self.requests.append(command.id)
        self.tell()
        raise CommandFailed(Status.OUTSTANDING)

    # Blocks (6).

    def _namespace(self, command: Command) -> Namespace:
        check(command.namespace in self.namespaces, Status.INVALID_NAMESPACE)
        return self.namespaces[command.namespace]

    def _place(self, command: Command) -> slice:
        first, blocks = command.dw10 | command.dw11 << 32, (command.dw12 & 0xFFFF) + 1
        check(command.opcode == 8 or blocks * layout.BLOCK <= layout.TRANSFER, Status.INVALID_FIELD)
        return self._namespace(command).place(first, blocks)

    async def _clear(self, namespace: Namespace, place: slice) -> None:
        """Fill a place with zeroes."""
        namespace.data[place] = bytes(place.stop - place.start)
        self.cleared += place.stop - place.start
        if self.cleared >= CLEARED:
            self.cleared = 0
            await self.sleep(0)

    async def io_flush(self, command: Command) -> None:
        every = command.namespace == EVERY_NAMESPACE
        for each in self.namespaces.values() if every else [self._namespace(command)]:
            each.data.flush()

    async def io_write(self, command: Command) -> None:
        place = self._place(command)
        data = await self._from_host(command, place.stop - place.start)
        self._namespace(command).data[place] = data

    async def io_read(self, command: Command) -> None:
        place = self._place(command)
        await self._to_host(command, self._namespace(command).data[place])

    async def io_write_zeroes(self, command: Command) -> None:
        await self._clear(self._namespace(command), self._place(command))

    async def io_manage_blocks(self, command: Command) -> None:
        """Deallocate: such blocks read 0. Other hints are only hints."""
        namespace = self._namespace(command)
        data = await self._from_host(command, RANGE.size * ((command.dw10 & 0xFF) + 1))
        places = [namespace.place(first, blocks) for blocks, first in RANGE.iter_unpack(data)]
        size = sum(place.stop - place.start for place in places)
        check(size <= len(namespace.data), Status.INVALID_FIELD)  # bounds the work
        for place in places if command.dw11 & DEALLOCATE else ():
            await self._clear(namespace, place)

    async def _from_host(self, command: Command, length: int) -> bytes:
        ranges = await prp.ranges(self.bus.reading, command, length)
        return b"".join(await self.bus.reading_list(ranges))

    async def _to_host(self, command: Command, data: bytes) -> None:
        ranges, rest = await prp.ranges(self.bus.reading, command, len(data)), io.BytesIO(data)
        await self.bus.writing_list([(address, rest.read(length)) for address, length in ranges])


# Opcodes of the admin command set (5), and of the NVM command set (6).
# fmt: off
ADMIN = {0x00: Nvme.delete_sq, 0x01: Nvme.create_sq, 0x02: Nvme.get_log_page, 0x04: Nvme.delete_cq,
         0x05: Nvme.create_cq, 0x06: Nvme.identify, 0x08: Nvme.abort, 0x09: Nvme.set_features,
         0x0A: Nvme.get_features, 0x0C: Nvme.request_event}
IO = {0x00: Nvme.io_flush, 0x01: Nvme.io_write, 0x02: Nvme.io_read, 0x08: Nvme.io_write_zeroes,
      0x09: Nvme.io_manage_blocks}
