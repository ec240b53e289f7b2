# SPDX-License-Identifier: Apache-2.0
"""The cells of the matrix: one run of the harness each, and what a run came to."""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any, Self

from dma_rehearsal.device.exerciser import profile
from dma_rehearsal.host_harness.environment.payload import SOURCE
from dma_rehearsal.host_harness.machine import guest_memory
from dma_rehearsal.host_harness.options.run_options import HOSTILE, KIND
from tests.comparison import BOOTED, COLD, EACH, records, run_each_start, save_booted, unlike
from tests.runs import Run, run

FOLDER = SOURCE / "build" / "matrix"
SEED = "0x5eed"  # of runs that are compared
PLAIN = "exerciser"  # no profile
# The allocator's tests say the same under every profile, and most tests under either coherence.
_OF_THE_PROFILE, _OF_COHERENCE = ("-m", "not any_device"), ("-m", "coherence")
# A VM, and beside it a process of pytest with a harness.
CELL_SIZE = guest_memory.VM_SIZE + 200 * guest_memory.MIB


@dataclass(frozen=True, slots=True)
class Cell:
    """A profile, coherent or not, behind an IOMMU or not, perhaps with a fault.

    ``selecting`` are pytest's options that select the tests; none for all of them.
    """

    profile: str
    coherent: bool
    iommu: bool = False
    fault: str = ""
    selecting: tuple[str, ...] = ()
    place: str = KIND

    @property
    def column(self) -> str:
        """Return what the cell's column is called."""
        return f"{'coherent' if self.coherent else 'noncoherent'}{'-iommu' * self.iommu}"

    @property
    def name(self) -> str:
        """Return what the cell's folder is called."""
        return "-".join(filter(None, (self.profile, self.column, self.fault)))

    @property
    def settings(self) -> dict[str, str]:
        """Return the options of the run."""
        said = {
            "PROFILE": "" if self.profile == PLAIN else self.profile,
            "COHERENT": "yes" if self.coherent else "no",
            "IOMMU": "intel" if self.iommu else "",
            "FAULT": self.fault,
            "PLACE": "" if self.place == KIND else self.place,
            "VMS": "" if self.selecting else "1",  # other cells run beside
        }
        return {name: value for name, value in said.items() if value}

    @property
    def starts(self) -> Sequence[str]:
        """Return the starts whose runs are compared; without any it runs once, as it comes.

        An IOMMU changes the tests and not the way to start, so one whole cell with it is enough. A
        session with a fault of the guest's is never saved.
        """
        if self.fault:
            return (COLD, BOOTED)
        return EACH if not self.iommu or (self.coherent and not self.selecting) else ()

    def command(self, seed: int | None = None) -> str:
        """Return the one command that does the cell again."""
        settings = self.settings | ({} if seed is None else {"SEED": str(seed)})
        words = ["make", "test-vm", *(f"{name}={value}" for name, value in settings.items())]
        return " ".join([shlex.join(words), *_arguments(self.selecting)])


def _arguments(selecting: tuple[str, ...]) -> list[str]:
    """Return the word that hands pytest's options to make, as a person would quote it."""
    if not selecting:
        return []
    inner = shlex.join(selecting)
    plain = not set(inner) & set('"$`\\!')
    return [f'ARGS="{inner}"' if plain else shlex.quote(f"ARGS={inner}")]


def every_cell() -> list[Cell]:
    """Return every profile with each word on coherence, behind an IOMMU and not.

    The plain exerciser runs all tests, a profile those that look at the device's own limits;
    against a device's own word on coherence, those that look at that are enough. Placement is an
    axis of its own, which takes turns: of the cells of a row, every other one is hostile.
    """
    known = {PLAIN: profile.PLAIN} | {name: profile.find(name) for name in profile.shipped()}
    return [
        Cell(
            *(name, coherent, iommu),
            selecting=_selecting(name, found.coherent is coherent),
            place=HOSTILE if (row + iommu) % 2 else KIND,
        )
        for row, (name, found) in enumerate(known.items())
        for iommu in (False, True)
        for coherent in (True, False)
    ]


def _selecting(name: str, own: bool) -> tuple[str, ...]:
    if not own:
        return _OF_COHERENCE
    return () if name == PLAIN else _OF_THE_PROFILE


def parallel() -> int:
    """Return how many VMs this machine can run at a time: by its CPUs and its free memory.

    Three for two CPUs, as a VM waits now and then: for its boot loader, its IOMMU's log.
    """
    free = guest_memory.available()
    cpus = len(os.sched_getaffinity(0))
    return max(1, min(cpus + cpus // 2, free // CELL_SIZE))


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a cell. ``status`` is the run's, ``due`` what it must be.

    ``cpu_s`` are the CPU's seconds, the VM's and the device's among them. ``verdicts`` counts the
    promises by verdict; ``complaint`` is the first line of what is wrong. ``unlike`` says where a
    restored run differs from the one that boots cold.
    """

    profile: str
    column: str
    fault: str
    status: int
    due: int
    seconds: float
    cpu_s: float
    passed: int
    failed: int
    verdicts: dict[str, int]
    complaint: str
    command: str
    unlike: str = ""

    @property
    def cell(self) -> str:
        """The cell's name."""
        return "-".join(filter(None, (self.profile, self.column, self.fault)))

    @property
    def ok(self) -> bool:
        """Whether the cell came out as it must, however it started: green, or red with a fault."""
        return self.status == self.due and not self.unlike

    @classmethod
    def of(cls, words: dict[str, Any]) -> Self:
        """Return the result that ``asdict`` made words of."""
        return cls(**words)

    def words(self) -> dict[str, Any]:
        """Return what goes from a worker to the one that reports."""
        return asdict(self)


def run_cell(cell: Cell, due: int = 0) -> Result:
    """Run a cell in its own folder; what an earlier run left there goes.

    A cell with `Cell.starts` runs from each of them, and the runs are compared.
    """
    folder = FOLDER / cell.name
    shutil.rmtree(folder, ignore_errors=True)
    start, cpu_before = time.monotonic(), _cpu_of_children()
    if cell.starts:
        settings, number = cell.settings | {"SEED": SEED}, count(1)

        def from_state(state: str) -> Run:
            place = folder / f"{next(number)}-{state}"
            return run(place, *cell.selecting, **settings, STATE=state)

        def save() -> Run:
            return save_booted(folder / f"{next(number)}-save", settings.get("IOMMU", ""))

        runs = run_each_start(from_state, cell.starts, save)
        different = unlike(records(runs))
    else:
        runs, different = [run(folder, *cell.selecting, **cell.settings)], ""
    done = next((each for each in runs if each.status != due), runs[-1])
    attested = done.folder / "attestations.json"
    facts = done.attestations if attested.exists() else {}
    return Result(
        cell.profile,
        cell.column,
        cell.fault,
        done.status,
        due,
        round(time.monotonic() - start, 1),
        round(_cpu_of_children() - cpu_before, 1),
        facts.get("passed", 0),
        facts.get("failed", 0),
        dict(Counter(row["verdict"] for row in facts.get("promises", ()))),
        next(iter(done.complaints), "") if done.status else "",
        cell.command(facts.get("seed")),
        different,
    )


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
