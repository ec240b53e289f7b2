# SPDX-License-Identifier: Apache-2.0
"""The files that a run writes for other programs: ``OUTPUT=FORMAT=PATH,...``."""

from __future__ import annotations

from dataclasses import dataclass

from dma_rehearsal.host_harness.process.errors import UsageError

STDOUT = "-"
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
"""The variable in which a step of a GitHub job finds the file of its summary."""

# The formats, each with the place that it has without a path; "": it needs one.
FORMATS = {
    "ktap": "",
    "tap": "",
    "junit": "",
    "sarif": "",
    "lava": STDOUT,
    "github-annotations": STDOUT,
    "github-summary": f"${STEP_SUMMARY}",
}


@dataclass(frozen=True, slots=True)
class Output:
    """One output: the name of its format, and a path, ``-`` (standard output) or a $VARIABLE."""

    format: str
    place: str


def parse(text: str) -> tuple[Output, ...]:
    """Return the outputs that a list with commas names; UsageError says what is wrong."""
    found: list[Output] = []
    for word in filter(None, text.split(",")):
        name, equals, path = word.partition("=")
        if name not in FORMATS:
            raise UsageError(
                f"OUTPUT={text}: {name!r} is not a format",
                f"the formats are: {', '.join(FORMATS)}; a path cannot have a ','",
            )
        place = path or FORMATS[name]
        if not place or (equals and not path):
            raise UsageError(
                f"OUTPUT={text}: {name} needs a path", f"write {name}=PATH, or {name}=- to print it"
            )
        if place in (each.place for each in found):
            raise UsageError(
                f"OUTPUT={text}: two formats would go to {place}", "give each a place of its own"
            )
        found.append(Output(name, place))
    return tuple(found)
