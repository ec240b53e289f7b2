# SPDX-License-Identifier: Apache-2.0
"""Checks the documents of a run's folder against their schemas, by a validator that is not ours."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from dma_rehearsal.host_harness.verdict.documents.document import DOCUMENTS, Document

_NAMED = "properties"


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that allows named properties alone: nothing is written without a name."""
    found = copy.deepcopy(schema)
    for each in (found, *found["$defs"].values()):
        if _NAMED in each and "additionalProperties" not in each:
            each["additionalProperties"] = False
    return found


def errors(document: Document, whole: object) -> list[str]:
    """Return what ``jsonschema`` has against a document that this code has written."""
    found: Iterator[Any] = Draft202012Validator(closed(document.schema())).iter_errors(whole)
    return [f"{each.json_path}: {each.message}" for each in found]


def errors_of(folder: Path) -> list[str]:
    """Return what is wrong with the documents in a run's folder: those that there are."""
    return [
        f"{each.file}: {error}"
        for each in DOCUMENTS
        if (folder / each.file).exists()
        for error in errors(each, json.loads((folder / each.file).read_text()))
    ]
