# SPDX-License-Identifier: Apache-2.0
"""A device process that runs, through its control socket: its fault, and its test's name."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from dma_rehearsal.host_harness.process.errors import NoVerdict, UsageError

SOCKET = "control"  # its name in the folder of a VM's sockets
_PATIENCE_S = 10.0
_ANSWER_MAX = 1 << 20  # bytes; a name comes back with each of its characters escaped


def set_fault(path: Path, name: str | None) -> None:
    """Have the device act with the fault of that name, in place of any other; None: with none.

    Do so between tests, for what is under way ends as it began. UsageError when the device refuses
    it, as it does a fault that is not the device's; NoVerdict when the device does not answer.
    """
    said = _ask(path, {"fault": name}, "fault")
    if said != {"fault": name}:
        raise UsageError(f"the device: {_error(said)}", "make faults lists them")


def set_test(path: Path, nodeid: str | None) -> None:
    """Have every event of the device's trace from now on name this test; None: none.

    NoVerdict when the device does not answer, or refuses the name, as it does one of 64 KiB:
    nobody would know which test did what.
    """
    said = _ask(path, {"test": nodeid}, "test")
    if said != {"test": nodeid}:
        raise NoVerdict("test", f"the device does not take the test's name: {_error(said)}")


def _ask(path: Path, request: dict[str, str | None], what: str) -> Any:
    """Return the answer to a request, on a connection of its own. NoVerdict when there is none."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
            control.settimeout(_PATIENCE_S)
            control.connect(str(path))
            control.sendall(json.dumps(request).encode() + b"\n")
            answer = bytearray()
            while not answer.endswith(b"\n") and len(answer) < _ANSWER_MAX:
                part = control.recv(_ANSWER_MAX)
                if not part:
                    break
                answer += part
        return json.loads(answer)
    except (OSError, ValueError) as error:
        raise NoVerdict(what, f"the device's control socket does not answer: {error}") from error


def _error(said: Any) -> Any:
    return said.get("error", said) if isinstance(said, dict) else said
