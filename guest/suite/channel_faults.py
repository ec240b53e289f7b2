"""Named faults of the guest's end of the channel: each takes the run's verdict away.

The host must end such a run without a verdict, whatever the tests said.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from .channel import HEADER, Channel, Message, frame

_SPARED = 2  # reports or tests before the fault acts


class _Counter:
    """Tells when a kind of message comes for the third time."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._seen = 0

    def strikes(self, message: Message) -> bool:
        self._seen += message["type"] == self._kind
        return message["type"] == self._kind and self._seen == _SPARED + 1


def _lose_report() -> Callable[[Message, bytes], bytes]:
    counter = _Counter("report")
    return lambda message, whole: b"" if counter.strikes(message) else whole


def _corrupt_report() -> Callable[[Message, bytes], bytes]:
    counter = _Counter("report")

    def flip(message: Message, whole: bytes) -> bytes:
        if not counter.strikes(message):
            return whole
        middle = (HEADER.size + len(whole)) // 2
        return whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]

    return flip


def _never_end() -> Callable[[Message, bytes], bytes]:
    counter = _Counter("finish")

    def wait(message: Message, whole: bytes) -> bytes:
        if counter.strikes(message):
            threading.Event().wait()
        return whole

    return wait


def _count_one_more() -> Callable[[Message, bytes], bytes]:
    def add(message: Message, whole: bytes) -> bytes:
        if message["type"] != "ended":
            return whole
        sequence = HEADER.unpack_from(whole)[2]
        return frame({**message, "ran": message["ran"] + 1}, sequence)

    return add


FAULTS = {
    "report-lost": _lose_report,
    "report-corrupted": _corrupt_report,
    "test-never-ends": _never_end,
    "tests-overcounted": _count_one_more,
}


def apply(name: str, channel: Channel) -> None:
    """Put a fault on ``channel`` for good; one of another part does nothing here."""
    if name in FAULTS:
        channel.outgoing = FAULTS[name]()
