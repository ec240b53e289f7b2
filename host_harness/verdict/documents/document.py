# SPDX-License-Identifier: Apache-2.0
"""The kinds of documents, their versions, and the JSON Schema of each.

A document names its kind and its version, MAJOR.MINOR. A change raises one of them:

- minor: a new property that a document may lack. A reader ignores properties that it does not know.
- major: everything else. A property is removed, renamed or newly required, or its type, unit,
  range, set of values or meaning changes.

Descriptions may change freely. A document without a version was written before there were any; it
is read as version 1.0.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent
_PREFIX = "dma-rehearsal/"


@dataclass(frozen=True, slots=True)
class Document:
    """A kind of document: its name, and the version of its form that this code writes."""

    name: str
    major: int
    minor: int

    @property
    def kind(self) -> str:
        """The value of its property ``schema``."""
        return _PREFIX + self.name

    @property
    def version(self) -> str:
        """The value of its property ``version``."""
        return f"{self.major}.{self.minor}"

    @property
    def file(self) -> str:
        """The name of such a file in a run's folder."""
        return f"{self.name}.json"

    @property
    def schema_path(self) -> Path:
        """The file of its JSON Schema, draft 2020-12."""
        return _FOLDER / f"{self.name}.schema.json"

    @property
    def header(self) -> dict[str, str]:
        """The properties with which each such document begins."""
        return {"schema": self.kind, "version": self.version}

    def schema(self) -> dict[str, Any]:
        """Return its JSON Schema, which the caller does not change."""
        return _loaded(self.schema_path)


@cache
def _loaded(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


ATTESTATIONS = Document("attestations", 1, 0)
ENVIRONMENT = Document("environment", 1, 0)
VERDICTS = Document("verdicts", 1, 0)
DOCUMENTS = (ATTESTATIONS, VERDICTS, ENVIRONMENT)
