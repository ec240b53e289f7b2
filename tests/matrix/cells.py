"""The cells of the matrix: one run of the harness each, and what a run came to."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Self

from device import profile
from host_harness.payload import SOURCE
from tests.host_harness.runs import run

FOLDER = SOURCE / "build" / "matrix"
PLAIN = "exerciser"  # no profile
# Coherence changes no address and no length: against the profile's own word these are enough.
_OF_COHERENCE = (
    "test_profile or test_cache_modes or test_arm_registers or (test_direction and 4096)"
)
_COMPLAINTS = ("broken: ", "unattested: ", "unsupported: ", "no verdict: ", "error: ")
_VM_BYTES = 1536 << 20  # the guest's memory, and what QEMU, device and harness need beside it


@dataclass(frozen=True, slots=True)
class Cell:
    """A profile, coherent or not, perhaps with a fault; ``selected`` is pytest's -k."""

    profile: str
    coherent: bool
    fault: str = ""
    selected: str = ""

    @property
    def name(self) -> str:
        """Return what the cell's folder and row are called."""
        words = [self.profile, "coherent" if self.coherent else "noncoherent", self.fault]
        return "-".join(filter(None, words))

    @property
    def settings(self) -> dict[str, str]:
        """Return the options of the run."""
        named = {"PROFILE": self.profile} if self.profile != PLAIN else {}
        coherent = {"COHERENT": "yes" if self.coherent else "no"}
        return named | coherent | ({"FAULT": self.fault} if self.fault else {})

    def command(self, seed: int | None = None) -> str:
        """Return the one command that does the cell again."""
        settings = self.settings | ({} if seed is None else {"SEED": str(seed)})
        words = ["make", "test-vm", *(f"{name}={value}" for name, value in settings.items())]
        if self.selected:
            words.append(f"ARGS=-k {shlex.quote(self.selected)}")
        return shlex.join(words)


def every_cell() -> list[Cell]:
    """Return all profiles, each as it says and against what it says of coherence."""
    known = {PLAIN: profile.PLAIN} | {name: profile.find(name) for name in profile.shipped()}
    own = [Cell(name, found.coherent) for name, found in known.items()]
    other = [Cell(n, not found.coherent, selected=_OF_COHERENCE) for n, found in known.items()]
    return [*own, *other]


def parallel() -> int:
    """Return how many VMs this machine can run at a time: by its CPUs and its free memory."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(len(os.sched_getaffinity(0)), free // _VM_BYTES))


@dataclass(frozen=True, slots=True)
class Result:
    """A row of the report. ``status`` is the run's, ``due`` what it must be.

    ``verdicts`` counts the promises by verdict; ``complaint`` is the first line of what is wrong.
    """

    cell: str
    status: int
    due: int
    seconds: float
    passed: int
    failed: int
    verdicts: dict[str, int]
    complaint: str
    command: str

    @property
    def ok(self) -> bool:
        """Whether the cell came out as it must: green, or red with a fault."""
        return self.status == self.due

    @classmethod
    def of(cls, words: dict[str, Any]) -> Self:
        """Return the result that ``asdict`` made words of."""
        return cls(**words)

    def words(self) -> dict[str, Any]:
        """Return what goes from a worker to the one that reports."""
        return asdict(self)


def run_cell(cell: Cell, due: int = 0) -> Result:
    """Run a cell in its own folder; what an earlier run left there goes."""
    folder = FOLDER / cell.name
    shutil.rmtree(folder, ignore_errors=True)
    start = time.monotonic()
    arguments = ("-k", cell.selected) if cell.selected else ()
    done = run(folder, "-q", *arguments, **cell.settings)
    attested = folder / "latest" / "attestations.json"
    facts = done.attestations if attested.exists() else {}
    seed = facts.get("seed")
    said = [*done.output.splitlines(), *done.errors.splitlines()]
    complaints = [line for line in said if line.startswith(_COMPLAINTS)]
    return Result(
        cell.name,
        done.status,
        due,
        round(time.monotonic() - start, 1),
        facts.get("passed", 0),
        facts.get("failed", 0),
        dict(Counter(row["verdict"] for row in facts.get("promises", ()))),
        complaints[0] if done.status and complaints else "",
        cell.command(seed),
    )


def table(results: list[Result]) -> list[str]:
    """Return the report: a row for each cell, then the command of each that came out wrong."""
    heads = ("cell", "status", "passed", "failed", "kept", "broken", "unattested", "seconds")
    rows: list[tuple[str, ...]] = [heads]
    for each in results:
        status = f"{each.status}" if each.ok else f"{each.status}, not {each.due}"
        counts = (each.verdicts.get(name, 0) for name in ("kept", "broken", "unattested"))
        numbers = (each.passed, each.failed, *counts, each.seconds)
        rows.append((each.cell, status, *map(str, numbers)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = [
        " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    for each in results:
        if not each.ok:
            lines += ["", f"{each.cell}: {each.complaint}", f"  again: {each.command}"]
    return lines
