# SPDX-License-Identifier: Apache-2.0
"""One sound document of each kind, with every property that it can have."""

from __future__ import annotations

import copy
from typing import Any

from dma_rehearsal.device.exerciser import profile
from dma_rehearsal.host_harness.verdict.documents.document import (
    ATTESTATIONS,
    ENVIRONMENT,
    VERDICTS,
    Document,
)

TEST = "suite/test_direction.py::test_in[64]"
_SOUND: dict[Document, dict[str, Any]] = {
    ATTESTATIONS: {
        **ATTESTATIONS.header,
        "accelerator": "tcg",
        "vms": 1,
        "seed": (1 << 64) - 1,
        "place": "kind",
        "start": "cold",
        "start_reason": "STATE=no",
        "phases": {"tests": 1.5, "shutdown": 0},
        "status": 1,
        "error": "",
        "passed": 1,
        "failed": 1,
        "errors": 0,
        "skipped": 0,
        "xfailed": 0,
        "xpassed": 0,
        "notes": ["a note"],
        "promises": [
            {
                "promise": "kIODirectionIn",
                "asked": "64 bytes",
                "attested": "wrote 64 of 64 bytes at 0xc000 in 1 DMA",
                "verdict": "kept",
                "reason": "",
                "test": TEST,
                "facts": {"mode": "kIOMapInhibitCache"},
                "by": "evidence",
                "xfail": "",
            }
        ],
    },
    VERDICTS: {
        **VERDICTS.header,
        "tests": {TEST: {"outcome": "passed", "promises": {"kIODirectionIn": {"kept": 1}}}},
    },
    ENVIRONMENT: {
        **ENVIRONMENT.header,
        "accelerator": "tcg",
        "vms": 1,
        "start": {"kind": "cold", "reason": "STATE=no"},
        "options": {"state": "no"},
        "qemu": {"version": "11.1.2", "origin": "private"},
        "guest": {"kernel": "6.1.0", "kernel of": "bookworm"},
        "packages": {"fio": "3.33-3"},
        "host": {"python": "3.11.7", "kernel": "6.18"},
        "commit": "12ca9777f8264e643cf0ba026ee92f277455a1a8-dirty",
        "profile": profile.PLAIN.facts,
    },
}


def sound(document: Document) -> dict[str, Any]:
    """Return a document of this kind, which the caller may change."""
    return copy.deepcopy(_SOUND[document])


def before_versions(document: Document) -> dict[str, Any]:
    """Return it as it was written before documents had versions."""
    whole = sound(document)
    del whole["schema"], whole["version"]
    if document == ENVIRONMENT:
        del whole["commit"], whole["profile"]
    tests: dict[str, Any] = whole["tests"] if document == VERDICTS else whole
    return tests
