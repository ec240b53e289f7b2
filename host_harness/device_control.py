"""Faults of a device process that runs, set and cleared through its control socket."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from .errors import NoVerdict, UsageError

SOCKET = "control"  # its name in the folder of a VM's sockets
_PATIENCE_S = 10.0
_ANSWER_MAX = 1 << 16  # bytes


def set_fault(path: Path, name: str | None) -> None:
    """Have the device act with the fault of that name, in place of any other; None: with none.

    Do so between tests, for what is under way ends as it began. UsageError when the device refuses
    it, as it does a fault that is not the device's; NoVerdict when the device does not answer.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
            control.settimeout(_PATIENCE_S)
            control.connect(str(path))
            control.sendall(json.dumps({"fault": name}).encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n") and len(answer) < _ANSWER_MAX:
                part = control.recv(_ANSWER_MAX)
                if not part:
                    break
                answer += part
        said = json.loads(answer)
    except (OSError, ValueError) as error:
        raise NoVerdict("fault", f"the device's control socket does not answer: {error}") from error
    if said != {"fault": name}:
        raise UsageError(f"the device: {said.get('error', said)}", "make faults lists them")
