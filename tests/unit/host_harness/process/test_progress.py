# SPDX-License-Identifier: Apache-2.0
"""Lines of progress beside pytest's own."""

from __future__ import annotations

import io

import pytest

from dma_rehearsal.host_harness.process.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "transient", "written"),
    [
        (Terminal(), True, "\r\033[K"),
        (Terminal(), False, "\n"),
        (io.StringIO(), True, "\n"),
        (io.StringIO(), False, "\n"),
    ],
)
def test_line_that_is_written_again_does_not_stay(
    stream: io.StringIO, transient: bool, written: str
) -> None:
    """Such as "collecting 0 items", while the guest collects."""
    Progress(stream).line(transient=transient)
    assert stream.getvalue() == written
    Progress(stream, quiet=True).line(transient=transient)
    assert stream.getvalue() == written


def test_note_on_a_terminal_does_not_break_the_live_line() -> None:
    stream = Terminal()
    progress = Progress(stream)
    with progress.phase("boot"):
        progress.note("a [bold]note[/]")
    assert "boot ..." in stream.getvalue()
    assert "] a [bold]note[/]\n" in stream.getvalue()
    assert stream.getvalue().rstrip().endswith("s")
    assert set(progress.seconds) == {"boot"}


def test_elsewhere_lines_are_plain() -> None:
    stream = io.StringIO()
    with Progress(stream).phase("boot"):
        pass
    begun, ended = stream.getvalue().splitlines()
    assert begun.endswith("boot ...")
    assert "boot: 0." in ended
    assert "\x1b" not in stream.getvalue()
