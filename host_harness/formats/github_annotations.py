# SPDX-License-Identifier: Apache-2.0
"""Annotations of GitHub Actions: workflow commands, ``::error file=,line=,title=::message``.

A message has "%", CR and LF escaped; a property also ":" and ",". GitHub shows ten errors of a
step, so what names a line of a driver comes first.
"""

from __future__ import annotations

from dma_rehearsal.host_harness.formats import clean_text
from dma_rehearsal.host_harness.formats.run_result import Case, Place, RunResult

_SHOWN_MAX = 50  # of a job
_TEXT_MAX = 2000  # characters


def write(result: RunResult) -> str:
    """Return the failures as annotations, one a line; nothing for a run that passed."""
    found: dict[str, None] = {}  # one mistake of a driver may show in several tests
    for case in result.failed:
        for each in case.findings:
            found[_error(each.place or case.place, each.kind or case.name, each.text)] = None
    for case in result.failed:
        if not case.findings:
            found[_error(case.place, case.name, _message(case))] = None
    lines = list(found)
    if (more := len(lines) - _SHOWN_MAX) > 0:
        lines[_SHOWN_MAX:] = [_error(None, "dma-rehearsal", f"and {more} failures more")]
    return "".join(f"{each}\n" for each in lines)


def _message(case: Case) -> str:
    replay = "" if case.reason in case.text else f"{case.reason}\n"
    return clean_text.block(f"{replay}{case.text}", _TEXT_MAX)


def _error(place: Place | None, title: str, message: str) -> str:
    properties = {"title": title}
    if place:
        properties = {"file": place.file, "line": str(place.line or 1), **properties}
    words = ",".join(f"{name}={_property(text)}" for name, text in properties.items())
    return f"::error {words}::{_escaped(message or title)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")
