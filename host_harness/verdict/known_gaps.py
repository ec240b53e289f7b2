# SPDX-License-Identifier: Apache-2.0
"""Known gaps: promises that may stay unattested or unsupported without failing a run."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from dma_rehearsal.host_harness.process.errors import UsageError

OWN = Path(__file__).with_name("known_gaps.toml")


@dataclass(frozen=True, slots=True)
class KnownGaps:
    """Pairs of promise and reason (unattested), and of promise and what was asked (unsupported)."""

    unattested: frozenset[tuple[str, str]] = frozenset()
    unsupported: frozenset[tuple[str, str]] = frozenset()

    @classmethod
    def load(cls, path: Path) -> KnownGaps:
        """Read a list; UsageError when it cannot be read or has another form."""
        try:
            listed = tomllib.loads(path.read_text())
            return cls(
                frozenset((e["promise"], e["reason"]) for e in listed.get("unattested", [])),
                frozenset((e["promise"], e["asked"]) for e in listed.get("unsupported", [])),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"the list of known gaps {path} cannot be read: {error!r}",
                "it has [[unattested]] with promise and reason, [[unsupported]] with promise and "
                f"asked; {OWN} is one",
            ) from error
