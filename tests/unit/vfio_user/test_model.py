# SPDX-License-Identifier: Apache-2.0
"""The DMA map against a model that keeps one entry for each page."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from dma_rehearsal.device.vfio_user.dma_map import DmaMap
from dma_rehearsal.device.vfio_user.errors import (
    MemoryFault,
    ReadOnly,
    RemoteProtocolError,
    Unmapped,
)
from tests.generated import examples

PAGE = 4096
PAGES = 24
FILE_PAGES = 16


class DmaMapAgainstPages(RuleBasedStateMachine):
    """Each byte is reached or refused as its page says, after any maps and unmaps."""

    ranges = Bundle("ranges")

    def __init__(self) -> None:
        super().__init__()
        self.descriptor = os.memfd_create("model", os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, FILE_PAGES * PAGE)
        for page in range(FILE_PAGES):
            os.pwrite(self.descriptor, bytes([page + 1]) * PAGE, page * PAGE)
        self.map = DmaMap()
        self.pages: dict[int, tuple[int, bool]] = {}  # page -> (page of the file, writable)
        self.starts: dict[int, int] = {}

    @initialize(sealed=st.booleans())
    def seal(self, sealed: bool) -> None:
        """Have the file mapped, or have its bytes copied by the kernel."""
        if sealed:
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)

    def teardown(self) -> None:
        self.map.clear()
        os.close(self.descriptor)

    @rule(
        start=st.integers(0, PAGES - 1),
        count=st.integers(1, 6),
        offset=st.integers(0, FILE_PAGES),
        writable=st.booleans(),
    )
    def add(self, start: int, count: int, offset: int, writable: bool) -> None:
        wanted = range(start, start + count)
        overlap = any(page in self.pages for page in wanted)
        outside = offset + count > FILE_PAGES
        call = (start * PAGE, count * PAGE, 3 if writable else 1, offset * PAGE, self.descriptor)
        if overlap or outside:
            with pytest.raises(RemoteProtocolError) as refusal:
                self.map.add(*call)
            assert refusal.value.errno == (errno.EEXIST if overlap else errno.EINVAL)
            return
        self.map.add(*call)
        self.pages |= {page: (offset + page - start, writable) for page in wanted}
        self.starts[start] = count

    @rule(start=st.integers(0, PAGES + 5), count=st.integers(1, PAGES))
    def remove(self, start: int, count: int) -> None:
        end = start + count
        touched = {s: n for s, n in self.starts.items() if s < end and s + n > start}
        if any(s < start or s + n > end for s, n in touched.items()):
            with pytest.raises(RemoteProtocolError):
                self.map.remove(start * PAGE, count * PAGE)
            return
        self.map.remove(start * PAGE, count * PAGE)
        for first, number in touched.items():
            del self.starts[first]
            for page in range(first, first + number):
                del self.pages[page]

    @rule(
        address=st.integers(0, (PAGES + 6) * PAGE),
        length=st.integers(1, 3 * PAGE),
        write=st.booleans(),
    )
    def access(self, address: int, length: int, write: bool) -> None:
        expected: type[MemoryFault] | None = None
        data = b""
        for page in range(address // PAGE, (address + length - 1) // PAGE + 1):
            if page not in self.pages:
                expected = Unmapped
                break
            source, writable = self.pages[page]
            if write and not writable:
                expected = ReadOnly
                break
            low = max(address, page * PAGE)
            high = min(address + length, (page + 1) * PAGE)
            data += bytes([source + 1]) * (high - low)
        if expected is None:
            assert b"".join(map(bytes, self.map.views(address, length, write=write))) == data
        else:
            with pytest.raises(expected):
                self.map.views(address, length, write=write)

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.map) == len(self.starts)


TestDmaMap = DmaMapAgainstPages.TestCase
TestDmaMap.settings = settings(max_examples=examples(100), stateful_step_count=30, deadline=None)
