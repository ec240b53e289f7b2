# SPDX-License-Identifier: Apache-2.0
"""One of the runs that are compared: its folder or its document, found by name and read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dma_rehearsal.host_harness.process.errors import UsageError
from dma_rehearsal.host_harness.process.plain_text import printable
from dma_rehearsal.host_harness.verdict.documents import reading
from dma_rehearsal.host_harness.verdict.documents.document import (
    ATTESTATIONS,
    ENVIRONMENT,
    VERDICTS,
    Document,
)

_NAMES_SHOWN = 5
_COUNTS = ("passed", "failed", "errors", "skipped", "xfailed", "xpassed")


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """The documents of a run. ``outcomes`` and ``environment`` are None where they are missing."""

    name: str
    attestations: Mapping[str, Any]
    outcomes: Mapping[str, str] | None = None
    environment: Mapping[str, Any] | None = None
    rows: Mapping[str, list[Mapping[str, Any]]] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """The status that the run ended with."""
        return int(self.attestations["status"])

    @property
    def summary(self) -> str:
        """Its name, status and counts, for people."""
        counts = ", ".join(
            f"{self.attestations[name]} {name}"
            for name in _COUNTS
            if self.attestations[name] or name in ("passed", "failed")
        )
        return f"{printable(self.name)} (status {self.status}; {counts})"


def read(text: str, runs: Path) -> ComparedRun:
    """Return the run that ``text`` names: a folder, a document, or a name below ``runs``.

    UsageError when there is none, when it has not ended, or when a document of it is wrong.
    """
    path = _found(text, runs)
    if path.is_file():
        return _of(str(path), reading.read(path, ATTESTATIONS), None, None)
    attestations = _of_folder(path, ATTESTATIONS)
    if attestations is None:
        raise UsageError(
            f"{printable(str(path))}: there is no {ATTESTATIONS.file}, so the run has not ended",
            f"name one of the runs in it, such as {printable(str(path / 'latest'))}"
            if (path / "latest").exists()
            else "wait for its end; if it was killed, run it again",
        )
    verdicts = _of_folder(path, VERDICTS)
    name = str(path.parent / path.resolve().name if path.is_symlink() else path)
    return _of(name, attestations, verdicts, _of_folder(path, ENVIRONMENT))


def _of(
    name: str,
    attestations: Mapping[str, Any],
    verdicts: Mapping[str, Any] | None,
    environment: Mapping[str, Any] | None,
) -> ComparedRun:
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for row in attestations["promises"]:
        rows.setdefault(row["test"], []).append(row)
    outcomes = None
    if verdicts is not None:
        outcomes = {test: each["outcome"] for test, each in verdicts["tests"].items()}
    return ComparedRun(name, attestations, outcomes, environment, rows)


def _of_folder(folder: Path, document: Document) -> Mapping[str, Any] | None:
    path = folder / document.file
    return reading.read(path, document) if path.exists() else None


def _found(text: str, runs: Path) -> Path:
    for path in (Path(text), runs / text):
        if text and (path.is_dir() or path.is_file()):
            return path
    names = sorted(each.name for each in runs.iterdir()) if runs.is_dir() else []
    names = [each for each in names if re.match(r"[\w-]", each)]
    alike = difflib.get_close_matches(text, names, _NAMES_SHOWN) or names[-_NAMES_SHOWN:]
    raise UsageError(
        f"there is no run {printable(text)!r}, neither here nor in {printable(str(runs))}",
        f"name one of its folders, such as {', '.join(map(printable, alike))}"
        if alike
        else "name a run's folder, or an attestations.json; --runs names the folder of runs",
    )
