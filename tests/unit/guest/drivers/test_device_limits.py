# SPDX-License-Identifier: Apache-2.0
"""The device's limits as the guest reads them: splitting, refusals, and the device's own word."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dma_rehearsal.device.exerciser import profile
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import DmaReason, DmaRule, ExtFeature
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.guest.drivers.device_limits import NONE, UNLIMITED, Limits
from dma_rehearsal.guest.drivers.pci_bars import Bar
from tests.unit.device.fakes import BASE, FakeClient, answer, dma


class Extension:
    """BAR3 of a device, or words of a board's."""

    def __init__(self, device: Exerciser, **changed: int) -> None:
        self.device, self.changed = device, changed

    def __getitem__(self, offset: int) -> int:
        if offset == 8 and "features" in self.changed:
            return self.changed["features"]
        return int.from_bytes(self.device.region_read(3, offset, 4), "little")


def read(**changed: int) -> Limits:
    values: dict[str, Any] = {
        "address_bits": 36,
        "alignment": 8,
        "length_alignment": 4,
        "max_segment": 2048,
        "boundary": 1 << 32,
        "max_segments": 3,
        "max_transfer": 4096,
        "coherent": False,
        "line_size": 128,
        "sloppy": True,
    }
    made = Exerciser(Trace(), profile=profile.parse(values, "mine"))
    answer(made)
    extension: Any = Extension(made, **changed)
    bar: Bar = extension
    return Limits.read(bar)


def test_read() -> None:
    assert read() == Limits(
        36, 8, 4, 2048, 1 << 32, 3, 4096, DmaRule.NONE, coherent=False, sloppy=True, line_size=128
    )


def test_older_devices_have_fewer_limits() -> None:
    assert read(features=0) == UNLIMITED
    old = read(features=int(ExtFeature.CONSTRAINTS))
    assert old == Limits(address_bits=36, alignment=8, max_segment=2048, max_segments=3)


def test_rounding_and_the_largest() -> None:
    limits = Limits(alignment=8, length_alignment=4, max_segment=100, boundary=64)
    assert [limits.rounded(length) for length in (0, 1, 4, 5)] == [0, 4, 4, 8]
    assert limits.largest == 64
    assert Limits(alignment=8, max_segment=100).largest == 96
    assert UNLIMITED.largest == NONE


@given(
    step=st.sampled_from([1, 2, 8, 64]),
    boundary=st.sampled_from([1024, 4096, 65536, NONE]),
    segment=st.integers(64, 1 << 17),
    place=st.integers(0, 1 << 17),
    units=st.integers(0, 1 << 11),
    largest=st.integers(64, 1 << 16),
)
def test_split_keeps_every_limit_and_loses_no_byte(
    step: int, boundary: int, segment: int, place: int, units: int, largest: int
) -> None:
    limits = Limits(alignment=step, length_alignment=step, boundary=boundary, max_segment=segment)
    address, length = place * step, units * step
    parts = limits.split(address, length, largest)
    assert sum(parts) == length
    assert all(0 < part <= largest for part in parts)
    for start, part in zip(accumulate([address, *parts]), parts, strict=False):
        assert limits.refusal((start, part)) is DmaReason.NONE


@pytest.mark.parametrize(
    ("limits", "address", "length", "largest"),
    [
        (Limits(alignment=8), 4, 8, NONE),
        (Limits(length_alignment=8), 8, 4, NONE),
        (Limits(alignment=64), 0, 64, 32),
    ],
)
def test_split_of_what_cannot_be_moved(
    limits: Limits, address: int, length: int, largest: int
) -> None:
    with pytest.raises(ValueError, match=f"{length} bytes at {address:#x}"):
        limits.split(address, length, largest)


KEYS = st.fixed_dictionaries(
    {},
    optional={
        "address_bits": st.sampled_from(profile.ADDRESS_BITS),
        "alignment": st.sampled_from([1, 4, 64]),
        "length_alignment": st.sampled_from([1, 4, 64]),
        "max_segment": st.sampled_from([64, 1000, 1 << 20]),
        "boundary": st.sampled_from([1024, 4096, 1 << 16, 1 << 32]),
        "max_transfer": st.sampled_from([1 << 20, 1 << 21]),
        "sloppy": st.booleans(),
    },
)


@given(
    values=KEYS,
    address=st.one_of(
        st.integers(BASE, BASE + 0x2000), st.integers(0, (1 << 64) - 1), st.just((1 << 32) - 4)
    ),
    length=st.one_of(st.integers(0, 0x2000), st.sampled_from([64, 128, 1024, 4096])),
)
def test_guest_and_device_agree_on_what_is_refused(
    values: dict[str, Any], address: int, length: int
) -> None:
    """Two definitions, one on each side: a difference is an error of either."""
    made = Exerciser(Trace(), profile=profile.parse(values, "mine"))
    made.attach(FakeClient())
    made.region_write(7, 4, b"\x06\x00")
    extension: Any = Extension(made)
    due = Limits.read(extension).refusal((address, length))
    found = dma(made, address, length, write=False)["reason"]
    limits = (
        *(DmaReason.ADDRESS_BITS, DmaReason.ALIGNMENT, DmaReason.LENGTH_ALIGNMENT),
        *(DmaReason.MAX_SEGMENT, DmaReason.BOUNDARY, DmaReason.MAX_TRANSFER),
    )
    assert (found if found in limits else DmaReason.NONE) == due


PAGE = 4096
PRP = Limits(rule=DmaRule.PRP, boundary=PAGE, alignment=4)


@pytest.mark.parametrize(
    ("segments", "reason"),
    [
        (((PAGE + 4, 8),), DmaReason.NONE),
        (((PAGE - 8, 8), (0, PAGE), (3 * PAGE, 4)), DmaReason.NONE),
        (((PAGE - 8, 4), (0, PAGE)), DmaReason.PRP),
        (((PAGE - 8, 8), (4, 8)), DmaReason.PRP),
        (((2, 8),), DmaReason.ALIGNMENT),
        (((PAGE - 4, 8),), DmaReason.BOUNDARY),
    ],
)
def test_prp(segments: tuple[tuple[int, int], ...], reason: DmaReason) -> None:
    assert PRP.refusal(*segments) is reason


def test_transfers_have_limits_too() -> None:
    limits = Limits(max_segments=2, max_transfer=128)
    assert limits.refusal((0, 64), (64, 64)) is DmaReason.NONE
    assert limits.refusal((0, 64), (64, 65)) is DmaReason.MAX_TRANSFER
    assert limits.refusal(*[(0, 1)] * 3) is DmaReason.MAX_SEGMENTS
