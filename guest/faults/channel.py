# SPDX-License-Identifier: Apache-2.0
"""Named faults of the guest's side of the run.

All but one take the verdict away: the host must end such a run without one, whatever the tests
said. A teardown that fails is the failure of its test.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from dma_rehearsal.device.layout.result_frames import HEADER, Message
from dma_rehearsal.guest.agent.channel import Channel
from dma_rehearsal.guest.session import marked_promises
from dma_rehearsal.guest.testkit.attestation import CheckFailed

_SPARED = 2  # reports, or tests, before the fault acts


class _Third:
    """Tells when a kind of message comes for the third time."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._seen = 0

    def __call__(self, message: Message) -> bool:
        self._seen += message["type"] == self._kind
        return message["type"] == self._kind and self._seen == _SPARED + 1


def _lose(channel: Channel) -> None:
    strikes = _Third("report")
    channel.outgoing = lambda message, whole: b"" if strikes(message) else whole


def _corrupt(channel: Channel) -> None:
    strikes = _Third("report")

    def flip(message: Message, whole: bytes) -> bytes:
        if not strikes(message):
            return whole
        middle = (HEADER.size + len(whole)) // 2
        return whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]

    channel.outgoing = flip


def _leave_out(channel: Channel) -> None:
    strikes = _Third("report")
    channel.says = lambda message: None if strikes(message) else message


def _confuse(channel: Channel) -> None:
    strikes = _Third("report")

    def other(message: Message) -> Message:
        if not strikes(message):
            return message
        return {**message, "data": {**message["data"], "nodeid": "suite/test_other.py::test"}}

    channel.says = other


def _count_one_more(channel: Channel) -> None:
    def add(message: Message) -> Message:
        return {**message, "ran": message["ran"] + 1} if message["type"] == "ended" else message

    channel.says = add


def _name_one_less(channel: Channel) -> None:
    def shorter(message: Message) -> Message:
        if message["type"] != "collected":
            return message
        return {**message, "items": message["items"][:-1]}

    channel.says = shorter


class _Drops:
    """The last test of all is dropped, and nobody is told."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Drop it, without pytest_deselected."""
        del items[-1:]


class _TeardownFails:
    """The teardown of each test of capabilities fails."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Iterator[None]:
        """Fail when the fixtures are down."""
        yield
        if "capabilities" in marked_promises(item):
            raise CheckFailed("the teardown fails by a named fault")


class _NeverEnds:
    """The third test never ends."""

    def __init__(self) -> None:
        self._begun = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self) -> None:
        """Wait in the place of the third test's function."""
        self._begun += 1
        if self._begun > _SPARED:
            threading.Event().wait()


_CHANNEL: dict[str, Callable[[Channel], None]] = {
    "report-lost": _lose,
    "report-corrupted": _corrupt,
    "report-left-out": _leave_out,
    "report-misattributed": _confuse,
    "tests-overcounted": _count_one_more,
    "test-not-named": _name_one_less,
}
_PLUGINS: dict[str, type] = {
    "test-never-ends": _NeverEnds,
    "test-dropped": _Drops,
    "teardown-fails": _TeardownFails,
}
IMPLEMENTATIONS = (*_CHANNEL, *_PLUGINS)


def apply(name: str, channel: Channel) -> list[object]:
    """Apply a fault of this module to ``channel``; return plugins for pytest's session."""
    if name in _CHANNEL:
        _CHANNEL[name](channel)
    return [_PLUGINS[name]()] if name in _PLUGINS else []
