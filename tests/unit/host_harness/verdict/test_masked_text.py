# SPDX-License-Identifier: Apache-2.0
"""Texts without what differs from run to run: sizes in bytes stay."""

from __future__ import annotations

import pytest

from dma_rehearsal.host_harness.verdict import masked_text


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("64 bytes at 0xc000 in 1 DMA, CRC 35e47eea", "64 bytes at # in #, CRC #"),
        ("read 64 of 64 bytes at 0xc000, 21 DMAs by nic", "read 64 of 64 bytes at #, # by nic"),
        ("6 segments, 5120 bytes bounced", "#, 5120 bytes bounced"),
        ("1 segment(s) of 32768 bytes", "# of 32768 bytes"),
        ("256 bytes in pool main for task 88", "256 bytes in pool main for task #"),
        ("expected 5e 8e fe ad 1f, seen 00 c1 aa ff", "expected #, seen #"),
        ("runs ['0x1000', '0x3000'] of 2.5 s", "runs ['#'] of # s"),
        ("kIOMapInhibitCache UC in pool below16", "kIOMapInhibitCache UC in pool below16"),
    ],
)
def test_what_was_seen(text: str, due: str) -> None:
    assert masked_text.seen(text) == due


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("64 bytes at 0xc000", "64 bytes at #"),
        ("vector 3 of 16, once", "vector 3 of 16, once"),
        ("300 steps, seed 4249964", "300 steps, seed #"),
        (
            "4 processes, number 0 killed in round 3",
            "4 processes, number # killed in round #",
        ),
        ("11 mappings, 45056 bytes", "#"),
        ("4096 bytes in 10 adjacent grants, one away", "4096 bytes in # adjacent grants, one away"),
    ],
)
def test_what_was_asked(text: str, due: str) -> None:
    assert masked_text.asked(text) == due


def test_counts_of_a_driver_s_mappings_do_not_stay() -> None:
    attested = "read 8192 of 8192 bytes in 2 DMAs; 1 mapping never touched"
    assert masked_text.seen_of(attested, "3 mappings, 12288 bytes") == "read "
    assert masked_text.seen_of(attested, "8192 bytes").startswith("read 8192 of 8192 bytes in #")
