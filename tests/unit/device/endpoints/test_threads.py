# SPDX-License-Identifier: Apache-2.0
"""Threads of a device: they start with a client, end with it, and one that does not is named."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import CancelledError

import pytest

from dma_rehearsal.device.endpoints import Endpoint, Identity, threads
from dma_rehearsal.device.testing import FakeHost

PATIENCE_S = 10


class Threaded(Endpoint):
    """1234:0006."""

    identity = Identity(vendor_id=0x1234, device_id=6, class_code=0xFF0000)

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[object] = []
        self.begun = threading.Event()

    def waits(self, ending: threading.Event) -> None:
        """Wait for the end."""
        self.begun.set()
        self.seen.append(ending.wait(PATIENCE_S))

    def asks(self, _ending: threading.Event) -> None:
        """Wait for the device, again and again."""
        self.seen.append("begun")
        self.begun.set()
        while True:
            self.seen.append(self.post_future(threading.get_ident).result(PATIENCE_S))

    def swallows(self, ending: threading.Event) -> None:
        """Wait for the device, whatever it says, until the end."""
        self.begun.set()
        while not ending.is_set():
            try:
                self.post_future(threading.get_ident).result(PATIENCE_S)
            except CancelledError:
                self.seen.append("cancelled")
        try:
            self.post_future(threading.get_ident).result(PATIENCE_S)
        except CancelledError:
            self.seen.append("cancelled at once")

    async def loops(self) -> None:
        """Wait in asyncio."""
        self.begun.set()
        try:
            while True:
                await asyncio.wrap_future(self.post_future(threading.get_ident))
        finally:
            self.seen.append("finally")

    async def sleeps(self) -> None:
        """Wait in asyncio for what the device has no part in."""
        self.begun.set()
        try:
            await asyncio.sleep(1000)
        finally:
            self.seen.append("finally")

    def stays(self, _ending: threading.Event) -> None:
        """Wait for what does not come in time."""
        self.begun.set()
        self.release.wait(PATIENCE_S)

    release = threading.Event()

    def fails(self, _ending: threading.Event) -> None:
        """Fail."""
        raise LookupError("a bug")


@pytest.fixture
def device() -> Threaded:
    return Threaded()


@pytest.mark.parametrize("kind", ["waits", "asks", "swallows", "loops", "sleeps"])
def test_it_ends_with_the_client(
    device: Threaded, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    host = FakeHost(device)
    thread = device.thread(getattr(device, kind))
    assert device.begun.wait(PATIENCE_S)
    host.close()
    assert not thread.alive
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert device.seen
    assert device.posted._ending == set()
    if kind == "swallows":
        assert device.seen[-1] == "cancelled at once"


def test_the_device_hears_of_the_end_first(
    device: Threaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "on_detach", lambda: device.seen.append("on_detach"))
    host = FakeHost(device)
    device.thread(device.waits)
    assert device.begun.wait(PATIENCE_S)
    host.close()
    assert device.seen == ["on_detach", True]


def test_it_may_be_ended_before(device: Threaded) -> None:
    with FakeHost(device):
        thread = device.thread(device.waits)
        assert device.begun.wait(PATIENCE_S)
        thread.end()
        assert not thread.alive
        thread.end()


def test_one_that_has_ended_is_forgotten(device: Threaded) -> None:
    with FakeHost(device):
        thread = device.thread(lambda _ending: None)
        thread._thread.join(PATIENCE_S)
        assert not device._threads._threads


def test_one_that_does_not_end_is_named(device: Threaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "END_S", 0.01)
    host = FakeHost(device)
    thread = device.thread(device.stays)
    assert device.begun.wait(PATIENCE_S)
    with pytest.raises(RuntimeError, match=r"Threaded\.stays did not end within .*; it is at "):
        host.close()
    device.release.set()
    thread._thread.join(PATIENCE_S)


def test_without_a_client(device: Threaded) -> None:
    with pytest.raises(RuntimeError, match=r"Threaded\.waits was started without a client.*on_att"):
        device.thread(device.waits)


def test_one_that_fails_is_the_models_failure(device: Threaded) -> None:
    host = FakeHost(device)
    device.thread(device.fails)._thread.join(PATIENCE_S)
    with pytest.raises(LookupError, match="a bug"):
        host.close()


@pytest.mark.parametrize("kind", ["asks", "loops"])
def test_reset_that_it_does_not_expect_is_told(device: Threaded, kind: str) -> None:
    """The reset cancels the future that it waits for; a thread that goes on catches that."""
    host = FakeHost(device)
    thread = device.thread(getattr(device, kind))
    while not device.posted.waiting:
        pass
    host.device.device_reset()
    thread._thread.join(PATIENCE_S)
    with pytest.raises(CancelledError):
        host.close()
