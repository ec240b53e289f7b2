# SPDX-License-Identifier: Apache-2.0
"""Progress for people: a live line for each phase on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TextIO

_REFRESHES_PER_S = 5


class Progress:
    """Prints phases to ``stream`` and keeps their seconds.

    ``quiet`` prints nothing but what a user must see. ``uncaptured`` makes a context in which
    ``stream`` reaches the user, where something (pytest) captures it.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        quiet: bool = False,
        uncaptured: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._given = stream
        self._quiet = quiet
        self._uncaptured = uncaptured
        self._start = time.monotonic()
        self._print_above: Callable[[str], None] | None = None  # the live line, where there is one
        self._lock = threading.RLock()
        self.seconds: dict[str, float] = {}

    @property
    def _stream(self) -> TextIO:
        return self._given or sys.stderr  # looked up late: pytest changes sys.stderr

    def note(self, text: str, *, always: bool = False) -> None:
        """Print one line with the seconds since the start; ``always`` also when quiet."""
        if self._quiet and not always:
            return
        line = f"[{self._now():6.1f}s] {text}"
        with self._lock, self._uncaptured():
            if self._print_above:
                self._print_above(line)
            else:
                print(line, file=self._stream, flush=True)

    def line(self, *, transient: bool = False) -> None:
        """Begin a new line, where pytest has begun one of its own.

        ``transient``: pytest writes that one again, and on a terminal this takes its place.
        """
        if not self._quiet:
            again = transient and self._stream.isatty()
            with self._uncaptured():
                print("\r\033[K" if again else "\n", end="", file=self._stream, flush=True)

    @contextmanager
    def phase(self, name: str, *, silent: bool = False) -> Iterator[None]:
        """Time a phase; its seconds are kept even when it fails, and added up if it comes again.

        ``silent`` is for phases within pytest's session, whose lines must stay whole.
        """
        start = time.monotonic()
        shown = not (silent or self._quiet)
        with self._shown(name, start) if shown else nullcontext():
            try:
                yield
            finally:
                seconds = time.monotonic() - start
                self.seconds[name] = round(self.seconds.get(name, 0.0) + seconds, 2)
        if shown:
            self.note(f"{name}: {seconds:.1f} s")

    @contextmanager
    def _shown(self, name: str, start: float) -> Iterator[None]:
        if not self._stream.isatty():
            self.note(f"{name} ...")
            yield
            return
        # Imported here: it takes 40 ms, and where there is no terminal nothing needs it.
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        def drawn() -> Text:
            seconds = time.monotonic() - start
            return Text(f"[{self._now():6.1f}s] {name} ... {seconds:.0f} s")

        live = Live(
            get_renderable=drawn,
            console=Console(file=self._stream),
            refresh_per_second=_REFRESHES_PER_S,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with live:
            self._print_above = partial(
                live.console.print, markup=False, highlight=False, soft_wrap=True
            )
            try:
                yield
            finally:
                with self._lock:
                    self._print_above = None

    def _now(self) -> float:
        return time.monotonic() - self._start
