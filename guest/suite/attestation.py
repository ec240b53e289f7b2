"""How a test states a promise and its verdict, and the settings of the run.

A verdict travels in the test's report, as a user property; the host makes the table from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NoReturn

import pytest

SEED = pytest.StashKey[int]()


class CheckFailed(AssertionError):
    """What the device did is not what was promised; the message says where.

    Out of a test it breaks the promises that the test is marked with.
    """


class SettingsPlugin:
    """Gives the session its seed, the mark ``promise`` and what a failed check means."""

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
        config.addinivalue_line(
            "markers",
            "kernel: looks at what the guest's own kernel does; left out where there is none",
        )

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> object:
        """Record a failed check against the test's promises, with its parameters as what is asked.

        The message then names the promise, and the host's table has what was seen.
        """
        try:
            return (yield)
        except CheckFailed as error:
            names = marked_promises(pyfuncitem)
            asked, seen = _asked(pyfuncitem), str(error)
            attest = Attest(pyfuncitem.user_properties)
            for name in names:
                attest.record(name, asked, seen, "broken", seen)
            if names:
                error.args = (f"{', '.join(names)} is broken: asked {asked}; attested {seen}",)
            raise


def marked_promises(item: pytest.Item) -> list[str]:
    """Return the promises that a test is marked with."""
    return [str(mark.args[0]) for mark in item.iter_markers("promise") if mark.args]


def _asked(item: pytest.Function) -> str:
    """Return the parameters of a test, for people; without any, its name."""
    if not hasattr(item, "callspec"):
        return item.name
    return ", ".join(
        f"{name} {getattr(value, 'name', value)}" for name, value in item.callspec.params.items()
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
        self.record(promise, asked, attested, verdict, why)
        if not kept:
            pytest.fail(f"{promise} is broken: asked {asked}; attested {attested}; {why}")

    def broken(self, promise: str, *, asked: object, attested: object, reason: str) -> NoReturn:
        """Record a broken promise and fail the test."""
        self(promise, asked=asked, attested=attested, kept=False, reason=reason)
        raise AssertionError("unreachable")

    def unattested(self, promise: str, *, asked: object, reason: str) -> None:
        """Record a promise that nothing outside the allocator could confirm."""
        self.record(promise, asked, "", "unattested", reason)

    def unsupported(self, promise: str, *, asked: object, code: object, reason: str) -> None:
        """Record an option that raised ``code`` (kIOReturnUnsupported) with ``reason``."""
        self.record(promise, asked, code, "unsupported", reason)

    def record(
        self, promise: str, asked: object, attested: object, verdict: str, reason: str
    ) -> None:
        """Add a row; ``verdict`` is kept, broken, unattested or unsupported. Fails nothing."""
        row = {
            "promise": promise,
            "asked": str(asked),
            "attested": str(attested),
            "verdict": verdict,
            "reason": reason,
        }
        self.properties.append(("promise", row))
