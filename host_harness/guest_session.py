"""The pytest plugin by which each test of the guest is an ordinary item on the host.

The guest collects and runs; the host selects (``-k``, ``-m``), orders, reports and decides. A
guest's report is pytest's own serialized report, so everything that reads reports works.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from .errors import HarnessError, NoVerdict, Status, UsageError
from .kept import keep_until_told
from .report import Ledger
from .rig import Rig
from .vm import Vm

_PHASES = ("setup", "call", "teardown")

# pytest's own statuses, each mapped on purpose.
_STATUSES = {
    pytest.ExitCode.OK: Status.PASSED,
    pytest.ExitCode.TESTS_FAILED: Status.FAILED,
    pytest.ExitCode.INTERRUPTED: Status.NO_VERDICT,
    pytest.ExitCode.INTERNAL_ERROR: Status.NO_VERDICT,
    pytest.ExitCode.USAGE_ERROR: Status.USAGE,
    pytest.ExitCode.NO_TESTS_COLLECTED: Status.USAGE,
}


class GuestItem(pytest.Item):
    """One test of the guest. Its code is there; here it has a name, keywords and reports."""

    def __init__(
        self,
        *,
        guest_path: str,
        line: int,
        keywords: list[str],
        marks: list[str],
        promises: list[str],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.guest_path = guest_path
        self.line = line
        self.promises = promises
        self.extra_keyword_matches.update(keywords)
        for name in marks:
            self.config.addinivalue_line("markers", f"{name}: a mark of the guest's tests")
            self.add_marker(getattr(pytest.mark, name))

    def runtest(self) -> None:
        """Never called: the protocol hook below runs the test in the guest."""
        raise NotImplementedError("a guest test runs in the guest")

    def reportinfo(self) -> tuple[str, int, str]:
        """Return where the test stands: path below the root of its tests, line, name."""
        return self.guest_path, self.line, self.name


class GuestSession:
    """Runs the guest's tests as this session's items, on ``rig``."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.ran = 0
        self._interrupted = False

    @property
    def ledger(self) -> Ledger:
        """The run's ledger of promises."""
        return self.rig.ledger

    @property
    def vm(self) -> Vm:
        """The run's VM."""
        if self.rig.vm is None:
            raise RuntimeError("the VM was not booted")
        return self.rig.vm

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Boot, where that was not done before."""
        if self.rig.vm is None:
            try:
                self.rig.boot()
            except HarnessError as error:
                raise _leave(error) from None

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, items: list[pytest.Item]
    ) -> None:
        """Let the guest collect; add an item for each test that it names."""
        try:
            with self.rig.progress.phase("collection", silent=True):
                found = self._collect(session)
        except UsageError as error:
            raise _leave(error) from None
        except NoVerdict as error:
            self.rig.lost = error
            raise _leave(error) from None
        # What a collector would announce: the terminal counts its items by these reports.
        session.config.hook.pytest_collectreport(
            report=pytest.CollectReport("", "passed", None, list(found))
        )
        items += found

    def _collect(self, session: pytest.Session) -> list[pytest.Item]:
        options = self.rig.options
        tests = self.rig.tests
        self.vm.send(
            "collection",
            {
                "type": "configure",
                "args": list(tests.selected),
                "root": tests.root_in_guest,
                "seed": options.seed,
                "fault": options.fault.name if options.fault else None,
            },
        )
        collected = self.vm.receive("collection", "collected", "unusable")
        if collected["type"] == "unusable":
            raise UsageError(
                f"the guest's pytest: {collected.get('text')}",
                f"name files, folders or node ids below {tests.root}",
            )
        for error in collected.get("errors", []):
            text = f"{error.get('nodeid')}:\n{error.get('longrepr')}"
            raise NoVerdict("collection", f"the guest cannot collect its tests: {text}")
        return [
            GuestItem.from_parent(
                session,
                name=str(item["name"]),
                nodeid=str(item["nodeid"]),
                guest_path=str(item["path"]),
                line=int(item["lineno"] or 0),
                keywords=[str(word) for word in item["keywords"]],
                marks=[str(name) for name in item["marks"]],
                promises=[str(name) for name in item["promises"]],
            )
            for item in collected["items"]
        ]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """Time the tests."""
        with self.rig.progress.phase("tests", silent=True):
            return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> bool | None:
        """Run one test in the guest and hand its reports to this session's hooks."""
        if not isinstance(item, GuestItem):
            return None
        hook = item.ihook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        try:
            self._run(item, nextitem)
        except NoVerdict as error:
            error.subject = item.nodeid
            self.rig.lost = error
            item.session.shouldstop = f"no verdict: {error.phase}"
            hook.pytest_runtest_logreport(report=_lost_report(item, error))
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _run(self, item: GuestItem, nextitem: pytest.Item | None) -> None:
        following = nextitem.nodeid if isinstance(nextitem, GuestItem) else None
        self.vm.send("test", {"type": "run", "nodeid": item.nodeid, "next": following})
        seen: list[str] = []
        while True:
            message = self.vm.receive("test", "start", "report", "finish")
            if message.get("nodeid") != item.nodeid:
                raise self.vm.lost(
                    "test", f"the guest reports {message.get('nodeid')} while {item.nodeid} runs"
                )
            if message["type"] == "report":
                report = item.config.hook.pytest_report_from_serializable(
                    config=item.config, data=message["data"]
                )
                if not isinstance(report, pytest.TestReport) or report.when not in _PHASES:
                    raise self.vm.lost("test", f"the guest sent no test report for {item.nodeid}")
                seen.append(report.when)
                self.ledger.add_report(report, item.promises)
                item.ihook.pytest_runtest_logreport(report=report)
            elif message["type"] == "finish":
                # A failed or skipped setup is followed by the teardown alone.
                if seen not in (list(_PHASES), ["setup", "teardown"]):
                    raise self.vm.lost("test", f"reports of {item.nodeid} are missing: got {seen}")
                self.ran += 1
                return

    def pytest_keyboard_interrupt(self) -> None:
        """Take note that the user, or a plugin, ended the session within a test."""
        self._interrupted = True

    def pytest_report_header(self) -> str:
        """Say in pytest's header what runs."""
        hello = self.vm.hello
        return (
            f"guest: kernel {hello.get('kernel')}, Python {hello.get('python')}, "
            f"accelerator {self.rig.accelerator}, seed {self.rig.options.seed}"
        )

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(
        self, session: pytest.Session, exitstatus: int | pytest.ExitCode
    ) -> None:
        """End the guest's session, compare its count of tests with ours, decide the status."""
        if self.rig.lost is None and self.rig.vm is not None and not self._interrupted:
            try:
                with self.rig.progress.phase("shutdown", silent=True):
                    self.vm.end_session(self.ran)
                    if self.ledger.to_repeat():
                        self.rig.keep_kernel_log()
                    if not self.rig.options.keep:
                        self.vm.power_off()
            except NoVerdict as error:
                self.rig.lost = error
        status = _STATUSES.get(pytest.ExitCode(exitstatus), Status.NO_VERDICT)
        if exitstatus == pytest.ExitCode.INTERRUPTED and not self._interrupted:
            status = Status.FAILED  # a plugin stopped at a failure (--stepwise)
        status = self.rig.conclude(status)
        if exitstatus == pytest.ExitCode.OK and status is not Status.PASSED:
            session.exitstatus = (
                pytest.ExitCode.TESTS_FAILED
                if status is Status.FAILED
                else pytest.ExitCode.INTERNAL_ERROR
            )


class PlainSession:
    """What a user of pytest's own command line sees beside: the verdict, and the VM's end."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table and the facts of the run."""
        terminalreporter.section("dma-rehearsal")
        for line in self.rig.verdict():
            terminalreporter.write_line(line)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Keep the VM if that was asked for; then end it."""
        if self.rig.options.keep and self.rig.vm and not self.rig.lost:
            keep_until_told(self.rig)
        self.rig.close()


def _leave(error: HarnessError) -> BaseException:
    """Return what ends pytest's session at once: never as a failed test."""
    usage = isinstance(error, UsageError)
    code = pytest.ExitCode.USAGE_ERROR if usage else pytest.ExitCode.INTERNAL_ERROR
    return pytest.exit.Exception(str(error), returncode=code)


def _lost_report(item: pytest.Item, error: NoVerdict) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords={},
        outcome="failed",
        longrepr=f"no verdict: {error}",
        when="call",
    )
