# SPDX-License-Identifier: Apache-2.0
"""A fault that is set in a running device acts at every point, and its state goes with it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.exerciser.behaviour import Behaviour
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.faults import SOUND, DeviceFault
from dma_rehearsal.device.faults.fault import FaultyBehaviour
from dma_rehearsal.device.faults.injector import FaultError, FaultInjector
from dma_rehearsal.device.layout import (
    INTXCTL_ASSERT,
    MSICTL_TRIGGER,
    Ext,
    Reg,
    RingDescriptor,
    RingFlag,
)
from dma_rehearsal.device.platform.platform import Platform
from dma_rehearsal.device.trace import Trace
from tests.unit.device.fakes import BASE, FakeClient, dma, start, write32

POINTS = {name for name, _ in inspect.getmembers(Behaviour, inspect.isfunction) if name[0] != "_"}


class Watched(FaultyBehaviour):
    """The sound behaviour, which knows at which points it was asked."""

    def __init__(self, device: Exerciser) -> None:
        super().__init__(device)
        self.asked: set[str] = set()

    def __getattribute__(self, name: str) -> Any:
        if name in POINTS:
            self.asked.add(name)
        return super().__getattribute__(name)


def use_all(device: Exerciser, client: FakeClient) -> None:
    """Do DMA by registers and by the ring, send interrupts, read, write, and reset."""
    device.attach(client)
    start(device)
    dma(device, BASE, 8, write=True)
    client.ram[:32] = RingDescriptor(BASE, 4, 0, RingFlag.INTERRUPT | RingFlag.NO_SNOOP).pack()
    write32(device, 3, Ext.RING_BASE_LO, BASE)
    write32(device, 3, Ext.RING_SIZE, 4)
    write32(device, 3, Ext.RING_CONTROL, 1)
    write32(device, 3, Ext.RING_DOORBELL, 1)
    write32(device, 0, Reg.MSICTL, MSICTL_TRIGGER | 1)
    device.region_write(7, 4, b"\x06\x00")
    device.device_reset()
    device.region_write(7, 4, b"\x06\x00")
    write32(device, 0, Reg.INTXCTL, INTXCTL_ASSERT)
    write32(device, 0, Reg.DMACTL, 1)
    device.region_read(7, 0, 64)
    device.detach()


def test_the_sound_behaviour_and_one_that_passes_everything_on_have_every_point() -> None:
    assert len(POINTS) == 15
    for kind in Exerciser, FaultyBehaviour:
        for name in POINTS:
            parameters = [*inspect.signature(getattr(Behaviour, name)).parameters]
            assert [*inspect.signature(getattr(kind, name)).parameters] == parameters


def test_a_behaviour_is_asked_at_every_point_as_soon_as_it_is_given(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace")
    device = Exerciser(trace)
    injector = FaultInjector([device], Platform(Trace()))
    injector.apply(DeviceFault(exerciser=Watched))
    watched = device.behaviour
    assert isinstance(watched, Watched)
    use_all(device, FakeClient())
    assert watched.asked == POINTS
    watched.asked.clear()
    injector.apply(SOUND)
    use_all(device, FakeClient())
    assert watched.asked == set()
    assert device.behaviour is device
    trace.close()


def test_what_a_fault_kept_goes_with_it() -> None:
    device = Exerciser(Trace())
    injector = FaultInjector([device], Platform(Trace()))
    device.attach(FakeClient())
    device.region_write(7, 4, b"\x06\x00")
    injector.set("device-reads-stale")
    first = device.behaviour
    sound = vars(first).copy()
    before = set(vars(device))
    dma(device, BASE, 8, write=True)
    assert vars(first).keys() > sound.keys(), "what it wrote last"
    assert set(vars(device)) == before
    injector.set("device-reads-stale")
    assert device.behaviour is not first
    assert vars(device.behaviour).keys() == sound.keys()


def test_endpoint_of_another_class_has_no_fault_of_the_exerciser() -> None:
    class Other(Exerciser):
        """Not the exerciser that the faults are made for."""

    other, exerciser = Other(Trace()), Exerciser(Trace())
    endpoints: list[Endpoint] = [exerciser, other]
    injector = FaultInjector(endpoints, Platform(Trace()))
    with pytest.raises(FaultError, match=r"is one of the exerciser.s, and the endpoint is Other"):
        injector.set("device-read-flip")
    assert (exerciser.behaviour, other.behaviour) == (exerciser, other)
    injector.set("protection-record-lost")
