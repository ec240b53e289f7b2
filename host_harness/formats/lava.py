# SPDX-License-Identifier: Apache-2.0
"""Signals of LAVA's test shell, one a line: those that lava-test-case and lava-test-set print.

LAVA splits a signal at white space and ends it at ">", so names keep letters, digits and "._-".
The last case is the run itself: where it is missing, the run did not end.
"""

from __future__ import annotations

import re

from dma_rehearsal.host_harness.formats import clean_text
from dma_rehearsal.host_harness.formats.run_result import Outcome, RunResult
from dma_rehearsal.host_harness.process.errors import Status

RUN = "dma-rehearsal"
"""The name of the run's own case."""
_NAME_MAX = 150
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
# LAVA has the results pass, fail, skip and unknown.
_RESULTS = {
    Outcome.PASSED: "pass",
    Outcome.XPASSED: "pass",
    Outcome.FAILED: "fail",
    Outcome.ERROR: "fail",
    Outcome.SKIPPED: "skip",
    Outcome.XFAILED: "skip",
}


def write(result: RunResult) -> str:
    """Return the result as signals: a test set for each file, a test case for each test."""
    groups = result.groups
    sets = clean_text.unique(_name(each.removesuffix(".py")) for each in groups)
    # A case's name is unique in the run, so that a reader that ignores sets loses none.
    names = iter(
        clean_text.unique([RUN, *(_name(each.name) for of in groups.values() for each in of)])[1:]
    )
    found = []
    for name, cases in zip(sets, groups.values(), strict=True):
        found.append(f"<LAVA_SIGNAL_TESTSET START {name}>")
        for each in cases:
            found.append(
                f"<LAVA_SIGNAL_TESTCASE TEST_CASE_ID={next(names)} RESULT={_RESULTS[each.outcome]} "
                f"UNITS=seconds MEASUREMENT={each.seconds:.3f}>"
            )
        found.append("<LAVA_SIGNAL_TESTSET STOP>")
    whole = "pass" if result.status is Status.PASSED else "fail"
    found.append(f"<LAVA_SIGNAL_TESTCASE TEST_CASE_ID={RUN} RESULT={whole}>")
    return "\n".join(found) + "\n"


def _name(text: str) -> str:
    return clean_text.name(_UNSAFE.sub("_", text).strip("_"), _NAME_MAX)
