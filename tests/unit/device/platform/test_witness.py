# SPDX-License-Identifier: Apache-2.0
"""The witness on synthetic tables: every level, page size, bit and refusal."""

from __future__ import annotations

import pytest

from dma_rehearsal.device.layout import (
    WITNESS_MAX_PAGES,
    WITNESS_RUN_MAX,
    MemoryType,
    WitnessRun,
    WitnessStatus,
)
from dma_rehearsal.device.platform.memory_types import Mtrrs, effective_type
from dma_rehearsal.device.platform.witness import WalkResult, Witness
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

# Entry 0 to 7: WB, WC, UC-, UC, WT, WP, WB, WT: each index tells itself from its neighbours.
PAT = int.from_bytes(bytes([6, 1, 7, 0, 4, 5, 6, 4]), "little")
TYPES = (
    *(MemoryType.WB, MemoryType.WC, MemoryType.UC_MINUS, MemoryType.UC),
    *(MemoryType.WT, MemoryType.WP, MemoryType.WB, MemoryType.WT),
)
ALL_WB = Mtrrs(def_type=1 << 11 | 6, physical_bits=40)
VA = 0x7F12_3456_7000


def walk(tables: Tables, va: int = VA, length: int = PAGE, mtrrs: Mtrrs = ALL_WB) -> WalkResult:
    return Witness(tables.read, PAT, mtrrs).walk(tables.root, va, length, tables.levels)


def only_run(report: WalkResult) -> WitnessRun:
    assert report.status is WitnessStatus.OK
    (run,) = report.runs
    return run


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize(("level", "size"), [(1, PAGE), (2, LARGE), (3, HUGE)])
def test_page_sizes(levels: int, level: int, size: int) -> None:
    tables = Tables(levels)
    va = VA & -size
    tables.map(va, 5 * size, level=level)
    run = only_run(walk(tables, va, PAGE))
    assert (run.va, run.physical, run.length, run.page_size) == (va, 5 * size, PAGE, size)


def test_offset_within_a_large_page() -> None:
    tables = Tables()
    tables.map(VA & -LARGE, 3 * LARGE, level=2)
    run = only_run(walk(tables, VA, 2 * PAGE))
    assert run.physical == 3 * LARGE + VA % LARGE
    assert run.length == 2 * PAGE


def test_upper_half_and_five_level_addresses() -> None:
    tables = Tables(5)
    va = 0xFF12_3456_789A_B000
    tables.map(va, 0x9000)
    assert only_run(walk(tables, va)).physical == 0x9000


@pytest.mark.parametrize("index", range(8))
@pytest.mark.parametrize(("level", "pat_bit"), [(1, PAT_4K), (2, PAT_LARGE), (3, PAT_LARGE)])
def test_pat_index(index: int, level: int, pat_bit: int) -> None:
    tables = Tables()
    bits = (PWT if index & 1 else 0) | (PCD if index & 2 else 0) | (pat_bit if index & 4 else 0)
    tables.map(VA & -HUGE, 7 * HUGE, TABLE | bits, level=level)
    run = only_run(walk(tables, VA & -HUGE))
    assert (run.pat_index, run.pat) == (index, TYPES[index])
    assert run.physical == 7 * HUGE, "the PAT bit of a large page is not a part of its address"


def test_upper_levels_do_not_choose_the_type() -> None:
    """PWT and PCD of a table's entry are about the walk itself (SDM 4.9.2)."""
    tables = Tables()
    tables.map(VA, 0x5000, upper=TABLE | PWT | PCD)
    assert only_run(walk(tables)).pat is MemoryType.WB


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("missing", [WRITABLE, USER])
def test_rights_need_every_level(level: int, missing: int) -> None:
    for leaf, upper in ((TABLE & ~missing, TABLE), (TABLE, TABLE & ~missing)):
        tables = Tables()
        tables.map(VA & -HUGE, 7 * HUGE, leaf, level=level, upper=upper)
        run = only_run(walk(tables, VA & -HUGE))
        assert run.writable == (missing != WRITABLE)
        assert run.user == (missing != USER)


def test_no_execute_of_any_level() -> None:
    for leaf, upper in ((TABLE | NX, TABLE), (TABLE, TABLE | NX)):
        tables = Tables()
        tables.map(VA, 0x5000, leaf, upper=upper)
        assert only_run(walk(tables)).no_execute
        assert only_run(walk(tables)).physical == 0x5000


def test_software_and_accessed_bits_change_nothing() -> None:
    tables = Tables()
    tables.map(VA, 0x5000, TABLE | 1 << 5 | 1 << 6 | 1 << 8 | 7 << 9 | 0x7FF << 52)
    run = only_run(walk(tables))
    assert (run.physical, run.pat_index, run.effective) == (0x5000, 0, MemoryType.WB)
    assert (run.writable, run.user, run.no_execute) == (True, True, False)


def test_root_with_pcid_and_flags() -> None:
    tables = Tables()
    tables.map(VA, 0x5000)
    report = Witness(tables.read, PAT, ALL_WB).walk(tables.root | 0xFFF | 1 << 63, VA, PAGE, 4)
    assert only_run(report).physical == 0x5000


@pytest.mark.parametrize("levels", [4, 5])
def test_root_of_the_user_half(levels: int) -> None:
    """With page-table isolation bit 12 tells two tables apart, and is not a flag."""
    tables = Tables(levels)
    tables.map(VA, 0x5000)
    assert tables.root == 0x1000
    kernel, user = 0x1_0000_0000, 0x1_0000_1000
    tables._pages[user] = tables._pages.pop(tables.root)
    tables._pages[kernel] = bytearray(PAGE)
    for root, status in ((user, WitnessStatus.OK), (kernel, WitnessStatus.NOT_PRESENT)):
        report = Witness(tables.read, PAT, ALL_WB).walk(root | 0x801, VA, PAGE, levels)
        assert report.status is status


@pytest.mark.parametrize("bit", range(5))
def test_what_differs_between_pages_ends_a_run(bit: int) -> None:
    """Neighbours by both addresses that differ in one bit: two runs, each with its own."""
    flags = (WRITABLE, USER, NX, PWT, PAT_4K)[bit]
    tables = Tables()
    tables.map(VA, 0x5000, TABLE)
    tables.map(VA + PAGE, 0x6000, TABLE ^ flags)
    runs = walk(tables, VA, 2 * PAGE).runs
    assert [(run.va, run.physical, run.length) for run in runs] == [
        (VA, 0x5000, PAGE),
        (VA + PAGE, 0x6000, PAGE),
    ]
    first, second = (
        (run.writable, run.user, run.no_execute, run.pat_index & 1, run.pat_index >> 2)
        for run in runs
    )
    assert [at for at in range(5) if first[at] != second[at]] == [bit]


def test_effective_type_of_each_run_by_pat_and_mtrr() -> None:
    """Five pages with each type of the PAT, behind MTRRs of each type: table 12-7 run by run."""
    kinds = (MemoryType.UC, MemoryType.WC, MemoryType.WT, MemoryType.WP, MemoryType.WB)
    mask = (1 << 40) - PAGE | 1 << 11
    ranges = tuple((0x5000 + PAGE * place | kind, mask) for place, kind in enumerate(kinds))
    for index, pat in enumerate(TYPES):
        bits = index & 1 and PWT, index & 2 and PCD, index & 4 and PAT_4K
        tables = Tables()
        for place in range(len(kinds)):
            tables.map(VA + place * PAGE, 0x5000 + place * PAGE, TABLE | sum(bits))
        runs = walk(tables, VA, len(kinds) * PAGE, Mtrrs(1 << 11 | 6, 40, ranges)).runs
        assert [(run.mtrr, run.pat) for run in runs] == [(kind, pat) for kind in kinds]
        assert [run.effective for run in runs] == [effective_type(kind, pat) for kind in kinds]


def test_adjacent_pages_are_one_run_and_others_are_not() -> None:
    tables = Tables()
    places = (0x5000, 0x6000, 0x8000, 0x9000)
    for index, physical in enumerate(places):
        tables.map(VA + index * PAGE, physical, TABLE | (PWT if index == 3 else 0))
    report = walk(tables, VA, 4 * PAGE)
    found = [(run.physical, run.length, run.effective.name) for run in report.runs]
    assert found == [(0x5000, 2 * PAGE, "WB"), (0x8000, PAGE, "WB"), (0x9000, PAGE, "WC")]
    assert report.pages == 4


@pytest.mark.parametrize(
    ("offset", "length", "pages"),
    [(0, 1, 1), (0xFFF, 1, 1), (0xFFF, 2, 2), (1, PAGE, 2), (0, PAGE + 1, 2), (0x800, 0x1801, 3)],
)
def test_range_is_rounded_to_pages(offset: int, length: int, pages: int) -> None:
    tables = Tables()
    for index in range(4):
        tables.map(VA + index * PAGE, 0x5000 + index * PAGE)
    report = walk(tables, VA + offset, length)
    run = only_run(report)
    assert (run.va, run.length, report.pages) == (VA, pages * PAGE, pages)


def test_each_table_is_read_once() -> None:
    tables = Tables()
    for index in range(100):
        tables.map(VA + index * PAGE, 0x50_0000 + index * PAGE)
    walk(tables, VA, 100 * PAGE)
    assert len(tables.reads) == len(set(tables.reads))


@pytest.mark.parametrize("level", [4, 3, 2, 1])
def test_not_present(level: int) -> None:
    tables = Tables()
    tables.map(VA, 0x5000)
    hole = (
        VA + PAGE
        if level == 1
        else (VA & -(1 << 12 + 9 * (level - 1))) + (1 << 12 + 9 * (level - 1))
    )
    report = walk(tables, hole)
    assert (report.status, report.fault_address) == (WitnessStatus.NOT_PRESENT, hole)


def test_runs_before_a_hole_are_there() -> None:
    tables = Tables()
    tables.map(VA, 0x5000)
    report = walk(tables, VA, 3 * PAGE)
    assert report.status is WitnessStatus.NOT_PRESENT
    assert report.fault_address == VA + PAGE
    assert [run.physical for run in report.runs] == [0x5000]


@pytest.mark.parametrize("bit", [13, 16, 20])
def test_reserved_bits_of_a_large_page(bit: int) -> None:
    tables = Tables()
    tables.map(VA & -LARGE, 3 * LARGE | 1 << bit, level=2)
    assert walk(tables).status is WitnessStatus.RESERVED_BIT


@pytest.mark.parametrize("levels", [4, 5])
def test_page_size_bit_where_there_are_no_pages(levels: int) -> None:
    tables = Tables(levels)
    tables.put(tables.root, VA >> 12 + 9 * (levels - 1) & 0x1FF, 0x2000 | TABLE | PS)
    assert walk(tables).status is WitnessStatus.RESERVED_BIT


def test_table_outside_memory() -> None:
    tables = Tables()
    tables.put(tables.root, VA >> 39 & 0x1FF, 0xDEAD_F000 | TABLE)
    assert walk(tables).status is WitnessStatus.TABLE_UNREACHABLE


def test_tables_that_point_at_themselves_end() -> None:
    tables = Tables()
    for index in range(512):
        tables.put(tables.root, index, tables.root | TABLE)
    report = walk(tables, 0, WITNESS_MAX_PAGES * PAGE)
    assert report.status is WitnessStatus.TOO_MANY_RUNS
    assert len(report.runs) == WITNESS_RUN_MAX


@pytest.mark.parametrize(
    ("va", "length", "levels"),
    [
        (VA, 0, 4),
        (VA, -1, 4),
        (VA, PAGE, 3),
        (VA, PAGE, 6),
        (VA, PAGE, 0),
        (1 << 47, PAGE, 4),
        ((1 << 47) - PAGE, 2 * PAGE, 4),
        ((1 << 64) - PAGE, 2 * PAGE, 4),
        (1 << 56, PAGE, 5),
        (VA, WITNESS_MAX_PAGES * PAGE + 1, 4),
        (VA + 1, WITNESS_MAX_PAGES * PAGE, 4),
    ],
)
def test_bad_arguments(va: int, length: int, levels: int) -> None:
    tables = Tables()
    report = Witness(tables.read, PAT, ALL_WB).walk(tables.root, va, length, levels)
    assert report.status is WitnessStatus.BAD_ARGUMENT
    assert tables.reads == []


def test_reserved_pat_encoding() -> None:
    tables = Tables()
    tables.map(VA, 0x5000)
    report = Witness(tables.read, 2, ALL_WB).walk(tables.root, VA, PAGE, 4)
    assert report.status is WitnessStatus.BAD_ARGUMENT


def test_large_page_over_two_mtrr_types_is_two_runs() -> None:
    tables = Tables()
    tables.map(VA & -LARGE, 8 * LARGE, level=2)
    half = LARGE // 2
    mask = ((1 << 40) - half) | 1 << 11
    mtrrs = Mtrrs(1 << 11 | 6, 40, ((8 * LARGE + half, mask),))
    runs = walk(tables, VA & -LARGE, LARGE, mtrrs).runs
    assert [(run.physical, run.length, run.effective.name) for run in runs] == [
        (8 * LARGE, half, "WB"),
        (8 * LARGE + half, half, "UC"),
    ]


def test_entry_that_is_present_alone_is_a_page_at_zero() -> None:
    tables = Tables()
    tables.map(VA, 0, PRESENT)
    run = only_run(walk(tables))
    assert (run.physical, run.writable, run.user) == (0, False, False)
