# SPDX-License-Identifier: Apache-2.0
"""SARIF 2.1.0 (OASIS): failures, and reports about a driver, with their places in the sources."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from dma_rehearsal.host_harness.formats import clean_text
from dma_rehearsal.host_harness.formats.run_result import Case, Outcome, Place, RunResult

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_HOMEPAGE = "https://github.com/dma-rehearsal/dma-rehearsal"
_ROOT = "SRCROOT"  # the name of the project's folder, which the reader knows
_RULES = {
    "test-failed": "A test of DMA failed, or a promise was not kept.",
    "test-error": "A test of DMA could not be set up or taken down.",
    "no-verdict": "The run ended without a verdict.",
}
_DRIVER = "The use of the DMA API by a driver is wrong."
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def write(result: RunResult) -> str:
    """Return the findings as JSON. A run without a verdict has an invocation that failed."""
    found = list(_results(result))
    rules = sorted({each["ruleId"] for each in found})
    for each in found:
        each["ruleIndex"] = rules.index(each["ruleId"])
    invocation: dict[str, Any] = {
        "executionSuccessful": result.is_complete,
        "exitCode": result.status.value,
    }
    if not result.is_complete:
        text = result.failed[-1].text
        invocation["toolExecutionNotifications"] = [{"level": "error", "message": {"text": text}}]
    run = {
        "tool": {
            "driver": {
                "name": "dma-rehearsal",
                "informationUri": _HOMEPAGE,
                "rules": [_rule(each) for each in rules],
            }
        },
        "invocations": [invocation],
        "columnKind": "unicodeCodePoints",
        "results": found,
        "properties": {**result.facts, "counts": result.counted},
    }
    whole = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _results(result: RunResult) -> Iterator[dict[str, Any]]:
    seen = set()
    for case in result.failed:
        for finding in case.findings:
            rule = f"driver/{_UNSAFE.sub('-', finding.kind.rpartition('.')[2]) or 'finding'}"
            place = finding.place or case.place
            key = (rule, place, finding.what)
            if key not in seen:  # one mistake may show in several tests
                seen.add(key)
                yield _result(rule, finding.text or finding.what, place, case, result)
        if not case.findings:
            rule = "test-failed" if case.outcome is Outcome.FAILED else "test-error"
            if case is result.cases[-1] and not result.is_complete:
                rule = "no-verdict"
            yield _result(rule, case.text or case.reason or case.name, case.place, case, result)


def _result(
    rule: str, text: str, place: Place | None, case: Case, result: RunResult
) -> dict[str, Any]:
    # GitHub refuses a result without a file.
    where = place or Place(result.where)
    location: dict[str, Any] = {"artifactLocation": _artifact(where.file)}
    if where.line:
        location["region"] = {"startLine": where.line}
    name = f"{rule}\n{case.nodeid}\n{where.file}"
    return {
        "ruleId": rule,
        "level": "error",
        "message": {"text": clean_text.block(text) or case.name},
        "locations": [
            {
                "physicalLocation": location,
                "logicalLocations": [{"fullyQualifiedName": case.nodeid, "kind": "function"}],
            }
        ],
        "partialFingerprints": {"test/v1": hashlib.sha256(name.encode()).hexdigest()[:32]},
    }


def _artifact(file: str) -> dict[str, str]:
    if file.startswith("/"):
        return {"uri": f"file://{quote(file)}"}
    return {"uri": quote(file), "uriBaseId": _ROOT}


def _rule(rule: str) -> dict[str, Any]:
    return {
        "id": rule,
        "shortDescription": {"text": _RULES.get(rule, _DRIVER)},
        "defaultConfiguration": {"level": "error"},
    }
