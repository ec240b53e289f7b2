# SPDX-License-Identifier: Apache-2.0
"""Writes the timeline of a run as files for other programs."""

from __future__ import annotations

from pathlib import Path

from dma_rehearsal.host_harness.cli import explain
from dma_rehearsal.host_harness.process.errors import Status, UsageError
from dma_rehearsal.host_harness.timeline import perfetto_trace, vcd_file
from dma_rehearsal.host_harness.timeline.events import Event
from dma_rehearsal.host_harness.timeline.timeline import Timeline


def write(
    folder: Path, *, test: str | None = None, perfetto: Path | None = None, vcd: Path | None = None
) -> Status:
    """Write the files that are asked for, of the whole run or of one test; return PASSED.

    UsageError for none, for a folder without a timeline, a test that is not in it, and a file that
    cannot be written.
    """
    if perfetto is None and vcd is None:
        raise UsageError("no file is asked for", "--perfetto FILE, --vcd FILE, or both")
    timeline = explain.of(folder)
    events = timeline.events if test is None else _events_of(timeline, test)
    try:
        if perfetto is not None:
            with perfetto.open("wb") as trace:
                perfetto_trace.write(timeline, trace, events)
            print(f"{perfetto}: open it in https://ui.perfetto.dev")
        if vcd is not None:
            with vcd.open("w") as dump:
                vcd_file.write(timeline, dump, events)
            print(f"{vcd}: open it in GTKWave or Surfer")
    except OSError as error:
        where = error.filename or folder
        raise UsageError(
            f"{where} cannot be written: {error.strerror}", "name another file"
        ) from error
    return Status.PASSED


def _events_of(timeline: Timeline, test: str) -> list[Event]:
    """Return the events of one test, from its begin to its end."""
    return [
        event
        for each in explain.tests_of(timeline, test)
        for event in timeline.select(
            test=each.name, vm=each.vm, since_ns=each.begin_ns, until_ns=each.end_ns
        )
    ]
