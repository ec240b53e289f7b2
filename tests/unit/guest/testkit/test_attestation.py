# SPDX-License-Identifier: Apache-2.0
"""Verdicts: kept passes, broken fails and names the promise, and each is a row in the report."""

from __future__ import annotations

from typing import Any

import pytest

from dma_rehearsal.guest.session import SETTINGS, SessionSettings, SettingsPlugin
from dma_rehearsal.guest.testkit import marks

pytest_plugins = ["pytester"]

CONFTEST = """
import pytest
from dma_rehearsal.guest.session import SETTINGS
from dma_rehearsal.guest.testkit.attestation import Attest, CheckFailed
from dma_rehearsal.guest.testkit.patterns import Patterns

@pytest.fixture
def attest(request):
    return Attest(request.node.user_properties)

@pytest.fixture
def data(request):
    return Patterns(request.config.stash[SETTINGS].seed, request.node.nodeid)
"""


class Reports:
    """Keeps the reports of a session's calls, by the test's name."""

    def __init__(self) -> None:
        self.calls: dict[str, pytest.TestReport] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.calls[report.nodeid.rpartition("::")[2]] = report

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return the rows that a test recorded."""
        rows = []
        for key, value in self.calls[name].user_properties:
            assert key == "promise"
            assert isinstance(value, dict)
            rows.append(value)
        return rows


def run(pytester: pytest.Pytester, tests: str, seed: int = 7) -> Reports:
    """Run tests as the agent does, with the settings and the marks."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(tests)
    reports = Reports()
    pytester.inline_run(
        "--strict-markers", plugins=[SettingsPlugin(SessionSettings(seed)), marks, reports]
    )
    return reports


def test_kept(pytester: pytest.Pytester) -> None:
    reports = run(
        pytester,
        """
        def test_it(attest):
            attest("alignment", asked=4096, attested="low bits 0x0", kept=True, reason="not used")
        """,
    )
    assert reports.calls["test_it"].passed
    assert reports.rows("test_it") == [
        {
            "promise": "alignment",
            "asked": "4096",
            "attested": "low bits 0x0",
            "verdict": "kept",
            "reason": "",
            "facts": {},
            "by": "test",
            "evidence": "bytes",
        }
    ]


def test_broken_fails_and_names_promise_asked_and_attested(pytester: pytest.Pytester) -> None:
    reports = run(
        pytester,
        """
        def test_it(attest):
            attest("inTask", asked="task 1", attested="sound so far", kept=True)
            attest("alignment", asked=4096, attested="low bits 0x800", kept=False, reason="it lies")
            raise AssertionError("never here")

        def test_no_reason(attest):
            attest("capacity", asked=1, attested="2 bytes", kept=False)

        def test_at_once(attest):
            attest.broken("release", asked="back", attested="leaked", reason="64 bytes are gone")
        """,
    )
    said = reports.calls["test_it"].longreprtext
    assert "alignment is broken: asked 4096; attested low bits 0x800; it lies" in said
    assert [(row["promise"], row["verdict"]) for row in reports.rows("test_it")] == [
        ("inTask", "kept"),
        ("alignment", "broken"),
    ]
    assert reports.rows("test_no_reason")[0]["reason"] == "attested: 2 bytes"
    assert reports.calls["test_at_once"].failed
    assert reports.rows("test_at_once")[0]["reason"] == "64 bytes are gone"


def test_unattested_and_unsupported_are_recorded_and_pass(pytester: pytest.Pytester) -> None:
    reports = run(
        pytester,
        """
        def test_it(attest):
            attest.unattested("kIODirectionIn denial", asked="a read", reason="no unit yet")
            attest.unsupported("kIOMemoryPageable", asked="it", code="kIOReturnUnsupported",
                               reason="always wired")
        """,
    )
    assert reports.calls["test_it"].passed
    first, second = reports.rows("test_it")
    assert (first["verdict"], first["reason"]) == ("unattested", "no unit yet")
    assert (second["verdict"], second["attested"]) == ("unsupported", "kIOReturnUnsupported")


def test_failed_check_breaks_the_promises_of_the_test(pytester: pytest.Pytester) -> None:
    reports = run(
        pytester,
        """
        import pytest
        from dma_rehearsal.guest.testkit.attestation import CheckFailed

        @pytest.mark.promise("kIODirectionIn")
        @pytest.mark.promise("capacity")
        @pytest.mark.parametrize(("size", "pool"), [(65, "low")])
        def test_it(size, pool):
            raise CheckFailed("WRITE_MEMORY of 65 bytes at 0xd00000: the CPU finds other bytes")

        def test_without_promise():
            raise CheckFailed("words")

        @pytest.mark.promise("capacity")
        def test_other_error():
            raise RuntimeError("not a check")
        """,
    )
    rows = reports.rows("test_it[65-low]")
    assert {row["promise"] for row in rows} == {"kIODirectionIn", "capacity"}
    for row in rows:
        assert (row["asked"], row["verdict"]) == ("size 65, pool low", "broken")
        assert "at 0xd00000" in row["attested"]
    said = reports.calls["test_it[65-low]"].longreprtext
    assert "kIODirectionIn is broken: asked size 65, pool low; attested WRITE_MEMORY of 65" in said
    assert reports.calls["test_without_promise"].failed
    assert reports.rows("test_without_promise") == reports.rows("test_other_error") == []


def test_unknown_mark_is_an_error_and_promise_is_known(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.promise("release")
        def test_it(request): assert True
        """
    )
    done = pytester.inline_run(
        "--strict-markers", plugins=[SettingsPlugin(SessionSettings(1)), marks]
    )
    done.assertoutcome(passed=1)


def test_data_replays_by_seed(pytester: pytest.Pytester) -> None:
    source = """
        def test_it(data, attest):
            attest("alignment", asked="", attested=data.take(8).hex(), kept=True)
        """
    drawn = [run(pytester, source, seed).rows("test_it")[0]["attested"] for seed in (7, 7, 8)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_settings_are_in_the_stash(pytester: pytest.Pytester) -> None:
    config = pytester.parseconfigure()
    SettingsPlugin(SessionSettings(99)).pytest_configure(config)
    assert config.stash[SETTINGS].seed == 99
