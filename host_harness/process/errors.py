# SPDX-License-Identifier: Apache-2.0
"""The host's errors, and the status that the harness ends with for each.

HarnessError
├── UsageError          2  the command line or a setting is wrong
├── EnvironmentFailure  3  QEMU, the image or a host tool is not available
└── NoVerdict           4  the VM, the device or the channel was lost before the verdict
"""

from __future__ import annotations

from dma_rehearsal.device.layout.run_status import Status

__all__ = ["EnvironmentFailure", "HarnessError", "NoVerdict", "Status", "UsageError"]


class HarnessError(Exception):
    """Base of all errors that the harness raises. ``hint`` says what to do next."""

    status = Status.NO_VERDICT

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}\n  next: {self.hint}" if self.hint else text


class UsageError(HarnessError):
    """The caller asked for something that does not exist or does not go together."""

    status = Status.USAGE


class EnvironmentFailure(HarnessError):
    """The environment cannot be made on this machine."""

    status = Status.ENVIRONMENT


class NoVerdict(HarnessError):
    """The run ended before it could say passed or failed.

    ``phase`` is the phase that was running when it happened, ``subject`` the test's node id in it.
    """

    status = Status.NO_VERDICT

    def __init__(self, phase: str, message: str, hint: str = "", *, subject: str = "") -> None:
        super().__init__(message, hint)
        self.phase = phase
        self.subject = subject

    def __str__(self) -> str:
        where = f"{self.phase} {self.subject}" if self.subject else self.phase
        return f"{where}: {super().__str__()}"
