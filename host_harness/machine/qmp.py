# SPDX-License-Identifier: Apache-2.0
"""QEMU's monitor, by qemu.qmp, driven from synchronous code."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from qemu.qmp import EventListener, QMPClient, QMPError

from dma_rehearsal.host_harness.process.deadlines import wait_limit

_T = TypeVar("_T")
_CALL_TIMEOUT_S = 10
_DISCONNECT_TIMEOUT_S = 2
_names = itertools.count(1)


class MonitorError(Exception):
    """QEMU's monitor did not answer, or answered with an error."""


class Monitor:
    """A QMP connection whose asyncio loop runs in a thread of its own.

    All messages go to ``log`` (qmp.log of the VM's folder). ``panicked`` is an eventfd
    that counts the panics which the guest reported.
    """

    def __init__(self, stream: socket.socket, log: Path) -> None:
        self._stream = stream
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qmp", daemon=True)
        # By its name a client has a logger of its own: other VMs have other logs.
        self._client = QMPClient(f"rehearsal{next(_names)}")
        self._panics = EventListener("GUEST_PANICKED")
        self._client.register_listener(self._panics)
        self._watcher: Future[None] | None = None
        self.panicked = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._handler = logging.FileHandler(log)
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        self._logger = self._client.logger
        self._logger.setLevel(logging.DEBUG)
        self._logger.propagate = False
        self._logger.addHandler(self._handler)

    def connect(self, timeout_s: float) -> None:
        """Negotiate; MonitorError when QEMU does not answer in time."""
        self._thread.start()
        self._call(self._client.connect(self._stream), timeout_s, "greeting")
        self._watcher = asyncio.run_coroutine_threadsafe(self._watch(), self._loop)

    def command(self, name: str, *, timeout_s: float = _CALL_TIMEOUT_S, **arguments: Any) -> Any:
        """Run one QMP command and return its result; MonitorError when it fails."""
        return self._call(self._client.execute(name, arguments), timeout_s, name)

    def close(self) -> None:
        """End the connection and the thread."""
        if self._watcher is not None:
            self._watcher.cancel()
        if self._thread.is_alive():
            with contextlib.suppress(MonitorError):
                self._call(self._client.disconnect(), _DISCONNECT_TIMEOUT_S, "disconnect")
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)
        self._loop.close()
        self._stream.close()
        self._logger.removeHandler(self._handler)
        self._handler.close()
        os.close(self.panicked)

    async def _watch(self) -> None:
        async for _ in self._panics:
            os.eventfd_write(self.panicked, 1)

    def _call(self, work: Coroutine[Any, Any, _T], timeout_s: float, what: str) -> _T:
        limit = wait_limit(timeout_s)
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, limit), self._loop)
        try:
            return future.result(None if limit is None else limit + 1)
        except TimeoutError as error:
            raise MonitorError(
                f"{what}: no answer within its deadline of {timeout_s:g} s"
            ) from error
        except (QMPError, OSError, EOFError) as error:
            raise MonitorError(f"{what}: {str(error) or type(error).__name__}") from error
