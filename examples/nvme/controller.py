# SPDX-License-Identifier: Apache-2.0
"""The controller: its registers, its life, and the work that doorbells ask for.

    make test-vm DRIVER=nvme ENDPOINT=examples.nvme:Nvme TESTS=examples/nvme/guest_tests

A doorbell's commands are carried out at once, in order, and complete in that order. What a driver
gets wrong ends as the specification says: a command with a status, a doorbell as an asynchronous
event, and a queue that memory refuses as CSTS.CFS. One doorbell does at most what its queue holds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import ClassVar

from dma_rehearsal.device.endpoints import (
    Access,
    Bars,
    DmaRefused,
    Endpoint,
    Identity,
    Register,
    RegisterBar,
    Trace,
)
from examples.nvme.admin_commands import AdminCommands, Outstanding
from examples.nvme.io_commands import IoCommands
from examples.nvme.layout import (
    BAR_SIZE,
    CAP_HI,
    CAP_LO,
    IO_QUEUES,
    PAGE,
    QUEUE_ENTRIES_MAX,
    VECTORS,
    VERSION,
    CommandFailed,
    Configuration,
    Csts,
    Doorbell,
    Reg,
    Status,
)
from examples.nvme.namespace import Blocks
from examples.nvme.queues import CompletionQueue, Queues, SubmissionQueue
from examples.nvme.transfer import Transfer

BLOCKS = 32768  # 16 MiB
VENDOR, DEVICE = 0x1234, 0x4E56
# 5.2: the type Error status, and the two of its events that a doorbell can cause; log page 1.
_INVALID_REGISTER, _INVALID_VALUE = 0x01_0000, 0x01_0100
_ENTRY_SIZES = 6, 4  # powers of two


class Nvme(Endpoint):
    """One controller with one namespace of 16 MiB and four pairs of I/O queues."""

    name = "nvme"
    identity = Identity(VENDOR, DEVICE, 0x010802, VENDOR, DEVICE)
    vectors = VECTORS
    bars: ClassVar[Bars] = {
        0: RegisterBar(
            (
                Register(Reg.CAP_LO, reset=CAP_LO),
                Register(Reg.CAP_HI, reset=CAP_HI),
                Register(Reg.VS, reset=VERSION),
                # With MSI-X, software does not use these two (3.1.3).
                Register(Reg.INTMS, Access.WO),
                Register(Reg.INTMC, Access.WO),
                Register(Reg.CC, Access.RW, mask=0x00FF_FFF1),
                Register(Reg.CSTS),
                Register(Reg.AQA, Access.RW, mask=0x0FFF_0FFF),
                Register(Reg.ASQ_LO, Access.RW, mask=-PAGE & 0xFFFF_FFFF),
                Register(Reg.ASQ_HI, Access.RW),
                Register(Reg.ACQ_LO, Access.RW, mask=-PAGE & 0xFFFF_FFFF),
                Register(Reg.ACQ_HI, Access.RW),
            ),
            BAR_SIZE,
        )
    }

    def __init__(self, trace: Trace | None = None) -> None:
        super().__init__(trace)
        self.blocks = Blocks(BLOCKS)
        self.control = self.registers(0)
        self.queues = Queues()
        transfer = Transfer(self.bus)
        self._admin = AdminCommands(self.queues, transfer, vendor=VENDOR, blocks=BLOCKS)
        self._io = IoCommands(self.blocks, transfer)
        for number in range(1 + IO_QUEUES):
            tail, head = Doorbell[f"SQ{number}TDBL"], Doorbell[f"CQ{number}HDBL"]
            self.control.add(
                (
                    Register(tail, Access.WO, write=partial(self._ring_tail, number)),
                    Register(head, Access.WO, write=partial(self._ring_head, number)),
                ),
                None,
            )

    # Its life.

    def on_reset(self) -> None:
        """Forget all but the blocks."""
        self._disable()

    def write_cc(self, value: int) -> None:
        """Enable, disable or shut down the controller (3.1.5)."""
        wanted = Configuration(value)
        if wanted.enable and not self._ready and not self._fatal:
            self._enable(wanted)
        elif not wanted.enable:
            self._disable()
        if wanted.shutdown:
            self.control[Reg.CSTS] |= Csts.SHUTDOWN_COMPLETE
        else:
            self.control[Reg.CSTS] &= ~Csts.SHUTDOWN_COMPLETE

    @property
    def _ready(self) -> bool:
        return bool(self.control[Reg.CSTS] & Csts.READY)

    @property
    def _fatal(self) -> bool:
        return bool(self.control[Reg.CSTS] & Csts.FATAL)

    def _enable(self, wanted: Configuration) -> None:
        control = self.control
        sizes = [(control[Reg.AQA] >> shift & 0xFFF) + 1 for shift in (0, 16)]
        if (
            wanted.page_size
            or wanted.command_set
            or (wanted.submission_size, wanted.completion_size) != _ENTRY_SIZES
            or not all(2 <= size <= QUEUE_ENTRIES_MAX for size in sizes)
        ):
            self._fail()
            return
        completions = CompletionQueue(0, control.pair(Reg.ACQ_LO, Reg.ACQ_HI), sizes[1], 0)
        submissions = control.pair(Reg.ASQ_LO, Reg.ASQ_HI)
        self.queues.completion[0] = completions
        self.queues.submission[0] = SubmissionQueue(0, submissions, sizes[0], completions)
        control[Reg.CSTS] |= Csts.READY

    def _disable(self) -> None:
        """Do a Controller Reset (7.3.2)."""
        self.queues.clear()
        self._admin.reset()
        self.control[Reg.CSTS] = 0

    def _fail(self) -> None:
        """Stop until the next Controller Reset (9.5)."""
        self.queues.clear()
        self.control[Reg.CSTS] |= Csts.FATAL

    # Doorbells.

    def _ring_tail(self, number: int, tail: int) -> None:
        queue = self.queues.submission.get(number)
        if queue is None:
            self._report(_INVALID_REGISTER)
        elif tail & 0xFFFF >= queue.size:
            self._report(_INVALID_VALUE)
        else:
            queue.tail = tail & 0xFFFF
            self._serve([queue])

    def _ring_head(self, number: int, head: int) -> None:
        queue = self.queues.completion.get(number)
        if queue is None:
            self._report(_INVALID_REGISTER)
        elif not queue.accepts(head & 0xFFFF):
            self._report(_INVALID_VALUE)
        else:
            queue.head = head & 0xFFFF
            self._serve(self.queues.of(queue))

    def _report(self, event: int) -> None:
        """Tell software of a doorbell that it must not ring, as soon as it asks (5.2)."""
        if self._ready and not self._fatal:
            self._guard(partial(self._tell, event))

    def _tell(self, event: int) -> None:
        """Complete a request for events, or keep the event for the next one. DmaRefused."""
        queue = self.queues.submission[0]
        if not self._admin.requests or queue.completions.full:
            self._admin.events.append(event)
            return
        self._complete(queue, self._admin.requests.popleft(), Status.SUCCESS, event)
        self._interrupt(queue.completions)

    # Work.

    def _guard(self, work: Callable[[], None]) -> None:
        """Do work on queues; memory that refuses them is fatal."""
        try:
            work()
        except DmaRefused:
            self._fail()

    def _serve(self, queues: Collection[SubmissionQueue]) -> None:
        for each in queues:
            self._guard(partial(self._empty, each))

    def _empty(self, queue: SubmissionQueue) -> None:
        """Carry out what is submitted, as long as its completions have room."""
        posted = False
        # A queue that a command deletes is not served any more.
        while queue.head != queue.tail and self.queues.submission.get(queue.number) is queue:
            if queue.completions.full:
                break
            posted = self._next(queue) or posted
        if posted:
            self._interrupt(queue.completions)

    def _next(self, queue: SubmissionQueue) -> bool:
        """Carry out one command; return whether it is complete. DmaRefused."""
        command = queue.fetch(self.bus.read)
        status, result = Status.SUCCESS, 0
        try:
            if command.flags:  # neither fused commands nor scatter gather lists
                raise CommandFailed(Status.INVALID_FIELD)
            result = (self._io if queue.number else self._admin).run(command)
        except Outstanding:
            return False
        except CommandFailed as failure:
            status = failure.status
        self._complete(queue, command.identifier, status, result)
        return True

    def _complete(
        self, queue: SubmissionQueue, identifier: int, status: Status, result: int
    ) -> None:
        queue.completions.post(self.bus.write, queue.completion(identifier, status, result))

    def _interrupt(self, completions: CompletionQueue) -> None:
        if completions.vector is not None:
            self.msix(completions.vector)
