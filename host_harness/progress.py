"""Progress for people: a line when a phase begins and how long it took when it ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


class Progress:
    """Prints phases to ``stream`` and keeps their seconds."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._start = time.monotonic()
        self.seconds: dict[str, float] = {}

    def note(self, text: str) -> None:
        """Print one line with the seconds since the start."""
        print(f"[{time.monotonic() - self._start:6.1f}s] {text}", file=self._stream, flush=True)

    @contextmanager
    def phase(self, name: str, *, silent: bool = False) -> Iterator[None]:
        """Time a phase; its seconds are kept even when it fails.

        ``silent`` is for phases within pytest's session, whose lines must stay whole.
        """
        start = time.monotonic()
        if not silent:
            self.note(f"{name} ...")
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - start, 2)
