# SPDX-License-Identifier: Apache-2.0
"""The log of accesses, as the host reads it."""

from __future__ import annotations

import random
from pathlib import Path

from dma_rehearsal.device.layout.access_records import AccessKind, AccessRecord
from dma_rehearsal.host_harness.machine import device_process
from dma_rehearsal.host_harness.timeline import access_file
from dma_rehearsal.host_harness.timeline.events import Lost, RegisterAccess
from tests.unit.host_harness.timeline import runs


def test_a_record_that_cannot_be_read_ends_the_file(tmp_path: Path) -> None:
    path = tmp_path / device_process.ACCESSES
    wrong = AccessRecord(5, 0, 0, 1, 0, 4, 0, 99, 0).pack()
    for tail in (b"\1\2\3", wrong, AccessRecord(1 << 63, 0, 0, 1, 0, 4, 0, 1, 0).pack()):
        runs.write_accesses(tmp_path, runs.access(1, 0, 1), tail, runs.access(2, 0, 1))
        assert [each.kind for each in access_file.read(path, 1)] == [RegisterAccess, Lost]


def test_names_are_printable(tmp_path: Path) -> None:
    runs.write_accesses(tmp_path, runs.named(0, "\x1b[1mbad\n"), runs.access(1, 0, 1))
    (found,) = access_file.read(tmp_path / device_process.ACCESSES, 1)
    assert found.device == "bad"


def test_any_bytes_are_read(tmp_path: Path) -> None:
    chance = random.Random(1)
    path = tmp_path / device_process.ACCESSES
    for _ in range(200):
        kind = chance.choice([*map(int, AccessKind), 7])
        length = chance.randrange(1 << 16)
        record = AccessRecord(1, 2, 3, 4, 5, length, 6, kind, 7)
        runs.write_accesses(tmp_path, record.pack() + chance.randbytes(chance.randrange(600)))
        list(access_file.read(path, 1))


def test_another_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / device_process.ACCESSES
    path.write_bytes(b"something else")
    assert list(access_file.read(path, 1)) == []
    assert list(access_file.read(tmp_path / "missing", 1)) == []
