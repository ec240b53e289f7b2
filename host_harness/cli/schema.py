# SPDX-License-Identifier: Apache-2.0
"""Prints the JSON Schema of a document of a run's folder."""

from __future__ import annotations

from dma_rehearsal.host_harness.process.errors import UsageError
from dma_rehearsal.host_harness.verdict.documents import schema_page
from dma_rehearsal.host_harness.verdict.documents.document import DOCUMENTS


def text(name: str, *, markdown: bool) -> str:
    """Return the schema of the document ``name``; as Markdown, the tables of all documents.

    UsageError for a document that does not exist.
    """
    if markdown:
        return schema_page.markdown()
    for document in DOCUMENTS:
        if document.name == name:
            return document.schema_path.read_text().rstrip()
    names = ", ".join(each.name for each in DOCUMENTS)
    raise UsageError(f"no document is called {name!r}", f"name one of these: {names}")
