# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin by which each test of the guest is an ordinary item on the host.

The guest collects and runs; the host selects (``-k``, ``-m``), orders, reports and decides. A
guest's report is pytest's own serialized report, so everything that reads reports works.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

import pytest

from dma_rehearsal.host_harness.process import table
from dma_rehearsal.host_harness.process.errors import HarnessError, NoVerdict, Status, UsageError
from dma_rehearsal.host_harness.session import (
    driver_names,
    exit_codes,
    guest_options,
    schedule,
    session_reports,
    side_by_side,
)
from dma_rehearsal.host_harness.session.agent_client import Request
from dma_rehearsal.host_harness.session.guest_protocol import CollectedItem
from dma_rehearsal.host_harness.session.run import Run, wait_while_kept
from dma_rehearsal.host_harness.session.vm_lines import VmLines
from dma_rehearsal.host_harness.session.worker import Seen, Worker
from dma_rehearsal.host_harness.verdict import story
from dma_rehearsal.host_harness.verdict.ledger import Ledger

_NAMED = 5  # tests, where some are missing


class GuestItem(pytest.Item):
    """One test of the guest. Its code is there; here it has a name, keywords and reports."""

    def __init__(self, *, guest: CollectedItem, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.guest = guest
        self.extra_keyword_matches.update(guest.keywords)
        for name in guest.marks:
            self.config.addinivalue_line("markers", f"{name}: a mark of the guest's tests")
            self.add_marker(getattr(pytest.mark, name))

    def runtest(self) -> None:
        """Never called: the protocol hook below runs the test in the guest."""
        raise NotImplementedError("a guest test runs in the guest")

    def reportinfo(self) -> tuple[str, int, str]:
        """Return the test's location: path below the root of its tests, line, name."""
        return self.guest.path, self.guest.line, self.name


class GuestSession:
    """Runs the guest's tests as this session's items, on ``run``; in VMs side by side, if there are
    several.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._interrupted = False
        self._workers: list[Worker] = []
        self._collected: list[str] = []
        self._deselected: set[str] = set()
        self._reported: set[str] = set()
        self._lines: VmLines | None = None

    @property
    def ledger(self) -> Ledger:
        """The run's ledger of promises."""
        return self.run.ledger

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Refuse the options that cannot act in the guest, and outputs that cannot be written."""
        guest_options.refuse(config)
        try:
            self.run.begin_outputs()
        except UsageError as error:
            raise pytest.UsageError(str(error)) from None
        self.ledger.status = partial(session_reports.category, config)
        if config.pluginmanager.has_plugin("terminalreporter"):
            self.run.colours = config.get_terminal_writer().hasmarkup  # --color, and the screen's
        if self.run.options.several_vms and getattr(config.option, "stepwise", False):
            # It assumes that every test before a failure has passed.
            raise pytest.UsageError("--stepwise needs one test after the other: leave out VMS")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Boot."""
        manager = session.config.pluginmanager
        capture = manager.getplugin("capturemanager")
        visible = capture.global_and_fixture_disabled() if capture else contextlib.nullcontext()
        try:
            with visible:
                self.run.boot(
                    self._count(session.config),
                    isolated=self.run.tests.is_own,
                    request=self._request(session.config),
                )
        except HarnessError as error:
            self.run.error = error
            raise _leave(error, session.config) from None
        iommu, modules = self.run.options.iommu, self.run.modules
        self._workers = [
            Worker(each, iommu=iommu, names=driver_names.of(modules, each)) for each in self.run.vms
        ]
        if len(self._workers) > 1:
            manager.register(_Loop(self))
        manager.register(self.run.failures, "dma-rehearsal-failures")

    def _count(self, config: pytest.Config) -> int:
        options = self.run.options
        if options.vms:
            return options.vms
        selected = bool(self.run.tests.arguments) or guest_options.selects(config)
        whole = self.run.tests.is_own and not selected
        return side_by_side.usual_count() if whole and not (options.keep or options.gdb) else 1

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Let the guest collect, after the host: its tests are items of the session itself."""
        report = yield
        if not isinstance(collector, pytest.Session) or not report.passed:
            return report
        try:
            with self.run.progress.phase("collection", silent=True):
                found = self._collect(collector)
        except HarnessError as error:
            self.run.error = error
            raise _leave(error, collector.config) from None
        if self.run.options.order == "shuffled":
            found = schedule.shuffled(found, self.run.options.seed)
        report.result += found
        return report

    def _collect(self, session: pytest.Session) -> list[pytest.Item]:
        collected = self.run.collect(self._request(session.config))
        if collected.left_out:
            self.run.progress.line(transient=True)  # pytest is in the middle of a line
            for why, count in sorted(collected.left_out.items()):
                self.run.progress.note(f"left out: {count} tests {why} (see IOMMU, PROFILE)")
        self._collected = [item.nodeid for item in collected.items]
        for warned in collected.warnings:
            session_reports.warn(session.config, warned, "")
        return [
            GuestItem.from_parent(session, name=item.name, nodeid=item.nodeid, guest=item)
            for item in collected.items
        ]

    def _request(self, config: pytest.Config) -> Request:
        arguments = guest_options.forwarded(config)
        return Request.of(self.run.options, self.run.tests, self.run.place, arguments)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Time the tests, and show how far they are."""
        with self.run.progress.phase("tests", silent=True):
            alone = all(isinstance(item, GuestItem) for item in session.items)
            if not (alone and self._workers) or session.config.option.collectonly:
                return (yield)  # the host's own tests write to the terminal meanwhile
            total = len(session.items)
            self._lines = VmLines(self.run.progress, self.ledger, self._workers, total)
            terminal = session.config.pluginmanager.getplugin("terminalreporter")
            verbose = terminal is None or session.config.get_verbosity() > 0
            with self._lines.shown(verbose=verbose):
                if self._lines.live:
                    terminal.showfspath = False
                return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(
        self,
    ) -> Generator[None, tuple[str, str, object], tuple[str, str, object]]:
        """Have pytest write no letter for a test while live lines say how far the tests are."""
        found = yield
        return (found[0], "", "") if self._lines and self._lines.live else found

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> bool | None:
        """Run one test in the guest and hand its reports to this session's hooks."""
        if not isinstance(item, GuestItem):
            return None
        following = nextitem if isinstance(nextitem, GuestItem) else None
        worker = self._workers[0]
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        try:
            seen = worker.see(worker.start(item, following).wait())
        except NoVerdict as error:
            self._lose(item.session, error)
        else:
            self._take(item, seen)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def run_side_by_side(self, session: pytest.Session) -> None:
        """Run the session's guest tests in all VMs, until ``session`` is told to stop."""
        terminal = session.config.pluginmanager.getplugin("terminalreporter")
        if terminal:
            terminal.showfspath = False  # files alternate: each dot would have a line
        items = [item for item in session.items if isinstance(item, GuestItem)]

        def done(worker: Worker, item: GuestItem, seen: Seen) -> None:
            seen.reports[-1].user_properties.append(("vm", str(1 + self._workers.index(worker))))
            # Both only now: the lines of a test stay together.
            item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            self._take(item, seen)
            item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

        def stopped() -> bool:
            return bool(session.shouldfail or session.shouldstop)

        try:
            side_by_side.run(self._workers, items, done=done, stopped=stopped)
        except NoVerdict as error:
            self._lose(session, error)
        finally:
            self.ledger.arrange([item.nodeid for item in items])

    def _take(self, item: GuestItem, seen: Seen) -> None:
        """Give a test's reports to the ledger and to the session's hooks."""
        rows = self.ledger.add_test(seen.reports, item.guest.promises, seen.host)
        self.run.results.add_findings(item.nodeid, seen.host.facts)
        self._reported.add(item.nodeid)
        failed = next((each for each in seen.reports if each.failed), None)
        if failed and item.config.get_verbosity() > 0:
            told = story.lines(seen.host.evidence, rows)
            failed.sections.append((story.SECTION, "\n".join(told)))
        if self.run.options.rehearse:
            self.run.rehearsal.add(seen.reports, seen.host)
        for warned in seen.warnings:
            session_reports.warn(item.config, warned, item.nodeid)
        for report in seen.reports:
            item.ihook.pytest_runtest_logreport(report=report)
        if failed and self._lines:
            why, colours = self.ledger.told[-1].why, bool(self.run.colours)
            self._lines.failed(item.nodeid, why, colours=colours)
        self._say_progress(item.config)

    def _say_progress(self, config: pytest.Config) -> None:
        """Print a plain line now and then, where no live lines are drawn."""
        terminal = config.pluginmanager.getplugin("terminalreporter")
        if self._lines is None or terminal is None or config.get_verbosity() < 0:
            return
        if config.get_verbosity() > 0 and sys.stdout.isatty():
            return
        if line := self._lines.plain():
            terminal.ensure_newline()
            terminal.write_line(line)

    def _lose(self, session: pytest.Session, error: NoVerdict) -> None:
        """End the session without a verdict."""
        self.run.error = error
        self.run.rehearsal.lose(error.subject)
        self._say_what_is_under_way(error.subject)
        session.shouldstop = f"no verdict: {error.phase}"
        self.ledger.failed += 1  # as the report that pytest sees
        session_reports.show(
            session, [session_reports.failure(error.subject or "guest", f"no verdict: {error}")]
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Record that the user, or a plugin, ended the session within a test."""
        # --stepwise and --maxfail also stop it, but between two tests.
        self._interrupted = not isinstance(excinfo.value, pytest.Session.Interrupted)
        if self._interrupted:
            self._say_what_is_under_way()

    def _say_what_is_under_way(self, known: str = "") -> None:
        """Name the tests that run on several VMs, where a test's line is printed at its end."""
        subjects = [worker.vm.subject for worker in self._workers]
        if len(subjects) > 1 and (begun := [each for each in subjects if each not in ("", known)]):
            self.run.progress.line()
            self.run.progress.note(f"was running: {', '.join(begun)}", always=True)

    def pytest_report_header(self) -> str:
        """Say in pytest's header what runs."""
        hello = self._workers[0].vm.hello
        several = f"{len(self._workers)} VMs, " if len(self._workers) > 1 else ""
        start = self.run.start
        why = f" ({start.reason})" if start and start.reason else ""
        return (
            f"guest: kernel {hello.get('kernel')}, Python {hello.get('python')}, {several}"
            f"accelerator {self.run.accelerator}, seed {self.run.options.seed}, "
            f"{self.run.options.order} order\nguest: {start.kind.words if start else ''}{why}"
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(
        self, session: pytest.Session, exitstatus: int | pytest.ExitCode
    ) -> None:
        """End the guest's session, compare its count of tests with ours, decide the status."""
        if self.run.error is None and self.run.vm is not None and not self._interrupted:
            try:
                self._check_all_reported(session)
                with self.run.progress.phase("shutdown", silent=True):
                    self._end()
            except NoVerdict as error:
                self.run.error = error
                self.ledger.failed += 1
                session_reports.show(
                    session, [session_reports.failure("guest", f"no verdict: {error}")]
                )
        session_reports.show(
            session, [session_reports.objection(row) for row in self.ledger.of_the_run()]
        )
        status = self.run.conclude(exit_codes.to_status(exitstatus, interrupted=self._interrupted))
        session.exitstatus = exit_codes.to_pytest(status, exitstatus, interrupted=self._interrupted)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a report, of whatever test, for the formats."""
        self.run.results.add(report)

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Take note of the tests that pytest leaves out."""
        self._deselected.update(item.nodeid for item in items)

    def _check_all_reported(self, session: pytest.Session) -> None:
        """NoVerdict when a test was collected and neither left out nor reported."""
        if session.config.option.collectonly or session.shouldfail or session.shouldstop:
            return
        if session.testsfailed and not self._reported:
            return  # a test of the host's could not be collected, so nothing ran
        missing = [
            nodeid
            for nodeid in self._collected
            if nodeid not in self._reported and nodeid not in self._deselected
        ]
        if missing:
            more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            raise NoVerdict(
                "tests",
                f"{len(missing)} of {len(self._collected)} tests were collected and never "
                f"reported: {', '.join(missing[:_NAMED])}{more}",
                "a plugin that leaves out tests must say so (pytest_deselected); else it is a bug "
                "of the harness",
            )

    def _end(self) -> None:
        for worker in self._workers:
            for name, words in worker.confirm():
                self.ledger.add_failure(name, words)
            self.ledger.notes += worker.notes()
            worker.vm.end_session(worker.ran)
            self._object_to_late(worker)
        if self.ledger.to_repeat():
            self.run.keep_kernel_log()
        if not self.run.options.keep:
            for worker in self._workers:
                worker.vm.begin_power_off()
            if self.ledger.promises:
                table.preload()  # while the guests power off
            for worker in self._workers:
                worker.vm.power_off()
                self._object_to_late(worker)  # a device may act until its guest has ended

    def _object_to_late(self, worker: Worker) -> None:
        for name, words in worker.late():
            self.ledger.add_failure(name, words)


class _Loop:
    """pytest's loop over the tests, where several VMs run them."""

    def __init__(self, session: GuestSession) -> None:
        self._session = session

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Run the tests of the host, of which some may use a VM, then the guest's in all VMs."""
        options = session.config.option
        if options.collectonly or (
            session.testsfailed and not options.continue_on_collection_errors
        ):
            return None  # pytest's own loop handles it
        others = [item for item in session.items if not isinstance(item, GuestItem)]
        for item, following in zip(others, [*others[1:], None], strict=False):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            self._check(session)
        self._session.run_side_by_side(session)
        self._check(session)
        return True

    def _check(self, session: pytest.Session) -> None:
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)


class PlainSession:
    """Prints the verdict and ends the VM, for a user of pytest's own command line."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._told = False

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table and the facts of the run."""
        if self.run.folder is None or self._told:
            return
        self._told = True
        terminalreporter.section("dma-rehearsal")
        for line in [*self.run.verdict(), *self.run.outputs.printed]:
            terminalreporter.write_line(line)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """Keep the VM if that was asked for; then end it."""
        if self.run.options.keep and self.run.vm and not self.run.error:
            wait_while_kept(self.run)
        if self.run.folder and self.run.status is None:  # pytest had no session
            self.run.conclude(Status.NO_VERDICT)
        # pytest prints no summary after an internal error, which is what a lost VM is to it.
        terminal = config.pluginmanager.getplugin("terminalreporter")
        if self.run.error and terminal and not config.option.no_summary:
            self.pytest_terminal_summary(terminal)
        self.run.close()


def _leave(error: HarnessError, config: pytest.Config) -> BaseException:
    """Return what ends pytest's session at once: never as a failed test.

    pytest prints this text twice, so the error itself is in the verdict, where that is shown.
    """
    usage = isinstance(error, UsageError)
    code = pytest.ExitCode.USAGE_ERROR if usage else pytest.ExitCode.INTERNAL_ERROR
    words = str(error) if config.option.no_summary else "no test runs; the reason is below"
    return pytest.exit.Exception(words, returncode=code)
