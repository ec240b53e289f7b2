# SPDX-License-Identifier: Apache-2.0
"""Posted work of an endpoint: a side effect like a timer's, forgotten by a reset, behind HOLD."""

from __future__ import annotations

from concurrent.futures import CancelledError

import pytest

from dma_rehearsal.device.vfio_user.turn import Turn
from tests.unit.device.endpoints.held_device import Copier, Reg, ask, held
from tests.unit.device.fakes import BASE


@pytest.fixture
def device() -> Copier:
    made = Copier()
    made.done.clear()
    return made


def run(device: Copier) -> None:
    """Run posted work, as a server does, for as many turns as it needs."""
    while device.posted.ready:
        device.posted.run(Turn())


def test_dmas_that_it_starts_are_done_when_it_has_returned(device: Copier) -> None:
    def action() -> None:
        device.write_later(1)
        device.step("returned")

    device.post(action)
    assert not device.done
    run(device)
    assert device.done == ["start 1", "returned", "end 1", "after 1"]


def test_refused_dma_ends_it_and_nothing_else(
    device: Copier, caplog: pytest.LogCaptureFixture
) -> None:
    device.post(lambda: device.bus.write(0, b"nowhere"))
    device.post(lambda: device.step("next"))
    run(device)
    assert device.done == ["next"]
    assert "a refused DMA ended what the model was doing" in caplog.text
    assert all(each.levelname == "WARNING" for each in caplog.records)


def test_refused_dma_of_a_future_is_told_there(device: Copier) -> None:
    future = device.post_future(lambda: device.bus.read(0, 4))
    run(device)
    assert "UNMAPPED" in str(future.exception(0))


def test_reset_forgets_what_was_posted_before(device: Copier) -> None:
    device.post(lambda: device.step("old"))
    future = device.post_future(lambda: device.step("old, too"))
    device.device_reset()
    device.post(lambda: device.step("new"))
    run(device)
    assert device.done == ["reset", "new"]
    with pytest.raises(CancelledError):
        future.result(0)


def test_reset_within_it_forgets_the_rest(device: Copier) -> None:
    device.post(device.device_reset)
    device.post(lambda: device.step("old"))
    run(device)
    assert device.done == ["reset"]


@pytest.mark.parametrize("kind", [Reg.NOW, Reg.LATER])
def test_it_waits_behind_an_action_that_is_held(kind: Reg) -> None:
    device = held()
    ask(device, kind, 1)
    device.post(lambda: device.step("posted"))
    run(device)
    assert "posted" not in device.done
    device.bus.interconnect.holds.release()
    device.go_on()
    run(device)
    assert device.moved(1)
    assert device.done[-1] == "posted"


def test_its_own_dma_is_not_held() -> None:
    device = held()
    device.post(lambda: device.bus.write(BASE + 1, b"!"))
    run(device)
    assert device.moved(1)


def test_device_that_a_migration_stops_does_none(device: Copier) -> None:
    assert device.migration is not None
    device.post(lambda: device.step("before"))
    device._stop_state.stop()
    device.post(lambda: device.step("after"))
    run(device)
    assert not device.done
    device._stop_state.run()
    run(device)
    assert device.done == ["after"]
