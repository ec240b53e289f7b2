"""How a test states a promise and its verdict, and the settings of the run.

A verdict travels in the test's report, as a user property; the host makes the table from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NoReturn

import pytest

SEED = pytest.StashKey[int]()


class SettingsPlugin:
    """Gives the session its seed and registers the mark ``promise``."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def pytest_configure(self, config: pytest.Config) -> None:
        """Store the seed; register the mark."""
        config.stash[SEED] = self._seed
        config.addinivalue_line(
            "markers",
            "promise(name): the promise that the test is about; it is broken when the test fails "
            "before it could attest, and unattested when the test passes in silence",
        )


@dataclass(slots=True)
class Attest:
    """Records verdicts on promises for one test. Call it with what was asked and what was seen."""

    properties: list[tuple[str, Any]] = field(default_factory=list)

    def __call__(
        self, promise: str, *, asked: object, attested: object, kept: bool, reason: str = ""
    ) -> None:
        """Record a promise as kept or broken; broken fails the test and names the promise."""
        verdict = "kept" if kept else "broken"
        why = "" if kept else reason or f"attested: {attested}"
        self._record(promise, asked, attested, verdict, why)
        if not kept:
            pytest.fail(f"{promise} is broken: asked {asked}; attested {attested}; {why}")

    def broken(self, promise: str, *, asked: object, attested: object, reason: str) -> NoReturn:
        """Record a broken promise and fail the test."""
        self(promise, asked=asked, attested=attested, kept=False, reason=reason)
        raise AssertionError("unreachable")

    def unattested(self, promise: str, *, asked: object, reason: str) -> None:
        """Record a promise that nothing outside the allocator could confirm."""
        self._record(promise, asked, "", "unattested", reason)

    def unsupported(self, promise: str, *, asked: object, code: object, reason: str) -> None:
        """Record an option that raised ``code`` (kIOReturnUnsupported) with ``reason``."""
        self._record(promise, asked, code, "unsupported", reason)

    def _record(
        self, promise: str, asked: object, attested: object, verdict: str, reason: str
    ) -> None:
        row = {
            "promise": promise,
            "asked": str(asked),
            "attested": str(attested),
            "verdict": verdict,
            "reason": reason,
        }
        self.properties.append(("promise", row))
