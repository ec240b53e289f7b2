# SPDX-License-Identifier: Apache-2.0
"""Patterns differ where a fault could hide, and replay from seed and node id."""

from __future__ import annotations

import itertools
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dma_rehearsal.guest.testkit.patterns import BLOCK, Patterns, difference, inverted, joined_crc32

NODE = "suite/test_x.py::test_x"


@pytest.mark.parametrize("length", [0, 1, 2, 3, 64, 4097, 1024001])
def test_every_byte_differs_from_what_could_be_there(length: int) -> None:
    pattern = Patterns(7, NODE).take(length)
    assert len(pattern) == length
    assert 0x00 not in pattern, "zeroed memory"
    assert 0xFF not in pattern, "reads of a device that is gone"
    assert all(a != b for a, b in itertools.pairwise(pattern)), "moved by one"
    assert all(a != b for a, b in zip(pattern, inverted(pattern), strict=True))
    assert inverted(inverted(pattern)) == pattern


def test_no_part_of_a_long_pattern_comes_again() -> None:
    pattern = Patterns(7, NODE).take(127 * BLOCK)
    blocks = [pattern[start : start + BLOCK] for start in range(0, len(pattern), BLOCK)]
    for at in 0, 1, 4095, BLOCK - 1:
        assert len({block[at] for block in blocks}) == len(blocks)
    for size in 64, 4096, 65536:
        pieces = [pattern[start : start + size] for start in range(0, len(pattern), size)]
        assert len({*pieces}) == len(pieces)


def test_patterns_differ_by_seed_test_and_use() -> None:
    first, second = Patterns(7, NODE), Patterns(7, NODE)
    drawn = [first.take(64), first.take(64)]
    assert drawn == [second.take(64), second.take(64)], "a single test replays"
    others = [Patterns(8, NODE).take(64), Patterns(7, NODE + "[1]").take(64)]
    assert len({*drawn, *others}) == 4


@given(
    length=st.integers(0, 300_000),
    largest=st.sampled_from([64, 4096, 4097, 65536]),
    seed=st.integers(0, 99),
)
def test_cut_gives_odd_pieces_that_fit(length: int, largest: int, seed: int) -> None:
    pieces = Patterns(seed, NODE).cut(length, largest)
    assert sum(pieces) == length
    assert all(piece % 2 == 1 and piece <= largest for piece in pieces)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_joined_crc32(first: bytes, second: bytes) -> None:
    joined = joined_crc32(zlib.crc32(first), zlib.crc32(second), len(second))
    assert joined == zlib.crc32(first + second)


def test_difference_says_where() -> None:
    assert difference(b"abc", b"abc") == ""
    assert difference(b"abc", b"ab") == "2 bytes where 3 were expected"
    said = difference(b"0123456789", b"0123x5678x")
    assert said.startswith("2 of 10 bytes differ, the first at offset 0x4: expected 34 35 36")
    assert "seen 78 35 36" in said
