# SPDX-License-Identifier: Apache-2.0
"""Timers that another thread sets: the thread that serves runs them, however it waits."""

from __future__ import annotations

import select
import threading
import time
from pathlib import Path

import pytest

from dma_rehearsal.device.vfio_user.server import VfioUserServer
from dma_rehearsal.device.vfio_user.timers import Timer, Timers
from tests.unit.vfio_user.client import RawClient
from tests.unit.vfio_user.endpoint import Prober
from tests.unit.vfio_user.serving import serving

PATIENCE_S = 10
ASLEEP_S = 0.05  # by then a server that has nothing to do sleeps; if not, the test shows less


@pytest.mark.parametrize("connected", [False, True])
def test_server_that_sleeps_is_woken(tmp_path: Path, prober: Prober, connected: bool) -> None:
    ran: list[int] = []
    done = threading.Event()

    def action() -> None:
        ran.append(threading.get_ident())
        done.set()

    with serving(tmp_path / "socket", prober) as path:
        if connected:
            with RawClient(path):
                time.sleep(ASLEEP_S)
                prober.timers.after(0, action)
                assert done.wait(PATIENCE_S)
        else:
            time.sleep(ASLEEP_S)
            prober.timers.after(0, action)
            assert done.wait(PATIENCE_S)
    assert ran != [threading.get_ident()]


def test_server_that_was_woken_sleeps_again(tmp_path: Path, prober: Prober) -> None:
    """The bytes that woke it are taken away, or it would never wait again."""
    served = VfioUserServer(tmp_path / "socket", prober)
    served.listen()
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    time.sleep(ASLEEP_S)
    prober.timers.after(3600, lambda: None)
    waits = select.poll()
    waits.register(served._woken, select.POLLIN)
    deadline = time.monotonic() + PATIENCE_S
    while waits.poll(0):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    served.close()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_a_timer_before_the_next_one_is_not_late(tmp_path: Path, prober: Prober) -> None:
    done = threading.Event()
    prober.timers.after(3600, lambda: None)
    with serving(tmp_path / "socket", prober) as path, RawClient(path):
        time.sleep(ASLEEP_S)
        prober.timers.after(0, done.set)
        assert done.wait(PATIENCE_S)


def test_client_is_served_while_threads_set_timers(tmp_path: Path, prober: Prober) -> None:
    count, ran = 500, list[int]()
    done = threading.Event()

    def action() -> None:
        ran.append(1)
        if len(ran) == 3 * count:
            done.set()

    def work() -> None:
        for number in range(count):
            prober.timers.after(0, action)
            prober.timers.after(3600, action).cancel()
            if number % 50 == 0:
                time.sleep(0.001)

    with serving(tmp_path / "socket", prober) as path, RawClient(path) as client:
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(500):
            client.region_read(0, 4, 4)
        assert done.wait(PATIENCE_S)
        for thread in threads:
            thread.join(PATIENCE_S)
    assert len(ran) == 3 * count


def test_timer_after_the_end_of_its_server(tmp_path: Path, prober: Prober) -> None:
    with serving(tmp_path / "socket", prober):
        pass
    prober.timers.after(0, lambda: None)
    assert prober.timers.next_deadline() is not None


def test_set_and_cancelled_by_threads_while_they_run() -> None:
    timers, ran = Timers(), list[Timer]()

    def work() -> None:
        for _ in range(2000):
            timers.after(0, lambda: ran.append(kept))
            timers.after(0, lambda: ran.append(kept)).cancel()

    kept = timers.after(3600, lambda: None)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        timers.run_due()
    timers.run_due()
    assert len(ran) >= 4 * 2000
    assert timers.next_deadline() is not None
    timers.clear()
    assert not kept.active
    assert timers.kept == 0
