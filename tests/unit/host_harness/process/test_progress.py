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
