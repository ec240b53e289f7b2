# SPDX-License-Identifier: Apache-2.0
"""Submission and completion queues in guest memory (4.1 Submission Queue & Completion Queue)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from examples.nvme.layout import Command, Completion, Status

COMMAND_SIZE, COMPLETION_SIZE = 64, 16


@dataclass(slots=True)
class CompletionQueue:
    """``size`` entries at bus ``address``. ``vector`` is its MSI-X vector; None: no interrupts."""

    number: int
    address: int
    size: int
    vector: int | None
    head: int = 0
    tail: int = 0
    phase: int = 1

    @property
    def full(self) -> bool:
        """Return whether no entry is free."""
        return (self.tail + 1) % self.size == self.head

    def accepts(self, head: int) -> bool:
        """Return whether software may move the head there: only past entries that were posted."""
        if head >= self.size:
            return False
        return (head - self.head) % self.size <= (self.tail - self.head) % self.size

    def post(self, write: Callable[[int, bytes], None], entry: Completion) -> None:
        """Write an entry into the free one at the tail."""
        write(self.address + self.tail * COMPLETION_SIZE, entry.pack())
        self.tail = (self.tail + 1) % self.size
        if self.tail == 0:
            self.phase ^= 1


@dataclass(slots=True)
class SubmissionQueue:
    """``size`` entries at bus ``address``, whose commands complete into ``completions``."""

    number: int
    address: int
    size: int
    completions: CompletionQueue
    head: int = 0
    tail: int = 0

    def fetch(self, read: Callable[[int, int], bytes]) -> Command:
        """Return the command at the head, copied once."""
        data = read(self.address + self.head * COMMAND_SIZE, COMMAND_SIZE)
        self.head = (self.head + 1) % self.size
        return Command.unpack(data)

    def completion(self, identifier: int, status: Status, result: int) -> Completion:
        """Return the completion of one of its commands."""
        phase = self.completions.phase
        return Completion(result, self.head, self.number, identifier, status, phase)


@dataclass(slots=True)
class Queues:
    """All queues, by their numbers; 0 are those of administration."""

    submission: dict[int, SubmissionQueue] = field(default_factory=dict)
    completion: dict[int, CompletionQueue] = field(default_factory=dict)

    def clear(self) -> None:
        """Delete all."""
        self.submission.clear()
        self.completion.clear()

    def of(self, completions: CompletionQueue) -> list[SubmissionQueue]:
        """Return the submission queues that complete there."""
        return [each for each in self.submission.values() if each.completions is completions]
