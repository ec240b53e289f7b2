# SPDX-License-Identifier: Apache-2.0
"""The kernel's messages, and the oopses and warnings among them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma_rehearsal.guest.linux import kernel_messages
from dma_rehearsal.guest.linux.kernel_messages import KernelMessages, trouble

QUIET = ["my_driver 0000:00:04.0: enabling device", "my_driver: WARNING is a word"]
OOPS = [
    "BUG: kernel NULL pointer dereference, address: 0000000000000008",
    "#PF: supervisor read access in kernel mode",
    "RIP: 0010:my_xmit+0x12/0x40 [my_driver]",
    "---[ end trace 0000000000000000 ]---",
]


class FakeLog:
    """/dev/kmsg: each read takes one record. Errors come in the place of records."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.records: list[bytes | int] = []
        self.seeks: list[int] = []
        patch.setattr(os, "read", self.read)
        patch.setattr(os, "lseek", lambda _fd, _offset, how: self.seeks.append(how))

    def read(self, _fd: int, _size: int) -> bytes:
        record = self.records.pop(0) if self.records else errno.EAGAIN
        if isinstance(record, int):
            raise OSError(record, os.strerror(record))
        return record


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLog]:
    with monkeypatch.context() as patch:
        yield FakeLog(patch)


def test_messages_come_from_the_end_on(log: FakeLog, tmp_path: Path) -> None:
    path = tmp_path / "kmsg"
    path.touch()
    with KernelMessages(path) as messages:
        assert log.seeks == [os.SEEK_END]
        assert messages.read() == []
        log.records = [
            b"6,340,5690716,-;my_driver: one; two\n SUBSYSTEM=pci\n DEVICE=+pci:0000:00:04.0\n",
            errno.EPIPE,
            b"4,342,5690717,c;three\n",
        ]
        assert messages.read() == ["my_driver: one; two", "three"]
        log.records = [b"6,343,5690718,-;four\n"]
        assert messages.read() == ["my_driver: one; two", "three", "four"]


def test_other_errors_are_raised(log: FakeLog, tmp_path: Path) -> None:
    path = tmp_path / "kmsg"
    path.touch()
    log.records = [errno.EIO]
    with KernelMessages(path) as messages, pytest.raises(OSError, match="Input/output"):
        messages.read()


def test_they_are_bounded(log: FakeLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_messages, "_MESSAGES_MAX", 2)
    path = tmp_path / "kmsg"
    path.touch()
    log.records = [f"6,{number},1,-;{number}\n".encode() for number in range(5)]
    with KernelMessages(path) as messages:
        assert messages.read() == ["3", "4"]


def test_a_quiet_kernel_has_no_trouble() -> None:
    assert trouble(QUIET) == []


@pytest.mark.parametrize(
    "line",
    [
        OOPS[0],
        "WARNING: CPU: 1 PID: 96 at kernel/dma/debug.c:1026 check_unmap+0x1/0x2",
        "Oops: 0002 [#1] PREEMPT SMP",
        "general protection fault, probably for non-canonical address 0xdead: 0000 [#1]",
        "kernel BUG at mm/slub.c:435!",
        "INFO: task python3:96 blocked for more than 120 seconds.",
        "refcount_t: underflow; use-after-free.",
        "DMA-API: my_driver 0000:00:04.0: device driver has pending DMA allocations",
        "BUG: sleeping function called from invalid context at mm/slab.h:1",
        "BUG kmalloc-96 (Tainted: G           OE     ): Right Redzone overwritten",
        "Bad page state in process python3  pfn:12345",
    ],
)
def test_trouble_is_found_by_its_first_line(line: str) -> None:
    assert trouble([*QUIET, line, "Call Trace:"]) == [line, "Call Trace:"]


def test_trouble_ends_with_its_trace() -> None:
    cut = "------------[ cut here ]------------"
    assert trouble([*QUIET, cut, *OOPS, "later"]) == OOPS
    assert trouble([*OOPS[:2], cut, *OOPS]) == OOPS[:2]
    assert len(trouble([*OOPS[:1], *["line"] * 1000])) == 40
