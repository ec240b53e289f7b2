# SPDX-License-Identifier: Apache-2.0
"""Shows where a test hangs, and what it has printed, before the host gives the VM up."""

from __future__ import annotations

import os
import signal
import traceback
from types import FrameType
from typing import Any

import pytest

_MARGIN_S = 5.0  # for the text to reach the host
_FRAMES = 6  # the innermost; the host shows the last lines of the console
_OUTPUT_MAX = 2048  # bytes of each stream


class HangPlugin:
    """Writes to the guest's console shortly before a test has run for ``limit_s`` seconds.

    0 means no limit. It uses SIGALRM; if a test takes SIGALRM, nothing is written. ``console``
    is a descriptor, which stays the caller's.
    """

    def __init__(self, limit_s: float, console: int) -> None:
        self._after_s = limit_s - min(_MARGIN_S, limit_s / 4)
        self._console = console
        self._process = os.getpid()
        self._item: pytest.Item | None = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> object:
        """Start the clock."""
        if self._after_s > 0:
            self._item = item
            signal.signal(signal.SIGALRM, self._ring)
            signal.setitimer(signal.ITIMER_REAL, self._after_s)
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> object:
        """Stop the clock."""
        try:
            return (yield)
        finally:
            if self._item is not None:
                self._item = None
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def _ring(self, _number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a child's own alarm, which must end the child
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGALRM)
        if self._item is None:
            return
        said = [f"{self._item.nodeid} has run for {self._after_s:g} s and still runs."]
        for name, text in _printed(self._item.config):
            said += [f"It has printed to {name}:", text]
        said += ["It is here (the innermost call last):"]
        said += [each.rstrip() for each in traceback.format_stack(frame)[-_FRAMES:]]
        data = "".join(f"{line}\n" for line in said).encode(errors="replace")
        os.write(self._console, data.replace(b"\n", b"\r\n"))


def _printed(config: pytest.Config) -> list[tuple[str, str]]:
    """Return the end of the output of a test so far, and leave it where pytest keeps it."""
    found = []
    capture: Any = getattr(
        config.pluginmanager.getplugin("capturemanager"), "_global_capturing", None
    )
    for name, stream in ("stdout", "out"), ("stderr", "err"):
        try:
            file = getattr(capture, stream).tmpfile
            size = os.fstat(file.fileno()).st_size
            start = max(0, size - _OUTPUT_MAX)
            text = os.pread(file.fileno(), size - start, start).decode(errors="replace").rstrip()
        except (AttributeError, OSError, ValueError):  # captured in another way
            continue
        if text:
            found.append((name, text))
    return found
