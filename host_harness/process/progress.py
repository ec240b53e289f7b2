# SPDX-License-Identifier: Apache-2.0
"""Progress for people: live lines on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TextIO

from dma_rehearsal.host_harness.process import table
from dma_rehearsal.host_harness.process.screen import Screen

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
        self._print_above: Callable[..., None] | None = None  # the live line, where there is one
        self._lock = threading.RLock()
        self.seconds: dict[str, float] = {}

    @property
    def _stream(self) -> TextIO:
        return self._given or sys.stderr  # looked up late: pytest changes sys.stderr

    def note(self, text: str, *, always: bool = False) -> None:
        """Print one line with the seconds since the start; ``always`` also when quiet."""
        if self._quiet and not always:
            return
        line = f"{self.stamp()} {text}"
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
    def live(self, draw: Callable[[int], Sequence[str]]) -> Iterator[None]:
        """Keep the lines of ``draw`` at the bottom of the terminal, as they are at each moment.

        Notes are printed above them. ``draw`` is given the characters that a line may have, and
        runs in a thread of its own; what is longer is cut. In the end the lines are gone, whatever
        ends the block.
        """
        # Imported here: it takes 40 ms, and where there is no terminal nothing needs it.
        from rich.console import Console, Group
        from rich.live import Live
        from rich.text import Text

        def drawn() -> Group:
            # A line of the full width would wrap when the window becomes one column narrower.
            room = console.width - 1
            return Group(*(Text(table.cut(line, room), no_wrap=True) for line in draw(room)))

        console = Console(file=self._stream)
        live = Live(
            get_renderable=drawn,
            console=console,
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

    @contextmanager
    def _shown(self, name: str, start: float) -> Iterator[None]:
        if not self._stream.isatty():
            self.note(f"{name} ...")
            yield
            return

        def draw(_width: int) -> list[str]:
            return [f"{self.stamp()} {name} ... {time.monotonic() - start:.0f} s"]

        with self.live(draw):
            yield

    def above(self, text: str, style: str = "") -> None:
        """Print one line above those of `live`, which there must be, in a style of rich's."""
        with self._lock:
            if self._print_above:
                self._print_above(text, style=style or None)

    @property
    def on_terminal(self) -> bool:
        """Whether `live` can draw: the stream is a terminal's, and not a quiet one's."""
        return not self._quiet and Screen.of(self._stream).live

    def uncaptured(self) -> AbstractContextManager[object]:
        """Return a context in which the stream reaches the user."""
        return self._uncaptured()

    def stamp(self) -> str:
        """Return the seconds since the start, as each line begins."""
        return f"[{self._now():6.1f}s]"

    def _now(self) -> float:
        return time.monotonic() - self._start
