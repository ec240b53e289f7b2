# SPDX-License-Identifier: Apache-2.0
"""A row of the ledger: one promise of one test, and the verdict on it."""

from __future__ import annotations

from dataclasses import dataclass, field

BY_TEST, BY_EVIDENCE = "test", "evidence"  # who decided


@dataclass(frozen=True, slots=True)
class Promise:
    """One row of attestations.json. ``facts`` are for other tables, such as that of cache modes.

    ``by`` says who decided: the test, or the evidence that the host looked at. ``xfail`` says why
    the test was expected to fail, where it did: such a row fails nothing.
    """

    promise: str
    asked: str
    attested: str
    verdict: str
    reason: str
    test: str
    facts: dict[str, str] = field(default_factory=dict)
    by: str = BY_EVIDENCE
    xfail: str = ""
