"""The pytest plugin by which each test of the guest is an ordinary item on the host.

The guest collects and runs; the host selects (``-k``, ``-m``), orders, reports and decides. A
guest's report is pytest's own serialized report, so everything that reads reports works.
"""

from __future__ import annotations

from typing import Any

import pytest

from .errors import NoVerdict
from .report import Ledger
from .vm import Vm

_PHASES = ("setup", "call", "teardown")


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
        """Return where the test stands: path in ``guest/``, line, name."""
        return self.guest_path, self.line, self.name


class GuestPlugin:
    """Runs the guest's tests as this session's items.

    ``lost`` holds the error of a run that ended without a verdict. ``ledger`` takes the promises.
    """

    def __init__(self, vm: Vm, ledger: Ledger) -> None:
        self.vm = vm
        self.ledger = ledger
        self.lost: NoVerdict | None = None
        self.ran = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> bool:
        """Let the guest collect; build an item for each test that it names."""
        try:
            with self.vm.progress.phase("collection", silent=True):
                items = self._collect(session)
        except NoVerdict as error:
            self.lost = error
            raise pytest.exit.Exception(
                str(error), returncode=pytest.ExitCode.INTERNAL_ERROR
            ) from None
        # What a collector would announce: the terminal counts its items by these reports.
        session.config.hook.pytest_collectreport(
            report=pytest.CollectReport("", "passed", None, list(items))
        )
        session.items = items
        session.config.hook.pytest_collection_modifyitems(
            session=session, config=session.config, items=items
        )
        session.testscollected = len(items)
        session.config.hook.pytest_collection_finish(session=session)
        return True

    def _collect(self, session: pytest.Session) -> list[pytest.Item]:
        settings = self.vm.settings
        self.vm.send(
            "collection",
            {
                "type": "configure",
                "args": list(settings.pytest_args),
                "seed": settings.seed,
                "fault": settings.guest_fault,
            },
        )
        collected = self.vm.receive("collection", "collected")
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
            self.lost = error
            item.session.shouldstop = f"no verdict: {error.phase}"
            hook.pytest_runtest_logreport(report=_lost_report(item, error))
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _run(self, item: GuestItem, nextitem: pytest.Item | None) -> None:
        following = nextitem.nodeid if nextitem is not None else None
        self.vm.send("test", {"type": "run", "nodeid": item.nodeid, "next": following})
        seen: list[str] = []
        while True:
            message = self.vm.receive("test", "start", "report", "finish")
            if message.get("nodeid") != item.nodeid:
                raise NoVerdict(
                    "test", f"the guest reports {message.get('nodeid')} while {item.nodeid} runs"
                )
            if message["type"] == "report":
                report = item.config.hook.pytest_report_from_serializable(
                    config=item.config, data=message["data"]
                )
                if not isinstance(report, pytest.TestReport) or report.when not in _PHASES:
                    raise NoVerdict("test", f"the guest sent no test report for {item.nodeid}")
                seen.append(report.when)
                self.ledger.add_report(report, item.promises)
                item.ihook.pytest_runtest_logreport(report=report)
            elif message["type"] == "finish":
                # A failed or skipped setup is followed by the teardown alone.
                if seen not in (list(_PHASES), ["setup", "teardown"]):
                    raise NoVerdict("test", f"reports of {item.nodeid} are missing: got {seen}")
                self.ran += 1
                return

    def pytest_report_header(self) -> str:
        """Say in pytest's header what runs."""
        hello = self.vm.hello
        return (
            f"guest: kernel {hello.get('kernel')}, Python {hello.get('python')}, "
            f"accelerator {self.vm.settings.accelerator}, seed {self.vm.settings.seed}"
        )

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Power the guest off and compare its count of tests with ours."""
        if self.lost is not None:
            return
        try:
            with self.vm.progress.phase("shutdown", silent=True):
                self.vm.shut_down(self.ran)
        except NoVerdict as error:
            self.lost = error


def _lost_report(item: pytest.Item, error: NoVerdict) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords={},
        outcome="failed",
        longrepr=f"no verdict: {error}",
        when="call",
    )
