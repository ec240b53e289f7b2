# SPDX-License-Identifier: Apache-2.0
"""The harness's decoder alone, and against the platform's witness, which shares no code with it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dma_rehearsal.device.layout import MemoryType, WitnessRun, WitnessStatus
from dma_rehearsal.device.platform.memory_types import Mtrrs, effective_type
from dma_rehearsal.device.platform.witness import Witness
from dma_rehearsal.host_harness.witness import page_walk
from dma_rehearsal.host_harness.witness.page_walk import PageRange, TypeRegisters, WalkFailed
from tests.unit.device.platform.tables import (
    HUGE,
    LARGE,
    NX,
    PAGE,
    PAT_4K,
    PAT_LARGE,
    PCD,
    PRESENT,
    PS,
    PWT,
    TABLE,
    USER,
    WRITABLE,
    Tables,
)

PAT = 0x0407_0506_0007_0106  # Linux's
ALL_WB = TypeRegisters(PAT, 1 << 11 | 6, 40, (), (0,) * 11)
VA = 0x7F12_3456_7000
WALKED = [MemoryType.UC, MemoryType.WC, MemoryType.WT, MemoryType.WP, MemoryType.WB]


def reader(tables: Tables) -> Callable[[int, int], bytes]:
    return lambda address, length: tables.read(address & -PAGE, PAGE)[address % PAGE :][:length]


def walk(
    tables: Tables, va: int = VA, length: int = PAGE, registers: TypeRegisters = ALL_WB
) -> list[PageRange]:
    return page_walk.walk(reader(tables), tables.root, tables.levels, va, length, registers)


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize(("level", "size"), [(1, PAGE), (2, LARGE), (3, HUGE)])
def test_page_sizes(levels: int, level: int, size: int) -> None:
    tables = Tables(levels)
    tables.map(VA & -size, 5 * size, level=level)
    (run,) = walk(tables)
    assert (run.va, run.physical, run.length) == (VA, 5 * size + VA % size, PAGE)
    assert run.page_size == size


@pytest.mark.parametrize("index", range(8))
@pytest.mark.parametrize(("level", "pat_bit"), [(1, PAT_4K), (2, PAT_LARGE), (3, PAT_LARGE)])
def test_pat_index(index: int, level: int, pat_bit: int) -> None:
    tables = Tables()
    bits = (PWT if index & 1 else 0) | (PCD if index & 2 else 0) | (pat_bit if index & 4 else 0)
    tables.map(VA & -HUGE, 7 * HUGE, TABLE | bits, level=level, upper=TABLE | PWT | PCD)
    (run,) = walk(tables, VA & -HUGE)
    assert run.pat_index == index
    assert run.physical == 7 * HUGE
    assert run.pat == ("WB", "WC", "UC_MINUS", "UC", "WB", "WP", "UC_MINUS", "WT")[index]


@pytest.mark.parametrize("missing", [WRITABLE, USER, NX])
def test_rights_of_every_level_count(missing: int) -> None:
    for leaf, upper in ((TABLE ^ missing, TABLE), (TABLE, TABLE ^ missing)):
        tables = Tables()
        tables.map(VA, 0x5000, leaf, upper=upper)
        (run,) = walk(tables)
        rights = run.writable, run.user, run.no_execute
        assert rights == (missing != WRITABLE, missing != USER, missing == NX)


def test_root_is_what_cr3_holds() -> None:
    tables = Tables()
    tables.map(VA, 0x5000)
    read = reader(tables)
    (run,) = page_walk.walk(read, tables.root | 0xFFF | 1 << 63, 4, VA, PAGE, ALL_WB)
    assert run.physical == 0x5000
    # Bit 12 is a part of the address: it tells the user's half with isolation.
    tables._pages[0x9000] = tables._pages.pop(0x1000)
    (run,) = page_walk.walk(read, 0x9000 | 0x801, 4, VA, PAGE, ALL_WB)
    assert run.physical == 0x5000


def test_runs_are_joined_where_nothing_changes() -> None:
    tables = Tables()
    for index, physical in enumerate((0x5000, 0x6000, 0x8000, 0x9000)):
        tables.map(VA + index * PAGE, physical, TABLE | (PWT if index == 3 else 0))
    runs = walk(tables, VA + 1, 3 * PAGE)
    assert [(run.physical, run.length, run.effective) for run in runs] == [
        (0x5000, 2 * PAGE, "WB"),
        (0x8000, PAGE, "WB"),
        (0x9000, PAGE, "WC"),
    ]


@pytest.mark.parametrize(
    ("entry", "words"),
    [(0, "is not present"), (3 * LARGE | 1 << 13 | TABLE | PS, "bits below its page")],
)
def test_entries_that_map_nothing(entry: int, words: str) -> None:
    tables = Tables()
    table, index = tables.map(VA & -LARGE, 3 * LARGE, level=2)
    tables.put(table, index, entry)
    with pytest.raises(WalkFailed, match=words):
        walk(tables)


def test_page_size_bit_where_there_are_no_pages() -> None:
    tables = Tables()
    tables.put(tables.root, VA >> 39 & 0x1FF, 0x2000 | TABLE | PS)
    with pytest.raises(WalkFailed, match="a page of 549755813888 bytes"):
        walk(tables)


@pytest.mark.parametrize(
    "registers",
    [
        TypeRegisters(2, 0x806, 40, (), (0,) * 11),
        TypeRegisters(PAT, 0x802, 40, (), (0,) * 11),
        TypeRegisters(PAT, 0x807, 40, (), (0,) * 11),
        TypeRegisters(PAT, 0x806, 40, ((5, 1 << 11), (1, 1 << 11)), (0,) * 11),
    ],
    ids=["PAT", "reserved MTRR", "UC- MTRR", "overlap"],
)
def test_reserved_types(registers: TypeRegisters) -> None:
    tables = Tables()
    tables.map(VA, 0x5000)
    with pytest.raises(WalkFailed):
        walk(tables, registers=registers)


@pytest.mark.parametrize(("mtrr", "pat"), [*itertools.product(WALKED, MemoryType)])
def test_both_tables_of_effective_types_are_alike(mtrr: MemoryType, pat: MemoryType) -> None:
    """They were written apart, by types of PAT here and by pairs there."""
    assert page_walk.combined(pat.name, mtrr.name) == effective_type(mtrr, pat).name


def _size(level: int) -> int:
    return 1 << 12 + 9 * (level - 1)


_BITS = st.lists(st.sampled_from([WRITABLE, USER, PWT, PCD, PAT_4K, NX, 1 << 5, 1 << 6, 1 << 9]))
_RANGE = st.tuples(
    st.sampled_from([0, 1, 4, 5, 6]), st.integers(0, 1 << 7), st.integers(0, 7), st.booleans()
)


def _pair(said: tuple[int, int, int, bool]) -> tuple[int, int]:
    """Make a variable MTRR of 128 KiB to 16 MiB."""
    kind, place, power, valid = said
    size = 1 << 17 + power
    return place * size | kind, (1 << 40) - size | valid << 11


@given(
    levels=st.sampled_from([4, 5]),
    pages=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 6), _BITS, _BITS, st.booleans())),
    ranges=st.lists(_RANGE, max_size=3),
    def_type=st.sampled_from([0x806, 0x800, 0xC06, 0x006]),
    fixed=st.lists(
        st.sampled_from([0, 0x0606060606060606, 0x0506040100]), min_size=11, max_size=11
    ),
    root_bits=st.integers(0, 0xFFF),
    edge=st.integers(0, 5),
    before=st.integers(0, 2 * PAGE),
    length=st.integers(1, 5 * PAGE),
)
def test_witness_and_harness_agree(
    levels: int,
    pages: list[tuple[int, int, list[int], list[int], bool]],
    ranges: list[tuple[int, int, int, bool]],
    def_type: int,
    fixed: list[int],
    root_bits: int,
    edge: int,
    before: int,
    length: int,
) -> None:
    """For any tables and registers both find the same runs, or neither finishes."""
    tables = Tables(levels)
    va = 0
    edges = [0]
    for level, frame, leaf, upper, present in pages:
        size = _size(level)
        va = (va + size - 1) & -size
        flags = 0
        for bit in leaf:
            flags |= PAT_LARGE if bit == PAT_4K and level > 1 else bit
        above = TABLE
        for bit in upper:
            above ^= bit if bit in (WRITABLE, USER, NX, PWT, PCD) else 0
        tables.map(va, frame * size, flags | (PRESENT if present else 0), level=level, upper=above)
        va += size
        edges.append(va)
    start = max(0, edges[edge % len(edges)] - before)
    pairs = tuple(map(_pair, ranges))
    root = tables.root | root_bits
    witness = Witness(tables.read, PAT, Mtrrs(def_type, 40, pairs, tuple(fixed)))
    report = witness.walk(root, start, length, levels)
    registers = TypeRegisters(PAT, def_type, 40, pairs, tuple(fixed))
    try:
        runs = page_walk.walk(reader(tables), root, levels, start, length, registers)
    except WalkFailed:
        assert report.status is not WitnessStatus.OK
        return
    assert report.status is WitnessStatus.OK
    # A run of the witness may end where an MTRR does although the type goes on.
    joined = list(page_walk._joined(_split(report.runs)))
    assert joined == runs


def _split(runs: list[WitnessRun]) -> list[PageRange]:
    pages = []
    for run in runs:
        facts = asdict(run)
        for name in ("pat", "mtrr", "effective"):
            facts[name] = facts[name].name
        for offset in range(0, facts["length"], PAGE):
            place = {"va": facts["va"] + offset, "physical": facts["physical"] + offset}
            pages.append(PageRange(**{**facts, **place, "length": PAGE}))
    return pages


@pytest.mark.parametrize(
    ("address", "number"),
    [
        *((0, 0), (0x1_0000, 1), (0x7_FFFF, 7), (0x8_0000, 8), (0x8_3FFF, 8), (0x8_4000, 9)),
        *((0xB_FFFF, 23), (0xC_0000, 24), (0xC_1000, 25), (0xF_FFFF, 87)),
    ],
)
def test_fixed_ranges_are_of_three_sizes(address: int, number: int) -> None:
    """64 KiB, 16 KiB and 4 KiB (Intel SDM, volume 3A, table 12-9); each has a byte of its own."""
    registers = tuple(
        int.from_bytes(bytes(range(first, first + 8)), "little") for first in range(0, 88, 8)
    )
    assert page_walk._fixed(registers, address) == number


@given(
    st.lists(
        st.tuples(st.integers(0, 15), st.integers(1, 15), st.sampled_from([0, 4, 6])), max_size=3
    ),
    st.integers(0, 7),
    st.integers(0, 0x12FF).map(lambda page: page * PAGE),
    st.integers(1, 40),
)
def test_types_of_a_range_are_those_of_its_pages(
    ranges: list[tuple[int, int, int]], index: int, physical: int, pages: int
) -> None:
    """Masks are of 256 KiB to 4 MiB, and not always of adjacent bits."""
    bits = (1 << 40) - (1 << 22)
    pairs = tuple((base << 18 | kind, bits | mask << 18 | 1 << 11) for base, mask, kind in ranges)
    registers = TypeRegisters(PAT, 0xC06, 40, pairs, (0x0004_0605_0600_0405,) * 11)

    def one(place: int) -> str:
        pat = page_walk._type(PAT >> 8 * index & 0xFF, "")
        return page_walk.combined(pat, page_walk.mtrr_type(registers, place))

    try:
        expected = [one(physical + PAGE * page) for page in range(pages)]
    except WalkFailed:
        with pytest.raises(WalkFailed):
            page_walk.types_of(registers, index, physical, pages * PAGE)
        return
    found = page_walk.types_of(registers, index, physical, pages * PAGE)
    assert [kind for length, kind in found for _ in range(length // PAGE)] == expected
    assert all(first != second for (_, first), (_, second) in itertools.pairwise(found))
