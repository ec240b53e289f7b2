# SPDX-License-Identifier: Apache-2.0
"""Any access to any register, of any width, in any order: an answer each time, never an exception.

The server turns an exception of a model into an error reply, which a guest never sees. So here
every access is made on the model itself.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dma_rehearsal.device.exerciser.capabilities import OptionalCapability
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import DmaReason, Ext, Plat, Reg
from dma_rehearsal.device.platform.platform import Platform
from dma_rehearsal.device.trace import Trace
from tests.generated import examples
from tests.unit.device.fakes import BASE, FakeClient, answer, read32

words = (
    st.integers(0, 0xFFFF_FFFF)
    | st.sampled_from([0, 1, 0xFFFF_FFFF, BASE, 0x11, 0x8000_0000, 64, 4096])
).map(lambda value: value.to_bytes(4, "little"))
interesting = st.one_of(
    st.tuples(st.just(0), st.sampled_from(list(Reg)), words),
    st.tuples(st.just(3), st.sampled_from(list(Ext)), words),
    st.tuples(st.just(7), st.integers(0, 0x160).map(lambda offset: offset & ~3), words),
)
commands = st.tuples(
    st.just(0),
    st.sampled_from(list(Plat)),
    words | st.integers(0, 8).map(lambda n: n.to_bytes(4, "little")),
)
anything = st.tuples(st.integers(0, 7), st.integers(0, 0xFFF), st.binary(min_size=1, max_size=8))
accesses = st.lists(interesting | anything, max_size=40)


@settings(max_examples=examples(300), deadline=None)
@given(accesses)
def test_exerciser_answers(order: list[tuple[int, int, bytes]]) -> None:
    exerciser = Exerciser(Trace(), buffer_size=4096, capabilities=tuple(OptionalCapability))
    client = FakeClient()
    exerciser.attach(client)
    exerciser.region_write(7, 4, b"\x06\x00")
    for bar, offset, data in order:
        if offset + len(data) <= exerciser.region_size(bar):
            exerciser.region_write(bar, offset, data)
            assert len(exerciser.region_read(bar, offset, len(data))) == len(data)
    exerciser.device_reset()
    answer(exerciser)
    assert read32(exerciser, 3, Ext.DMA_COUNT) == 0
    assert read32(exerciser, 0, Reg.DMACTL) == 0
    assert read32(exerciser, 3, Ext.ABORT_REASON) in [*DmaReason]


@settings(deadline=None)
@given(st.lists(commands | anything, max_size=40))
def test_platform_answers(order: list[tuple[int, int, bytes]]) -> None:
    platform = Platform(Trace())
    platform.attach(FakeClient())
    platform.region_write(7, 4, b"\x06\x00")
    for bar, offset, data in order:
        if offset + len(data) <= platform.region_size(bar):
            platform.region_write(bar, offset, data)
            assert len(platform.region_read(bar, offset, len(data))) == len(data)
