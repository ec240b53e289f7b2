# SPDX-License-Identifier: Apache-2.0
"""The named faults, for people: found by name, printed as a list and as the table of the docs."""

from __future__ import annotations

import difflib

from dma_rehearsal.device.layout.faults import BY_NAME, FAULTS, Fault
from dma_rehearsal.host_harness.process import advice
from dma_rehearsal.host_harness.process.errors import UsageError

__all__ = ["FAULTS", "Fault", "find", "listing", "markdown"]


def find(name: str) -> Fault:
    """Return the fault of that name; UsageError lists similar names when there is none."""
    if name in BY_NAME:
        return BY_NAME[name]
    choice = "".join(
        f"\n    {each}" for each in difflib.get_close_matches(name, BY_NAME, 5) or BY_NAME
    )
    raise UsageError(
        f"there is no fault {name!r}",
        f"choose one of these ({advice.command('faults')} says what each does):{choice}",
    )


def listing() -> str:
    """Return one line for each fault: name, status, component, description."""
    name = max(len(each.name) for each in FAULTS)
    component = max(len(each.component.value) for each in FAULTS)
    return "\n".join(
        f"{each.name:{name}}  {each.status.value}  {each.component.value:{component}}  "
        f"{each.description}"
        for each in FAULTS
    )


def markdown() -> str:
    """Return the table of docs/faults.md."""
    rows = [
        f"| `{each.name}` | {each.component.value} | {each.status.value} | "
        f"{', '.join(each.promises) or 'the verdict'} | {each.description} |"
        for each in FAULTS
    ]
    head = "| fault | component | status | breaks | description |", "| --- " * 5 + "|"
    return "\n".join([*head, *rows])
