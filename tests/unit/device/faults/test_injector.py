# SPDX-License-Identifier: Apache-2.0
"""A fault that is set in a running device acts whatever it overrides: no part keeps a method."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType, MethodType, ModuleType

import pytest

from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.exerciser.capabilities import OptionalCapability
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.faults import SOUND, DeviceFault
from dma_rehearsal.device.faults.injector import FaultInjector
from dma_rehearsal.device.layout import DmaReason, Ext, RingDescriptor, RingStatus
from dma_rehearsal.device.platform.platform import Platform
from dma_rehearsal.device.trace import Trace
from tests.unit.device.fakes import BASE, FakeClient, dma, read32, write32


def methods_kept(root: object) -> Iterator[MethodType]:
    """Yield the bound methods of an object that it, or anything that it reaches, keeps."""
    seen, stack = set(), [root]
    while stack:
        each = stack.pop()
        if id(each) in seen or isinstance(each, type | ModuleType):
            continue
        seen.add(id(each))
        if isinstance(each, MethodType) and each.__self__ is root:
            yield each
        within = each.__closure__ or () if isinstance(each, FunctionType) else None
        stack += gc.get_referents(each) if within is None else within


def overriding_all(kind: type) -> type:
    """Return a subclass with a method of its own in the place of each."""
    own = {}
    for parent in reversed(kind.__mro__[:-1]):
        for name, found in vars(parent).items():
            if isinstance(found, FunctionType) and name != "__init__":
                code, names = found.__code__, found.__globals__
                own[name] = FunctionType(code, names, name, found.__defaults__, found.__closure__)
    return type(f"Other{kind.__name__}", (kind,), own)


@pytest.mark.parametrize("behind_iommu", [False, True])
def test_no_part_keeps_a_method_of_the_class_before(behind_iommu: bool) -> None:
    exerciser, platform = Exerciser(Trace(), capabilities=[*OptionalCapability]), Platform(Trace())
    exerciser.bus.behind_iommu = behind_iommu
    switch = FaultInjector([exerciser], platform)
    other = DeviceFault(overriding_all(Exerciser))
    for fault in (other, SOUND):
        switch.apply(fault)
        for device in (exerciser,):
            stale = {
                each.__name__
                for each in methods_kept(device)
                if each.__func__ is not getattr(type(device), each.__name__)
            }
            assert not stale, f"{type(device).__name__} would go on calling {sorted(stale)}"


def test_a_fault_of_the_fetch_acts_in_a_device_that_runs() -> None:
    class FetchesNothing(Exerciser):
        def _fetch(
            self,
            ranges: Sequence[tuple[int, int]],
            done: Callable[[list[bytes] | DmaRefused], None],
        ) -> None:
            done(DmaRefused(DmaReason.UNMAPPED, ranges[0][0]))

    device = Exerciser(Trace())
    switch = FaultInjector([device], Platform(Trace()))
    client = FakeClient()
    client.ram[:32] = RingDescriptor(BASE, 4, 0, 0).pack()
    device.attach(client)
    device.region_write(7, 4, b"\x06\x00")
    write32(device, 3, Ext.RING_BASE_LO, BASE)
    write32(device, 3, Ext.RING_SIZE, 4)
    for fault, status in (
        (DeviceFault(FetchesNothing), RingStatus.UNREACHABLE),
        (SOUND, RingStatus.OK),
    ):
        switch.apply(fault)
        write32(device, 3, Ext.RING_CONTROL, 0)
        write32(device, 3, Ext.RING_CONTROL, 1)
        write32(device, 3, Ext.RING_DOORBELL, 1)
        assert read32(device, 3, Ext.RING_STATUS) == status


def test_what_a_fault_kept_goes_with_it() -> None:
    device = Exerciser(Trace())
    switch = FaultInjector([device], Platform(Trace()))
    device.attach(FakeClient())
    device.region_write(7, 4, b"\x06\x00")
    before = set(vars(device))
    switch.set("device-reads-stale")
    dma(device, BASE, 8, write=True)
    assert set(vars(device)) > before, "what it wrote last"
    switch.set(None)
    assert set(vars(device)) == before
