# SPDX-License-Identifier: Apache-2.0
"""Reads a document, which anyone may have written: bounded, and checked against its schema."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any, NoReturn

from dma_rehearsal.host_harness.process.errors import UsageError
from dma_rehearsal.host_harness.process.plain_text import printable
from dma_rehearsal.host_harness.verdict.documents import schema_check
from dma_rehearsal.host_harness.verdict.documents.document import (
    ATTESTATIONS,
    ENVIRONMENT,
    VERDICTS,
    Document,
)

SIZE_MAX = 16 << 20  # bytes of a file; a whole run of the suite has 0.3 MB
_VERSION = re.compile(r"(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})")
_REASON_MAX = 300  # characters of a message about a document


class DocumentError(UsageError):
    """A document that cannot be read, or is wrong; the message names the file and the place."""


def read(path: Path, document: Document) -> dict[str, Any]:
    """Return the content of a file of this kind, as the schema of its major version describes it.

    One that was written before there were versions is given what it lacks. `DocumentError` when the
    file is missing, too large, damaged, of another kind, of a newer major version, or not as the
    schema says.
    """
    whole = _parsed(path)
    if "schema" not in whole and "version" not in whole:
        whole = _of_before(whole, document)
    _check_version(path, whole, document)
    try:
        schema_check.check(whole, document.schema())
    except schema_check.Wrong as error:
        _refuse(path, str(error), _form(document))
    return whole


def _parsed(path: Path) -> dict[str, Any]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would have no end, or never begin
            _refuse(path, "it is not a regular file", "name a document of a run")
        with path.open("rb") as file:
            data = file.read(SIZE_MAX + 1)
    except OSError as error:
        _refuse(path, error.strerror or "it cannot be read", "name a run or a document that exists")
    if len(data) > SIZE_MAX:
        _refuse(path, f"it has more than {SIZE_MAX >> 20} MiB", "name a document of one run")
    try:
        whole = json.loads(
            data.decode(), parse_constant=_not_json, object_pairs_hook=_without_doubles
        )
    except RecursionError:
        _refuse(path, "it is nested too deeply", "name a document of a run")
    except ValueError as error:
        _refuse(path, f"it is not JSON: {error}", "was it written to its end?")
    if not isinstance(whole, dict):
        _refuse(path, "it is not a JSON object", "name a document of a run")
    return whole


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; of a name that is there twice, each reader might take another value."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same name twice")
    return found


def _check_version(path: Path, whole: dict[str, Any], document: Document) -> None:
    kind, version = whole.get("schema"), whole.get("version")
    if kind != document.kind:
        _refuse(
            path,
            f"its schema is {kind!r}, and not {document.kind!r}",
            f"name a run's {document.file}",
        )
    found = _VERSION.fullmatch(version) if isinstance(version, str) else None
    if not found:
        _refuse(path, f"its version is {version!r}, and not MAJOR.MINOR", _form(document))
    if int(found[1]) > document.major:
        _refuse(
            path,
            f"it has version {version}, and this dma-rehearsal reads {document.major}.x",
            "use the dma-rehearsal that wrote it, or a newer one",
        )


def _of_before(whole: dict[str, Any], document: Document) -> dict[str, Any]:
    """Return a document without a version as one of version 1.0."""
    header = {"schema": document.kind, "version": "1.0"}
    if document == VERDICTS:
        return {**header, "tests": whole}
    if document == ENVIRONMENT:
        return {**header, "commit": None, "profile": None, **whole}
    return {**header, **whole}


def _form(document: Document) -> str:
    return f"docs/attestations.md describes {document.file}"


def _refuse(path: Path, why: str, hint: str) -> NoReturn:
    raise DocumentError(f"{printable(str(path))}: {printable(why[:_REASON_MAX])}", hint)


__all__ = ["ATTESTATIONS", "ENVIRONMENT", "SIZE_MAX", "VERDICTS", "DocumentError", "read"]
