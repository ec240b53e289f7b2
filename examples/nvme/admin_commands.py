# SPDX-License-Identifier: Apache-2.0
"""The admin command set (5)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from examples.nvme import identify
from examples.nvme.layout import (
    EVENT_REQUESTS,
    IO_QUEUES,
    PAGE,
    QUEUE_ENTRIES_MAX,
    VECTORS,
    Admin,
    Command,
    CommandFailed,
    Status,
)
from examples.nvme.queues import CompletionQueue, Queues, SubmissionQueue
from examples.nvme.transfer import Transfer

_NUMBER_OF_QUEUES, _SAVE = 0x07, 1 << 31
# 5.21.1: arbitration, power management, temperature threshold, error recovery, volatile write
# cache, interrupt coalescing and vectors, write atomicity, asynchronous events.
_PLAIN = {0x01, 0x02, 0x04, 0x05, 0x06, 0x08, 0x09, 0x0A, 0x0B}
_AT_RESET = {0x06: 1, _NUMBER_OF_QUEUES: (IO_QUEUES - 1) * 0x1_0001}
_NOT_ABORTED = 1
_EVENTS_KEPT = 8  # that no request was there for


class Outstanding(Exception):
    """A command that is not complete yet."""


class AdminCommands:
    """Carries out commands of the admin queue. ``vendor`` is the PCI vendor."""

    def __init__(self, queues: Queues, transfer: Transfer, *, vendor: int, blocks: int) -> None:
        self._queues, self._transfer = queues, transfer
        self._vendor, self._blocks = vendor, blocks
        self._commands: dict[int, Callable[[Command], int]] = {
            Admin.DELETE_SQ: self._delete_submission,
            Admin.CREATE_SQ: self._create_submission,
            Admin.GET_LOG_PAGE: self._get_log_page,
            Admin.DELETE_CQ: self._delete_completion,
            Admin.CREATE_CQ: self._create_completion,
            Admin.IDENTIFY: self._identify,
            Admin.ABORT: lambda _: _NOT_ABORTED,  # each command is done when it is fetched
            Admin.SET_FEATURES: self._set_features,
            Admin.GET_FEATURES: self._get_features,
            Admin.EVENT_REQUEST: self._request_event,
        }
        self.requests: deque[int] = deque()  # identifiers of Asynchronous Event Requests
        self.events: deque[int] = deque(maxlen=_EVENTS_KEPT)
        self._features = dict(_AT_RESET)

    def reset(self) -> None:
        """Forget features, events and the requests for them."""
        self.requests.clear()
        self.events.clear()
        self._features = dict(_AT_RESET)

    def run(self, command: Command) -> int:
        """Carry out a command; return its result. CommandFailed; Outstanding."""
        action = self._commands.get(command.opcode)
        if action is None:
            raise CommandFailed(Status.INVALID_OPCODE)
        return action(command)

    def _identify(self, command: Command) -> int:
        structure, namespace = command.dword(10) & 0xFF, command.namespace
        if structure in (0, 3) and namespace != identify.NAMESPACE:
            raise CommandFailed(Status.INVALID_NAMESPACE)
        if structure == 2 and namespace >= 0xFFFF_FFFE:
            raise CommandFailed(Status.INVALID_NAMESPACE)
        structures: dict[int, Callable[[], bytes]] = {
            0: lambda: identify.namespace(self._blocks),
            1: lambda: identify.controller(self._vendor),
            2: lambda: identify.namespaces(namespace),
            3: identify.descriptors,
        }
        if structure not in structures:
            raise CommandFailed(Status.INVALID_FIELD)
        self._transfer.to_host(command, structures[structure]())
        return 0

    def _get_log_page(self, command: Command) -> int:
        page = identify.log_page(command.dword(10) & 0xFF)
        if page is None:
            raise CommandFailed(Status.INVALID_LOG_PAGE)
        length = 4 * ((command.dword(10) >> 16 | (command.dword(11) & 0xFFFF) << 16) + 1)
        start = command.dword(12) | command.dword(13) << 32
        if start % 4 or start > len(page):
            raise CommandFailed(Status.INVALID_FIELD)
        self._transfer.check(length)
        self._transfer.to_host(command, page[start : start + length].ljust(length, b"\0"))
        return 0

    # Features.

    def _set_features(self, command: Command) -> int:
        number, value = command.dword(10) & 0xFF, command.dword(11)
        if command.dword(10) & _SAVE:
            raise CommandFailed(Status.NOT_SAVEABLE)
        if number == _NUMBER_OF_QUEUES:
            if 0xFFFF in (value & 0xFFFF, value >> 16):
                raise CommandFailed(Status.INVALID_FIELD)
            self._features[number] = identify.features(value)
            return self._features[number]
        if number not in _PLAIN:
            raise CommandFailed(Status.INVALID_FIELD)
        self._features[number] = value
        return 0

    def _get_features(self, command: Command) -> int:
        number = command.dword(10) & 0xFF
        if number not in _PLAIN | {_NUMBER_OF_QUEUES}:
            raise CommandFailed(Status.INVALID_FIELD)
        return self._features.get(number, 0)

    # Queues.

    def _place(self, command: Command) -> tuple[int, int, int]:
        """Return a new queue's number, entries and address. CommandFailed."""
        number, size = command.dword(10) & 0xFFFF, (command.dword(10) >> 16) + 1
        if not 1 <= number <= IO_QUEUES:
            raise CommandFailed(Status.INVALID_QUEUE_IDENTIFIER)
        if not 2 <= size <= QUEUE_ENTRIES_MAX:
            raise CommandFailed(Status.INVALID_QUEUE_SIZE)
        if not command.dword(11) & 1:  # not contiguous
            raise CommandFailed(Status.INVALID_FIELD)
        if command.prp1 % PAGE:
            raise CommandFailed(Status.PRP_OFFSET_INVALID)
        return number, size, command.prp1

    def _create_completion(self, command: Command) -> int:
        number, size, address = self._place(command)
        if number in self._queues.completion:
            raise CommandFailed(Status.INVALID_QUEUE_IDENTIFIER)
        vector, interrupts = command.dword(11) >> 16, bool(command.dword(11) & 2)
        if interrupts and vector >= VECTORS:
            raise CommandFailed(Status.INVALID_INTERRUPT_VECTOR)
        made = CompletionQueue(number, address, size, vector if interrupts else None)
        self._queues.completion[number] = made
        return 0

    def _create_submission(self, command: Command) -> int:
        number, size, address = self._place(command)
        if number in self._queues.submission:
            raise CommandFailed(Status.INVALID_QUEUE_IDENTIFIER)
        wanted = command.dword(11) >> 16
        if not 1 <= wanted <= IO_QUEUES:
            raise CommandFailed(Status.INVALID_QUEUE_IDENTIFIER)
        if wanted not in self._queues.completion:
            raise CommandFailed(Status.COMPLETION_QUEUE_INVALID)
        completions = self._queues.completion[wanted]
        self._queues.submission[number] = SubmissionQueue(number, address, size, completions)
        return 0

    def _delete_submission(self, command: Command) -> int:
        number = command.dword(10) & 0xFFFF
        if number == 0 or number not in self._queues.submission:
            raise CommandFailed(Status.INVALID_QUEUE_IDENTIFIER)
        del self._queues.submission[number]
        return 0

    def _delete_completion(self, command: Command) -> int:
        number = command.dword(10) & 0xFFFF
        if number == 0 or number not in self._queues.completion:
            raise CommandFailed(Status.INVALID_QUEUE_IDENTIFIER)
        if self._queues.of(self._queues.completion[number]):
            raise CommandFailed(Status.INVALID_QUEUE_DELETION)
        del self._queues.completion[number]
        return 0

    # Events.

    def _request_event(self, command: Command) -> int:
        if self.events:
            return self.events.popleft()
        if len(self.requests) >= EVENT_REQUESTS:
            raise CommandFailed(Status.EVENT_LIMIT_EXCEEDED)
        self.requests.append(command.identifier)
        raise Outstanding
