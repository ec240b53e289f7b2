# SPDX-License-Identifier: Apache-2.0
"""Memory types: IA32_PAT, the MTRRs, and their combination, against the SDM's own words."""

from __future__ import annotations

import pytest

from dma_rehearsal.device.layout import MemoryType
from dma_rehearsal.device.platform.memory_types import (
    BadMemoryType,
    Mtrrs,
    effective_type,
    pat_types,
)

UC, WC, WT = MemoryType.UC, MemoryType.WC, MemoryType.WT
WP, WB, UC_MINUS = MemoryType.WP, MemoryType.WB, MemoryType.UC_MINUS
ENABLE, FIXED_ENABLE, VALID = 1 << 11, 1 << 10, 1 << 11
BITS = 40


def variable(base: int, size: int, kind: int, valid: int = VALID) -> tuple[int, int]:
    return base | kind, ((1 << BITS) - size) | valid


def test_pat_at_reset_and_as_linux_sets_it() -> None:
    assert pat_types(0x0007_0406_0007_0406) == (WB, WT, UC_MINUS, UC) * 2
    assert pat_types(0x0407_0500_0701_0006 | 1 << 8)[0] is WB
    assert pat_types(0x0407_0506_0007_0106) == (WB, WC, UC_MINUS, UC, WB, WP, UC_MINUS, WT)


@pytest.mark.parametrize("value", [2, 3, 8, 0xFF])
@pytest.mark.parametrize("entry", [0, 7])
def test_reserved_pat_encodings(value: int, entry: int) -> None:
    with pytest.raises(BadMemoryType):
        pat_types(value << 8 * entry)


def test_mtrrs_off_means_uncached() -> None:
    assert Mtrrs(6, BITS).type_of(0x1000) is UC


def test_default_type_where_no_range_is() -> None:
    mtrrs = Mtrrs(ENABLE | 6, BITS, (variable(0x8000_0000, 0x8000_0000, 0),))
    assert mtrrs.type_of(0x7FFF_FFFF) is WB
    assert mtrrs.type_of(0x8000_0000) is UC
    assert mtrrs.type_of(0xFFFF_FFFF) is UC
    assert mtrrs.type_of(0x1_0000_0000) is WB


def test_range_that_is_not_valid_does_not_count() -> None:
    mtrrs = Mtrrs(ENABLE | 6, BITS, (variable(0, 0x1000_0000, 0, valid=0),))
    assert mtrrs.type_of(0) is WB


@pytest.mark.parametrize(
    ("first", "second", "result"),
    [(UC, WB, UC), (WB, UC, UC), (UC, WC, UC), (WT, WB, WT), (WB, WT, WT), (WC, WC, WC)],
)
def test_overlaps(first: MemoryType, second: MemoryType, result: MemoryType) -> None:
    ranges = (variable(0, 0x1000_0000, first), variable(0, 0x2000_0000, second))
    assert Mtrrs(ENABLE | 6, BITS, ranges).type_of(0x1000) is result


@pytest.mark.parametrize(("first", "second"), [(WC, WB), (WP, WB), (WT, WC)])
def test_overlaps_that_are_undefined(first: MemoryType, second: MemoryType) -> None:
    ranges = (variable(0, 0x1000_0000, first), variable(0, 0x2000_0000, second))
    with pytest.raises(BadMemoryType):
        Mtrrs(ENABLE | 6, BITS, ranges).type_of(0x1000)


@pytest.mark.parametrize("kind", [2, 3, 7, 0xFF])
def test_reserved_mtrr_types(kind: int) -> None:
    with pytest.raises(BadMemoryType):
        Mtrrs(ENABLE | 6, BITS, (variable(0, 0x1000, kind),)).type_of(0)
    with pytest.raises(BadMemoryType):
        Mtrrs(ENABLE | kind, BITS).type_of(0)


@pytest.mark.parametrize(
    ("address", "register", "byte"),
    [
        (0x00000, 0, 0),
        (0x7FFFF, 0, 7),
        (0x80000, 1, 0),
        (0x9FFFF, 1, 7),
        (0xA0000, 2, 0),
        (0xBFFFF, 2, 7),
        (0xC0000, 3, 0),
        (0xC7FFF, 3, 7),
        (0xC8000, 4, 0),
        (0xFFFFF, 10, 7),
        (0xF9000, 10, 1),
    ],
)
def test_fixed_ranges(address: int, register: int, byte: int) -> None:
    values = [0x0606_0606_0606_0606] * 11
    values[register] ^= 7 << 8 * byte  # WB becomes WC there alone
    mtrrs = Mtrrs(ENABLE | FIXED_ENABLE | 6, BITS, (), tuple(values))
    assert mtrrs.type_of(address) is WC
    assert Mtrrs(ENABLE | 6, BITS, (), tuple(values)).type_of(address) is WB


# Intel SDM vol. 3A, table 12-7, a line for each type of the MTRRs, in the order of the PAT's types.
ORDER = (UC, UC_MINUS, WC, WT, WB, WP)
TABLE = {
    UC: (UC, UC, WC, UC, UC, UC),
    WC: (UC, WC, WC, UC, WC, UC),
    WT: (UC, UC, WC, WT, WT, WP),
    WB: (UC, UC, WC, WT, WB, WP),
    WP: (UC, WC, WC, WT, WP, WP),
}


@pytest.mark.parametrize("mtrr", TABLE)
@pytest.mark.parametrize("pat", ORDER)
def test_effective_type(mtrr: MemoryType, pat: MemoryType) -> None:
    assert effective_type(mtrr, pat) is TABLE[mtrr][ORDER.index(pat)]


def test_uniform_limit_is_the_next_edge() -> None:
    mtrrs = Mtrrs(ENABLE | 6, BITS, (variable(0x8000_0000, 0x1000_0000, 0),))
    assert mtrrs.uniform_limit(0x100_0000) == 0x8000_0000
    assert mtrrs.uniform_limit(0x8000_0000) == 0x9000_0000
    assert mtrrs.uniform_limit(0x9000_0000) == 1 << BITS
    assert mtrrs.uniform_limit(0x5123) == 0x6000
