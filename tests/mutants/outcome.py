# SPDX-License-Identifier: Apache-2.0
"""The outcome of a sample: the table, the survivors with their reasons, and the same as JSON."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.candidates import Mutant
from tests.mutants.judge import Outcome, Verdict

_HEAD = ("area", "sampled", "judged", "killed", "hang", "survived", "with a reason", "die")


@dataclass(frozen=True, slots=True)
class Reason:
    """A survivor that is accepted: known by its file, its function and its diff."""

    file: str
    function: str
    diff: str
    reason: str

    def is_of(self, mutant: Mutant) -> bool:
        """Return whether this is the mutant; spaces at the ends of lines do not matter."""
        candidate = mutant.candidate
        return (self.file, self.function, _stripped(self.diff)) == (
            *(candidate.file, candidate.function),
            _stripped(mutant.diff),
        )


def _stripped(diff: str) -> list[str]:
    return [line[:1] + line[1:].strip() for line in diff.strip().splitlines()]


def reasons(file: Path) -> list[Reason]:
    """Return the survivors that a file lists, or none without it. TOMLDecodeError, TypeError."""
    if not file.exists():
        return []
    told = tomllib.loads(file.read_text())
    return [Reason(**each) for each in told.get("survivor", ())]


def reason_of(mutant: Mutant, known: Iterable[Reason]) -> str:
    """Return why it may survive, or ""."""
    return next((each.reason for each in known if each.is_of(mutant)), "")


def share(verdicts: Sequence[Verdict]) -> float:
    """Return the part that died, from 0 to 1; 0 of none."""
    dead = sum(verdict.outcome is not Outcome.SURVIVED for verdict in verdicts)
    return dead / len(verdicts) if verdicts else 0.0


def table(sampled: Sequence[Mutant], verdicts: Sequence[Verdict], known: Sequence[Reason]) -> str:
    """Return a line for each area, and one for all."""
    counts = Counter(mutant.candidate.area for mutant in sampled)
    rows: list[Sequence[str]] = [_HEAD]
    for area in sorted(counts):
        of_area = [each for each in verdicts if each.mutant.candidate.area == area]
        rows.append(_row(area, counts[area], of_area, known))
    rows.append(_row("all", len(sampled), verdicts, known))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    return "\n".join(
        " | ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _row(
    area: str, sampled: int, verdicts: Sequence[Verdict], known: Sequence[Reason]
) -> Sequence[str]:
    count = Counter(verdict.outcome for verdict in verdicts)
    listed = sum(
        each.outcome is Outcome.SURVIVED and bool(reason_of(each.mutant, known))
        for each in verdicts
    )
    figures = (sampled, len(verdicts), *(count[outcome] for outcome in Outcome), listed)
    return area, *map(str, figures), f"{share(verdicts):.1%}"


def describe(verdict: Verdict, known: Sequence[Reason]) -> str:
    """Return lines on one mutant: its place, operator, diff, and why it may survive."""
    mutant, candidate = verdict.mutant, verdict.mutant.candidate
    place = f"{candidate.file}:{candidate.line} in {candidate.function or 'the module'}"
    lines = [f"{place}, {candidate.operator}", *mutant.diff.splitlines()]
    if reason := reason_of(mutant, known):
        lines.append(f"  reason: {reason}")
    return "\n".join(lines)


def as_json(sampled: Sequence[Mutant], verdicts: Sequence[Verdict], known: Sequence[Reason]) -> str:
    """Return everything that was found, for programs."""
    told = [
        {
            "file": each.mutant.candidate.file,
            "line": each.mutant.candidate.line,
            "function": each.mutant.candidate.function,
            "operator": each.mutant.candidate.operator,
            "diff": each.mutant.diff,
            "outcome": each.outcome,
            "stage": each.stage,
            "seconds": round(each.seconds, 1),
            "reason": reason_of(each.mutant, known),
            "said": each.said,
        }
        for each in verdicts
    ]
    summary = {"sampled": len(sampled), "judged": len(verdicts), "die": round(share(verdicts), 4)}
    return json.dumps(summary | {"mutants": told}, indent=1)


def dead(file: Path, sampled: Sequence[Mutant]) -> list[Verdict]:
    """Return those of a sample that died by what `as_json` wrote, wherever they stand by now."""
    if not file.exists():
        return []
    told = {_key(each): each for each in json.loads(file.read_text())["mutants"]}
    found = []
    for mutant in sampled:
        each = told.get((mutant.candidate.file, mutant.candidate.function, mutant.diff))
        if each is not None and each["outcome"] != Outcome.SURVIVED:
            how = each["stage"], each["seconds"], each["said"]
            found.append(Verdict(mutant, Outcome(each["outcome"]), *how))
    return found


def _key(told: dict[str, str]) -> tuple[str, str, str]:
    return told["file"], told["function"], told["diff"]
