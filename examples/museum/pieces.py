# SPDX-License-Identifier: Apache-2.0
"""The pieces of the museum, as their folders describe them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Piece:
    """One mistake. ``source`` names the project and the report (owner/project#number).

    ``shows``: what the rig must say of the buggy variant, each a DmaReason, a CacheReportKind or a
    DriverReportKind; "wrong data" where the bytes themselves tell. ``plain``: "silent", or "fails"
    for a mistake that a plain kernel shows, too.
    """

    name: str
    title: str
    source: str
    mistake: str
    mend: str
    shows: tuple[str, ...]
    plain: str = "silent"

    @property
    def folder(self) -> Path:
        """Return the folder of its driver, device and test."""
        return FOLDER / self.name


def all_pieces() -> list[Piece]:
    """Return the pieces by name. ValueError for a folder whose piece.toml lacks something."""
    return [_read(path) for path in sorted(FOLDER.glob("*/piece.toml"))]


def _read(path: Path) -> Piece:
    facts = tomllib.loads(path.read_text())
    try:
        return Piece(
            path.parent.name,
            facts["title"],
            facts["source"],
            facts["mistake"],
            facts["mend"],
            tuple(facts["shows"]),
            facts.get("plain", "silent"),
        )
    except KeyError as error:
        raise ValueError(f"{path}: {error} is missing") from error
