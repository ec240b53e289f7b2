# SPDX-License-Identifier: Apache-2.0
"""What the page reads of a run's folder. Missing and damaged files leave gaps, which it tells."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dma_rehearsal.host_harness.process.plain_text import tail
from dma_rehearsal.host_harness.verdict.failure_record import FILE as FAILURES
from dma_rehearsal.host_harness.verdict.failure_record import Failure
from dma_rehearsal.host_harness.verdict.promise import Promise

_SIZE_MAX = 1 << 26  # bytes of a file that is read whole
_ROWS_MAX = 20_000
_TAIL_LINES = 40
_COUNTS = ("passed", "failed", "errors", "skipped", "xfailed", "xpassed")
_TEXTS = ("promise", "asked", "attested", "verdict", "reason", "test", "by", "xfail")
_LATER = ("verdicts.json", "junit.xml")  # which pytest writes after the page
# The files that the page links, in this order, where the run has them.
LINKED = (
    "attestations.json",
    "verdicts.json",
    "junit.xml",
    FAILURES,
    "device-trace.jsonl",
    "host-witness.jsonl",
    "device.log",
    "console.log",
    "boot-console.log",
    "dmesg.log",
    "qemu.log",
    "qmp.log",
    "environment.json",
    "argv",
    "rehearsal.txt",
    "not-saved",
)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run, as its folder tells it.

    ``facts`` are the run's own words for people, in order. ``logs`` are the ends of logs by name.
    ``gaps`` say which files could not be read. ``status`` is None without one.
    """

    folder: Path
    status: int | None
    error: str
    counts: Mapping[str, int]
    rows: Sequence[Promise]
    notes: Sequence[str]
    facts: Sequence[tuple[str, str]]
    failures: Sequence[Failure]
    replay: str
    logs: Mapping[str, Sequence[str]]
    files: Sequence[str]
    gaps: Sequence[str] = field(default=())

    @property
    def failed_tests(self) -> set[str]:
        """The names of the tests that failed."""
        return {each.test for each in self.failures}


def read(folder: Path) -> RunRecord:
    """Return the record of a run's folder, whatever of it is there."""
    gaps: list[str] = []
    attested = _object(folder / "attestations.json", gaps)
    environment = _object(folder / "environment.json", gaps)
    status = _line(folder / "status")
    rows = [_row(each) for each in _list(attested.get("promises"))[:_ROWS_MAX]]
    if (more := len(_list(attested.get("promises"))) - len(rows)) > 0:
        gaps.append(f"{more} more rows are in attestations.json")
    return RunRecord(
        folder=folder,
        status=int(status) if status.isdecimal() and len(status) < 3 else None,
        error=_text(attested.get("error")),
        counts={name: _number(attested.get(name)) for name in _COUNTS},
        rows=rows,
        notes=[_text(each) for each in _list(attested.get("notes"))],
        facts=_facts(folder, attested, environment),
        failures=_failures(folder / FAILURES, gaps),
        replay=_line(folder / "replay"),
        logs=_logs(folder),
        files=[name for name in LINKED if _has_content(folder / name) or (name in _LATER and rows)],
        gaps=gaps,
    )


def _failures(path: Path, gaps: list[str]) -> list[Failure]:
    whole = _object(path, gaps)
    found = []
    for each in _list(whole.get("failures")):
        try:
            found.append(Failure.of(each))
        except (TypeError, ValueError, KeyError) as error:
            gaps.append(f"{path.name}: a failure cannot be read: {error}")
    if left_out := _number(whole.get("left out")):
        gaps.append(f"{left_out} more failures are in junit.xml")
    return found


def _facts(
    folder: Path, attested: Mapping[str, Any], environment: Mapping[str, Any]
) -> list[tuple[str, str]]:
    guest, qemu = _mapping(environment.get("guest")), _mapping(environment.get("qemu"))
    options = _mapping(environment.get("options"))
    phases = _mapping(attested.get("phases"))
    start = _text(attested.get("start"))
    reason = _text(attested.get("start_reason"))
    found = [
        ("run", folder.resolve().name),
        ("options", ", ".join(f"{name}={_text(value)}" for name, value in options.items())),
        ("guest kernel", _text(guest.get("kernel"))),
        ("QEMU", _text(qemu.get("version"))),
        ("accelerator", _text(attested.get("accelerator"))),
        ("VMs", _text(attested.get("vms"))),
        ("guest's start", f"{start} ({reason})" if reason else start),
        ("seed", _text(attested.get("seed"))),
        ("places of buffers", _text(attested.get("place"))),
        ("phases", ", ".join(f"{name} {_text(value)} s" for name, value in phases.items())),
    ]
    return [(name, value) for name, value in found if value]


def _logs(folder: Path) -> dict[str, list[str]]:
    logs = {}
    for vm in (folder, *sorted(folder.glob("vm[0-9]*"))[:8]):
        prefix = "" if vm == folder else f"{vm.name}/"
        for name in ("console.log", "dmesg.log", "device.log", "qemu.log"):
            if lines := tail(vm / name, _TAIL_LINES):
                logs[prefix + name] = lines
    return logs


def _row(value: Any) -> Promise:
    facts = _mapping(value)
    words = {name: _text(facts.get(name)) for name in _TEXTS}
    more = _mapping(facts.get("facts"))
    return Promise(**words, facts={str(name): _text(each) for name, each in more.items()})


def _object(path: Path, gaps: list[str]) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_SIZE_MAX + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        gaps.append(f"{path.name} cannot be read: {error.strerror}")
        return {}
    try:
        if len(data) > _SIZE_MAX:
            raise ValueError(f"it has more than {_SIZE_MAX} bytes")
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        gaps.append(f"{path.name} cannot be read: {error}")
        return {}
    return _mapping(found)


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _line(path: Path) -> str:
    return "\n".join(tail(path, 1))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0
