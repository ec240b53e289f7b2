# SPDX-License-Identifier: Apache-2.0
"""Single keys of the terminal, without Enter; Ctrl-C stays a signal."""

from __future__ import annotations

import os
import signal
import sys
import termios
import tty
from types import FrameType, TracebackType
from typing import Any, Self


class Keyboard:
    """The keys, for the length of a ``with``. Without a terminal there are none.

    A command in the background has none either: the terminal would stop it.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = sys.stdin.fileno() if descriptor is None else descriptor
        self._before: list[Any] | None = None
        self._continued: Any = None

    def __enter__(self) -> Self:
        if self._is_ours():
            self._before = termios.tcgetattr(self._descriptor)
            self._take()
            # After Ctrl-Z the shell has set its own mode.
            self._continued = signal.signal(signal.SIGCONT, self._take)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def is_there(self) -> bool:
        """Whether keys can be read."""
        return self._before is not None

    def fileno(self) -> int:
        """Return the descriptor to wait for, where `is_there`."""
        return self._descriptor

    def read(self) -> str:
        """Return the keys that were pressed; "" when the terminal is gone."""
        try:
            return os.read(self._descriptor, 1024).decode(errors="replace")
        except OSError:
            return ""

    def close(self) -> None:
        """Give the terminal its mode back."""
        if self._before is not None:
            signal.signal(signal.SIGCONT, self._continued)
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)
            self._before = None

    def _is_ours(self) -> bool:
        try:
            return os.tcgetpgrp(self._descriptor) == os.getpgrp()
        except OSError:  # not a terminal, or not ours
            return False

    def _take(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        if self._is_ours():
            tty.setcbreak(self._descriptor)
