# SPDX-License-Identifier: Apache-2.0
"""The control socket: a client sets and clears faults, names the test that runs, counts accesses.

One request a connection, one JSON object a line: ``{"fault": "device-read-flip"}``, or null for no
fault; ``{"test": "tests/test_a.py::test_b"}``, or null for none, which all events of the trace then
have. The answer, the same object or ``{"error": "..."}``, comes when it acts.

Further requests are questions, which have null for a value, and the answer in its place:
``{"accesses": null}`` asks for the number of the client's accesses to all functions so far,
``{"functions": null}`` for the list of the functions that are served (`served`).
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from dma_rehearsal.device.faults.injector import FaultError, FaultInjector
from dma_rehearsal.device.trace import Trace

REQUEST_MAX = 1 << 16  # bytes; the name of a test may be long
_PATIENCE_S = 2.0  # for a whole request, and for a client that does not read its answer
_SOON_S = 0.001  # settimeout(0) would not wait at all
_BACKLOG = 4

_log = logging.getLogger(__name__)


class ControlServer:
    """Serves ``injector`` and ``trace`` on the Unix socket ``path``, one connection at a time.

    ``answers`` has the questions that may be asked; each returns a JSON value.
    """

    def __init__(
        self,
        path: Path,
        injector: FaultInjector,
        trace: Trace,
        answers: Mapping[str, Callable[[], object]],
    ) -> None:
        self.path = path
        self._injector, self._trace = injector, trace
        self._answers = answers
        self._listener: socket.socket | None = None
        self._closing = threading.Event()

    def listen(self) -> None:
        """Bind and listen. OSError when the path cannot be bound."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(self.path))
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        self._listener = listener

    def serve_forever(self) -> None:
        """Answer until ``close``."""
        while self._listener is not None and not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError as error:
                if not self._closing.wait(0.1):
                    _log.warning("%s: no client: %s", self.path.name, error)
                continue
            with client:
                try:
                    self._answer(client)
                except OSError as error:
                    _log.info("%s: %s", self.path.name, error)

    def close(self) -> None:
        """Stop serving, from any thread, and remove the socket's name. Again is nothing."""
        if self._listener is None or self._closing.is_set():
            return
        self._closing.set()
        self.path.unlink(missing_ok=True)
        # Wakes accept(), which close() would not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _answer(self, client: socket.socket) -> None:
        end = time.monotonic() + _PATIENCE_S
        line = part = b""
        while not part.endswith(b"\n"):
            client.settimeout(max(_SOON_S, end - time.monotonic()))
            part = client.recv(REQUEST_MAX)
            if not part:
                break
            line = (line + part)[: REQUEST_MAX + 1]  # what is too long is read, to be refused
        try:
            what, name = _asked(line, self._answers)
            reply: dict[str, object] = {what: name}
            if what == "fault":
                self._injector.set(name)
            elif what == "test":
                self._trace.test = name
            else:
                reply = {what: self._answers[what]()}
        except (ValueError, FaultError) as error:
            reply = {"error": str(error)}
        else:
            _log.info("%s: %s", what, reply[what])
        client.sendall(json.dumps(reply).encode() + b"\n")


def _asked(line: bytes, questions: Collection[str]) -> tuple[str, str | None]:
    """Return the name of a request, and its value. ValueError for anything else."""
    if len(line) > REQUEST_MAX:
        raise ValueError(f"a request of more than {REQUEST_MAX} bytes: the name is too long")
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        request = None
    kinds = {"fault", "test", *questions}
    if not isinstance(request, dict) or len(request) != 1 or not kinds.issuperset(request):
        asked = "".join(f', or {{"{each}": null}}' for each in questions)
        raise ValueError(
            f'write one line, {{"fault": NAME}} or {{"test": NAME}} (null for none){asked}'
        )
    ((what, name),) = request.items()
    if what in questions and name is not None:
        raise ValueError(f"{what} cannot be set; ask with null")
    if name is not None and not isinstance(name, str):
        raise ValueError(f"the name of a {what} is a string")
    return what, name
