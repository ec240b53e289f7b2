# SPDX-License-Identifier: Apache-2.0
"""Lets held DMA go when nothing else in the guest runs: as late as a device's DMA may come.

While the board holds, an action of the device waits before its first DMA. The driver has then
written its doorbell, and goes on. When everything sleeps, its threads wait for the device, or have
returned to a test that does.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final, Protocol

from dma_rehearsal.guest.testkit.attestation import CheckFailed

LOAD: Final = Path("/proc/loadavg")
_IDLE_LOOKS: Final = 2  # in a row
_LOOK_S: Final = 0.001
_TRIES: Final = 20
_STOP_S: Final = 10.0


class Board(Protocol):
    """The registers of the board that the watcher needs (`BoardUnit`)."""

    @property
    def held(self) -> int:
        """The number of actions that wait now."""

    @property
    def expired(self) -> int:
        """The number of actions that went by themselves."""

    def release(self) -> None:
        """Let those go that wait now."""


def only_this_runs() -> bool:
    """Whether the calling thread is the only one of the guest that runs or could run.

    proc_loadavg(5): the fourth field is "runnable/all", with the caller among the runnable.
    """
    return LOAD.read_text().split()[3].partition("/")[0] == "1"


class HoldWatcher:
    """A thread that releases what the board holds. A context manager.

    ``released`` counts the releases, ``stuck`` the actions that went by themselves although the
    watcher had released them again and again.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._error: Exception | None = None
        self._expired = 0
        self._tries = 0  # releases in a row without a look at which nothing waited
        self.released = 0
        self.stuck = 0

    def __enter__(self) -> HoldWatcher:
        self._expired = self._board.expired
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the thread, and let go what still waits. What went wrong there is raised here."""
        self._stop.set()
        self._thread.join(_STOP_S)
        self._board.release()
        if self._error is not None:
            raise self._error

    def check(self) -> None:
        """`CheckFailed` where an action waited in vain: the condition was not that of "held"."""
        if self.stuck:
            raise CheckFailed(
                f"held DMA was not let go although the guest was idle: {self.stuck} actions went "
                "by themselves, so the rehearsal is not that of a held device; look into "
                "device-trace.jsonl"
            )

    def _watch(self) -> None:
        try:
            while not self._stop.wait(_LOOK_S):
                self._look()
        except Exception as error:
            self._error = error

    def _look(self) -> None:
        board = self._board
        if not board.held:
            self._tries = 0
            return
        expired = board.expired
        if expired != self._expired:
            # One that waited while the guest was busy may go; the device's patience is limited.
            self.stuck += self._tries >= _TRIES
            self._expired, self._tries = expired, 0
        if all(only_this_runs() for _ in range(_IDLE_LOOKS)):
            self.release()
            self._tries += 1

    def release(self) -> None:
        """Let those go that wait now."""
        self._board.release()
        self.released += 1
