# SPDX-License-Identifier: Apache-2.0
"""An agent as a child process, driven over a socket as the host does it."""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from dma_rehearsal.device.layout.result_frames import Message
from dma_rehearsal.host_harness.machine.channel import Channel

ROOT = Path(__file__).resolve().parents[4]
LIMIT_S = 30.0


class Guest:
    """An agent as a child process, and the host's end of its channel."""

    def __init__(self, folder: Path, command: list[str], ours: socket.socket, **how: Any) -> None:
        self.folder = folder
        self.socket = ours
        self.channel = Channel(ours)
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            # The guest has no plugins beside pytest's own.
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            **how,
        )

    def receive(self) -> Message:
        """Return the next message; EOFError when the agent is gone."""
        deadline = time.monotonic() + LIMIT_S
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ)
            while True:
                if message := self.channel.take():
                    return message
                if self.channel.closed:
                    raise EOFError
                if not selector.select(deadline - time.monotonic()):
                    raise TimeoutError
                self.channel.pull()

    def configure(self, *args: str, seed: int = 7, fault: str | None = None) -> None:
        """Take hello and send the settings; the tests are in the agent's folder."""
        assert self.receive()["type"] == "hello"
        self.send_configuration(*args, seed=seed, fault=fault)

    def send_configuration(self, *args: str, seed: int = 7, fault: str | None = None) -> None:
        """Send the settings of a session."""
        self.channel.send(
            {
                "type": "configure",
                "args": [*args] or [str(self.folder)],
                "named": True,
                "seed": seed,
                "fault": fault,
            }
        )

    def collect(self, **settings: Any) -> dict[str, str]:
        """Begin the first session; return the tests' node ids by their names."""
        assert self.receive()["type"] == "hello"
        return self.collect_again(**settings)

    def collect_again(self, **settings: Any) -> dict[str, str]:
        """Begin a session; return the tests' node ids by their names."""
        self.send_configuration(**settings)
        collected = self.receive()
        assert collected["type"] == "collected", collected
        assert collected["errors"] == []
        return {item["name"]: item["nodeid"] for item in collected["items"]}

    def run(self, nodeid: str, following: str | None = None) -> list[dict[str, Any]]:
        """Run one test and return its reports' data."""
        self.channel.send({"type": "run", "nodeid": nodeid, "next": following})
        assert self.receive() == {"type": "start", "nodeid": nodeid}
        reports = []
        while (message := self.receive())["type"] == "report":
            assert message["nodeid"] == nodeid
            reports.append(message["data"])
        assert (message["type"], message["nodeid"]) == ("finish", nodeid)
        return reports

    def end(self) -> tuple[Message, int]:
        """End the session and say shutdown; return what the session ended with, and the status."""
        self.channel.send({"type": "end"})
        ended = self.receive()
        if ended["type"] == "ended":
            self.channel.send({"type": "shutdown"})
            assert self.receive() == {"type": "bye"}
        return ended, self.process.wait(LIMIT_S)

    def said(self) -> str:
        """Return what the ended agent wrote to its standard error, the guest's console."""
        _, errors = self.process.communicate(timeout=LIMIT_S)
        return str(errors, errors="replace")
