"""The guest's agent: collects the tests, runs those that the host names, sends the reports.

    host: configure      guest: collected
    host: run (one)      guest: start, report (setup, call, teardown), finish
    host: shutdown       guest: bye

pytest's own plugins see an ordinary session whose loop waits for the host's word.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from . import faults
from .attestation import SettingsPlugin
from .channel import PROTOCOL, Channel, find_port

_SUITE = Path(__file__).resolve().parent


class AgentPlugin:
    """Serves one session over the channel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._errors: list[dict[str, str]] = []
        self.ran = 0

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep what could not be collected."""
        if report.failed:
            self._errors.append({"nodeid": report.nodeid, "longrepr": report.longreprtext})

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Name the tests to the host, then run what it asks for until it says shutdown."""
        items = {item.nodeid: item for item in session.items}
        self._channel.send(
            {
                "type": "collected",
                "items": [_describe(item) for item in session.items],
                "errors": self._errors,
            }
        )
        while True:
            message = self._channel.receive()
            if message["type"] == "shutdown":
                break
            if message["type"] != "run" or message.get("nodeid") not in items:
                raise pytest.UsageError(f"the host asked for {message}")
            self._run(items[message["nodeid"]], items.get(str(message.get("next"))))
        # A host that stopped early never named a last test; its fixtures are still up.
        session._setupstate.teardown_exact(None)
        return True

    def _run(self, item: pytest.Item, following: pytest.Item | None) -> None:
        from _pytest.runner import runtestprotocol

        self._channel.send({"type": "start", "nodeid": item.nodeid})
        reports = runtestprotocol(item, nextitem=following, log=False)
        for report in reports:
            data = item.config.hook.pytest_report_to_serializable(config=item.config, report=report)
            self._channel.send({"type": "report", "nodeid": item.nodeid, "data": data})
        self.ran += 1
        self._channel.send({"type": "finish", "nodeid": item.nodeid})


def _describe(item: pytest.Item) -> dict[str, Any]:
    path, line, _ = item.reportinfo()
    return {
        "nodeid": item.nodeid,
        "path": os.path.relpath(path, item.config.rootpath),
        "lineno": line,
        "name": item.name,
        "keywords": sorted(map(str, item.listchain()[-1].keywords)),
        "marks": sorted({mark.name for mark in item.iter_markers()}),
        "promises": [str(mark.args[0]) for mark in item.iter_markers("promise") if mark.args],
    }


def serve(channel: Channel) -> int:
    """Talk to the host until it says shutdown; return an exit status."""
    channel.send(
        {
            "type": "hello",
            "protocol": PROTOCOL,
            "python": platform.python_version(),
            "pytest": pytest.__version__,
            "kernel": platform.release(),
        }
    )
    plugin = AgentPlugin(channel)
    try:
        configuration = channel.receive()
        if configuration["type"] != "configure":
            raise pytest.UsageError(f"the host sent {configuration['type']} before configure")
        fault = configuration.get("fault")
        if fault:
            faults.apply(fault)
        arguments = [str(word) for word in configuration.get("args", [])] or [str(_SUITE)]
        status = pytest.main(
            [
                *("-c", os.devnull, "--rootdir", str(_SUITE.parent), "--import-mode=importlib"),
                *("-p", "no:cacheprovider", "-p", "no:terminal", "-p", "no:junitxml"),
                *("-p", "no:faulthandler", "--strict-markers"),
                *arguments,
            ],
            plugins=[plugin, SettingsPlugin(int(configuration["seed"]))],
        )
    except Exception:
        channel.send({"type": "error", "text": traceback.format_exc()})
        return 1
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        channel.send({"type": "error", "text": f"pytest ended with {status!r}"})
        return 1
    channel.send({"type": "bye", "ran": plugin.ran})
    return 0


def main(arguments: list[str]) -> int:
    """Open the port and serve; return an exit status."""
    parser = argparse.ArgumentParser(prog="python -m suite.agent", description=__doc__)
    parser.add_argument("--port", type=Path, help="device to talk over (default: found by name)")
    options = parser.parse_args(arguments)
    descriptor = os.open(options.port or find_port(), os.O_RDWR | os.O_CLOEXEC)
    try:
        return serve(Channel(descriptor))
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
