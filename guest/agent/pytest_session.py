# SPDX-License-Identifier: Apache-2.0
"""One pytest session of the guest, served to the host over the channel.

pytest's own plugins see an ordinary session whose loop waits for the host's next request.
"""

from __future__ import annotations

import gc
import importlib
import os
import random
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from dma_rehearsal.device.layout.result_frames import Message
from dma_rehearsal.guest.agent import host_requests
from dma_rehearsal.guest.agent.channel import Channel, ChannelError
from dma_rehearsal.guest.agent.hang import HangPlugin
from dma_rehearsal.guest.agent.sibling_modules import SiblingModules
from dma_rehearsal.guest.session import (
    LEFT_OUT,
    SETTINGS,
    TESTKIT_PLUGIN,
    SessionSettings,
    SettingsPlugin,
    marked_promises,
)

# Loaded by name, and for a session with a fault only.
_FAULTS: Final = "dma_rehearsal.guest.faults.registry"
_Lines = dict[  # where the functions of tests are, by their collector and name
    tuple[pytest.Collector | None, str], tuple[str, int | None]
]
_GUEST: Final = Path(__file__).resolve().parents[1]
_OUTPUT_MAX: Final = 1 << 18  # characters of one section; a frame holds 16 MiB
_WARNINGS_MAX: Final = 100  # of one test
_WARNING_MAX: Final = 4000  # characters
_DROPPED_MAX: Final = 20  # names of tests
_ENDED_WELL: Final = (
    pytest.ExitCode.OK,
    pytest.ExitCode.TESTS_FAILED,
    pytest.ExitCode.NO_TESTS_COLLECTED,
)


class SessionFailed(Exception):
    """pytest ended the session before the host did."""


def run_session(channel: Channel, configuration: Message) -> None:
    """Run one pytest session as the host's message "configure" asks. `SessionFailed`."""
    # The process forked from one that had loaded the test kit: see `preload`.
    plugins: list[object] = [importlib.import_module(TESTKIT_PLUGIN)]
    if fault := configuration.get("fault"):
        plugins += importlib.import_module(_FAULTS).apply(str(fault), channel)
    settings = SessionSettings(
        seed=int(configuration["seed"]),
        place=str(configuration["place"]) if configuration.get("place") else None,
        behind_iommu=bool(configuration.get("iommu")),
        own_suite=bool(configuration.get("own", True)),
        rehearse=bool(configuration.get("rehearse")),
        host=channel,
    )
    gc.disable()  # until the tests are collected, because they stay
    session = SessionPlugin(channel)
    root = str(configuration.get("root") or _GUEST)
    arguments = [str(word) for word in configuration.get("args", [])]
    if not configuration.get("named"):
        arguments.append(str(_GUEST / "suite"))
    os.chdir(root)
    # The console, which pytest's capture keeps from the tests.
    hang = HangPlugin(float(configuration.get("limit") or 0), os.dup(2))
    status = pytest.main(
        [
            *("-c", os.devnull, "--rootdir", root, "--import-mode=importlib"),
            *("-p", "no:cacheprovider", "-p", "no:terminal", "--strict-markers"),
            *arguments,
        ],
        plugins=[session, SettingsPlugin(settings), SiblingModules(), hang, *plugins],
    )
    if session.unusable:
        channel.send({"type": "unusable", "text": session.unusable})
        return
    if session.trouble or status not in _ENDED_WELL:
        raise SessionFailed("\n".join([f"pytest ended with {status!r}", *session.trouble]))
    channel.send({"type": "ended", "ran": session.ran})


def preload() -> None:
    """Import the test kit, which each session's forked process then has."""
    gc.disable()
    importlib.import_module(TESTKIT_PLUGIN)
    gc.freeze()  # the modules stay
    gc.enable()


class SessionPlugin:
    """Serves one session over the channel: reports what happens, runs what the host names."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._errors: list[dict[str, str]] = []
        self._left_out: Counter[str] = Counter()
        self._found: set[str] = set()  # tests that were collected, and not left out
        self._warnings: list[dict[str, Any]] = []
        self._reports: list[pytest.TestReport] = []
        self.ran = 0
        self.trouble: list[str] = []  # what ended the session, or went wrong at its end
        self.unusable = ""  # what is wrong with the arguments

    def pytest_addoption(self, parser: pytest.Parser) -> None:
        """Add the options that failure reports read; the terminal plugin would add them."""
        parser.addoption("--tb", dest="tbstyle", default="auto")
        parser.addoption("--showlocals", action="store_true", default=False)

    def pytest_internalerror(self, excrepr: object) -> None:
        """Keep the traceback of an error outside of tests."""
        self.trouble.append(str(excrepr))

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Keep what interrupted the session: a signal, or a test that called pytest.exit()."""
        self.trouble.append(excinfo.exconly())

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> object:
        """Keep what is wrong with the arguments, such as a path that does not exist."""
        try:
            return (yield)
        except pytest.UsageError as error:
            self.unusable = str(error)
            raise

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep collection errors."""
        if report.failed:
            self._errors.append({"nodeid": report.nodeid, "longrepr": report.longreprtext})

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        """Count the tests for other machines, by the reason."""
        self._left_out.update(item.stash.get(LEFT_OUT, "deselected") for item in items)
        self._found.difference_update(item.nodeid for item in items)

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Keep each item before any hook can drop it."""
        self._found.add(item.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Name the tests to the host, then run those that it asks for until it ends the session."""
        items = {item.nodeid: item for item in session.items}
        lines: _Lines = {}
        self._channel.send(
            {
                "type": "collected",
                "items": [_describe(item, lines) for item in session.items],
                "count": session.testscollected,
                "dropped": sorted(self._found.difference(items))[:_DROPPED_MAX],
                "errors": self._errors,
                "left_out": self._left_out,
                "warnings": self._take_warnings(),
            }
        )
        # The tests stay, so no later collection needs to look at them: pytest ends with several.
        gc.freeze()
        gc.enable()
        random.seed(session.config.stash[SETTINGS].seed)  # whatever the collection drew
        reseed = partial(_reseed, session.config)
        while (message := next_request(self._channel, reseed))["type"] != "end":
            if message["type"] != "run" or message.get("nodeid") not in items:
                raise ChannelError(f"the host asked for {message}")
            self._run(items[message["nodeid"]], items.get(str(message.get("next"))))
        # A host that stopped early never named a last test; its fixtures are still up.
        end = pytest.CallInfo.from_call(
            lambda: session._setupstate.teardown_exact(None), when="teardown"
        )
        if end.excinfo:
            words = end.excinfo.getrepr()
            self.trouble.append(f"fixtures that were up when the host stopped: {words}")
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a report of the test that runs, or of a part of it."""
        self._reports.append(report)

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        """Keep a warning for the host's summary, up to a limit."""
        if len(self._warnings) < _WARNINGS_MAX:
            self._warnings.append(
                {
                    "category": warning_message.category.__name__,
                    "message": str(warning_message.message)[:_WARNING_MAX],
                    "filename": warning_message.filename,
                    "line": warning_message.lineno,
                }
            )

    def _take_warnings(self) -> list[dict[str, Any]]:
        taken, self._warnings = self._warnings, []
        return taken

    def _run(self, item: pytest.Item, following: pytest.Item | None) -> None:
        self._channel.send({"type": "start", "nodeid": item.nodeid})
        item.user_properties.clear()  # the host may run it again
        self._reports = []
        hook = item.config.hook
        # As pytest's own loop does it, so that every plugin has its part.
        item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
        said: list[Message] = []
        for report in self._reports:
            report.sections[:] = [(name, _clipped(text)) for name, text in report.sections]
            data = hook.pytest_report_to_serializable(config=item.config, report=report)
            said.append({"type": "report", "nodeid": item.nodeid, "data": data})
        self.ran += 1
        finish = {"type": "finish", "nodeid": item.nodeid, "warnings": self._take_warnings()}
        self._channel.send(*said, finish)


def next_request(channel: Channel, reseed: Callable[[int], None] | None = None) -> Message:
    """Return the next message that is not for `host_requests`, and answer those.

    A guest that resumes with another seed passes it to ``reseed``.
    """
    while (reply := host_requests.handle(message := channel.receive())) is not None:
        if reseed and message["type"] == "resume" and message.get("seed") is not None:
            reseed(message["seed"])
        channel.send(reply)
    return message


def _reseed(config: pytest.Config, seed: int) -> None:
    """Have a session whose tests are collected go on as one that was configured with ``seed``."""
    config.stash[SETTINGS] = replace(config.stash[SETTINGS], seed=seed)
    config.hook.pytest_session_reseeded(config=config)


def _clipped(text: str) -> str:
    """Return the output of a test, or only its end when it is too long for a report."""
    if len(text) <= _OUTPUT_MAX:
        return text
    return f"({len(text) - _OUTPUT_MAX} characters left out)\n{text[-_OUTPUT_MAX:]}"


def _describe(item: pytest.Item, lines: _Lines) -> dict[str, Any]:
    # The cases of a function have its line in common, and pytest looks it up for each anew.
    function = (item.parent, getattr(item, "originalname", item.name))
    if function not in lines:
        lines[function] = item.location[:2]
    path, line = lines[function]
    return {
        "nodeid": item.nodeid,
        "path": path,
        "lineno": line,
        "name": item.name,
        "keywords": sorted(map(str, item.listchain()[-1].keywords)),
        "marks": sorted({mark.name for mark in item.iter_markers()}),
        "promises": marked_promises(item),
    }
