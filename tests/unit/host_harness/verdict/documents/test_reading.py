# SPDX-License-Identifier: Apache-2.0
"""The reader of documents: those of before versions, of newer ones, and hostile ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.host_harness.verdict.documents import reading
from dma_rehearsal.host_harness.verdict.documents.document import (
    ATTESTATIONS,
    DOCUMENTS,
    ENVIRONMENT,
    VERDICTS,
    Document,
)
from dma_rehearsal.host_harness.verdict.documents.reading import DocumentError
from tests.unit.host_harness.verdict.documents.written import before_versions, sound

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda each: each.name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "document.json"


@each_document
def test_document_is_read(path: Path, document: Document) -> None:
    path.write_text(json.dumps(sound(document)))
    assert reading.read(path, document) == sound(document)


@each_document
def test_document_of_before_versions_is_read_as_the_first(path: Path, document: Document) -> None:
    path.write_text(json.dumps(before_versions(document)))
    due = sound(document) | {"version": "1.0"}
    if document == ENVIRONMENT:
        due |= {"commit": None, "profile": None}
    assert reading.read(path, document) == due


def test_board_leaves_out_what_only_a_vm_has(path: Path) -> None:
    whole = sound(ATTESTATIONS)
    for name in ("accelerator", "vms", "place", "start", "start_reason", "phases"):
        del whole[name]
    path.write_text(json.dumps(whole))
    assert reading.read(path, ATTESTATIONS) == whole


def test_newer_minor_version_is_read_and_what_it_adds_is_left_alone(path: Path) -> None:
    whole = sound(VERDICTS) | {"version": "1.7", "added": 1}
    path.write_text(json.dumps(whole))
    assert reading.read(path, VERDICTS) == whole


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "2.0"}, "it has version 2.0, and this dma-rehearsal reads 1.x"),
        ({"version": "0.9"}, r"document.version does not match"),
        ({"version": "1"}, "its version is '1', and not MAJOR.MINOR"),
        ({"version": 1.0}, "its version is 1.0, and not MAJOR.MINOR"),
        ({"version": "1.0\n"}, "its version is '1.0.n', and not MAJOR.MINOR"),
        ({"schema": "dma-rehearsal/verdicts"}, "its schema is 'dma-rehearsal/verdicts', and not"),
        ({"schema": "\x1b[2J"}, r"its schema is '\\x1b\[2J'"),
        ({"promises": 1}, "document.promises is not of the type array: 1"),
        ({"seed": 1 << 64}, "document.seed is more than"),
        ({"passed": True}, "document.passed is not of the type integer: True"),
    ],
)
def test_wrong_document_is_refused(path: Path, change: dict[str, Any], words: str) -> None:
    path.write_text(json.dumps(sound(ATTESTATIONS) | change))
    with pytest.raises(DocumentError, match=words) as caught:
        reading.read(path, ATTESTATIONS)
    assert str(path) in str(caught.value)
    assert caught.value.hint


HOSTILE: dict[str, Callable[[], bytes]] = {
    "it is not JSON": lambda: b'{"schema": ',
    "it is not JSON: NaN": lambda: b'{"seed": NaN}',
    "it is not JSON: an object has the same name twice": lambda: b'{"seed": 1, "seed": 2}',
    "it is not JSON: Exceeds": lambda: b'{"seed": ' + b"9" * 10_000 + b"}",
    "it is not JSON: 'utf-8'": lambda: b'{"seed": "\xff"}',
    "it is nested too deeply": lambda: b"[" * 1_000_000,
    "it is not a JSON object": lambda: b"[]",
    "it has more than 16 MiB": lambda: b" " * (reading.SIZE_MAX + 1),
    "document lacks": lambda: b"{}",
}


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_document_is_refused(path: Path, words: str) -> None:
    path.write_bytes(HOSTILE[words]())
    with pytest.raises(DocumentError, match=words) as caught:
        reading.read(path, ATTESTATIONS)
    assert len(str(caught.value)) < 1000


def test_missing_file_and_folder_are_refused(path: Path) -> None:
    with pytest.raises(DocumentError, match="No such file"):
        reading.read(path, ATTESTATIONS)
    with pytest.raises(DocumentError, match="not a regular file"):
        reading.read(path.parent, ATTESTATIONS)
