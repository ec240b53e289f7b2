# SPDX-License-Identifier: Apache-2.0
"""Prints the verdict of a run again, from its folder: the table, and what failed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dma_rehearsal.host_harness.process.errors import Status, UsageError
from dma_rehearsal.host_harness.process.plain_text import printable, printable_value
from dma_rehearsal.host_harness.process.screen import Screen
from dma_rehearsal.host_harness.session import verdict_record
from dma_rehearsal.host_harness.verdict import failure
from dma_rehearsal.host_harness.verdict.failure import Failure
from dma_rehearsal.host_harness.verdict.ledger import Ledger
from dma_rehearsal.host_harness.verdict.promise import Promise

_FILE = "attestations.json"
_NEXT = "name the folder of a run that has ended, such as build/runs/latest"
_ROW = ("promise", "asked", "attested", "verdict", "reason", "test", "by", "xfail")


def run(folder: Path) -> Status:
    """Print the verdict of the run in ``folder``; UsageError when it left none."""
    print("\n".join(lines(folder, Screen.of())), flush=True)
    return Status.PASSED


def lines(folder: Path, screen: Screen) -> list[str]:
    """Return the lines that `run` prints, for ``screen``; errors as `run`'s."""
    ledger = _ledger(folder)
    failed = {
        name for name, verdict in verdict_record.read(folder).items() if verdict.outcome == "failed"
    }
    told = _failures(ledger, failed)
    tail = [ledger.counted, f"artefacts: {folder}", f"replay: sh {folder / 'replay'}"]
    table = [ledger.table(screen.width, colours=screen.colours)] if ledger.promises else []
    return [*table, *(failure.lines(told, screen, tail) or [""]), *tail]


def _ledger(folder: Path) -> Ledger:
    path = folder / _FILE
    try:
        whole = printable_value(json.loads(path.read_text()))
        if not isinstance(whole, dict):
            raise TypeError("it is not an object")
        ledger = Ledger([_promise(row) for row in whole["promises"]])
        ledger.notes = [printable(str(note)) for note in whole.get("notes", ())]
        for name in ledger.counts:
            setattr(ledger, name, int(whole[name]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", _NEXT) from None
    return ledger


def _promise(row: Mapping[str, Any]) -> Promise:
    facts = {str(name): str(text) for name, text in row["facts"].items()}
    return Promise(facts=facts, **{name: str(row[name]) for name in _ROW})


def _failures(ledger: Ledger, failed: set[str]) -> list[Failure]:
    """Return the failures by their first row that is not kept, then tests without any."""
    rows = {
        row.test: row
        for row in reversed(ledger.promises)
        if row.verdict != "kept" and not row.xfail
    }
    by_row = [
        Failure(printable(test), "", f"{row.verdict}: {row.promise}: {row.reason}")
        for test, row in reversed(rows.items())
        if test in failed or row.verdict == "broken"  # such as a row of the whole run
    ]
    others = sorted(failed - set(rows))
    return [*by_row, *(Failure(printable(test), "", "see junit.xml") for test in others)]
