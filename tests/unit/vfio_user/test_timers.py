# SPDX-License-Identifier: Apache-2.0
"""Timers that another thread sets: the thread that serves runs them, however it waits."""

from __future__ import annotations

import select
import threading
import time
from pathlib import Path

import pytest

from dma_rehearsal.device.vfio_user.errors import TooManyTimers
from dma_rehearsal.device.vfio_user.server import VfioUserServer
from dma_rehearsal.device.vfio_user.timers import MAX_TIMERS, Timer, Timers
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
    assert timers.waiting == 0


# The bound.


def nothing() -> None:
    pass


def flooded() -> tuple[Timers, list[Timer]]:
    timers = Timers(lambda: 0.0)
    return timers, [timers.after(each % 7, nothing) for each in range(MAX_TIMERS)]


def test_flood_of_timers_is_refused_and_the_remedy_is_named() -> None:
    timers, live = flooded()
    with pytest.raises(TooManyTimers, match=r"65536 timers .* one timer for the next of them"):
        timers.after(0, nothing)
    assert timers.waiting == MAX_TIMERS
    live[5].cancel()
    live[5].cancel()
    timers.after(0, nothing)
    with pytest.raises(TooManyTimers):
        timers.after(0, nothing)
    timers.run_due()
    for _ in range(sum(each % 7 == 0 for each in range(MAX_TIMERS)) + 1):
        timers.after(0, nothing)
    with pytest.raises(TooManyTimers):
        timers.after(0, nothing)


def test_flood_of_another_thread_is_refused_there() -> None:
    timers, failures = Timers(lambda: 0.0), list[Exception]()

    def flood() -> None:
        try:
            for _ in range(MAX_TIMERS + 1):
                timers.after(1, nothing)
        except TooManyTimers as failure:
            failures.append(failure)

    threads = [threading.Thread(target=flood) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(failures), timers.waiting) == (2, MAX_TIMERS)


def test_framework_may_set_one_for_each_of_its_own() -> None:
    timers, _ = flooded()
    timers.resume_after(0, nothing).cancel()
    timers.resume_after(0, nothing)
    assert timers.waiting == MAX_TIMERS + 1


def test_timers_are_counted_whatever_ends_them() -> None:
    now = 0.0
    timers = Timers(lambda: now)
    first, second, third, _ = [timers.after(each, nothing) for each in range(4)]
    second.cancel()
    assert timers.waiting == 3
    timers.run_due()  # the first
    first.cancel()
    assert timers.waiting == 2
    now = 1.5
    assert timers.next_deadline() == 2, "the second was taken out"
    second.cancel()
    assert timers.waiting == 2
    now = 2.5
    timers.after(0, third.cancel)
    timers.run_due()
    assert timers.waiting == 1
    timers.clear()
    third.cancel()
    assert timers.waiting == 0


def test_cancelled_ones_neither_count_nor_stay() -> None:
    timers = Timers(lambda: 0.0)
    for _ in range(2 * MAX_TIMERS):
        timers.after(1, nothing).cancel()
    assert (timers.waiting, timers.kept < 100) == (0, True)
    live = [timers.after(1, nothing) for _ in range(1000)]
    for each in live[:900]:
        each.cancel()
    assert (timers.waiting, timers.kept <= 200) == (100, True)


def test_count_is_exact_while_threads_set_and_cancel() -> None:
    timers = Timers()

    def work() -> None:
        for each in range(3000):
            timers.after(0, nothing)
            timer = timers.after(each % 2, nothing)
            other = threading.Thread(target=timer.cancel) if each % 100 == 0 else None
            if other is not None:
                other.start()
            timer.cancel()
            if other is not None:
                other.join()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        timers.run_due()
    timers.run_due()
    assert timers.waiting == 0
