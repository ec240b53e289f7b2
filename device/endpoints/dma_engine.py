# SPDX-License-Identifier: Apache-2.0
"""Admits requests and moves their bytes: the one way to memory of every DMA, at once or later.

Theory of operation. Requests that need no message are admitted and moved in one step under the
interconnect's lock (`_move`), by whomever they are made. What the client alone reaches goes by
messages, a piece each (`_ask_for`): what is left is admitted before a piece is asked for, and a
piece that was read is admitted again when its data are taken. So what is withdrawn meanwhile ends
the DMA; but a piece to write that was asked for cannot be called back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from dma_rehearsal.device.endpoints.access_check import Admission
from dma_rehearsal.device.endpoints.dma import (
    Attributes,
    Data,
    DmaRefused,
    NotMapped,
    OnlyByMessage,
    Outcome,
    Segments,
    bare,
    ranges_of,
)
from dma_rehearsal.device.endpoints.iommu_forwarding import page_at_fault
from dma_rehearsal.device.endpoints.memory_access import refusal_of
from dma_rehearsal.device.endpoints.request_log import HISTORY
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.vfio_user.errors import MemoryFault
from dma_rehearsal.device.vfio_user.model import Ask

# What a DMA asks of the client, one message after the other; it is sent each answer.
Asking = Generator[Ask, bytes | MemoryFault, Outcome]
_Answered = Generator[Ask, bytes | MemoryFault, bytes | DmaRefused]


class Moves(Admission):
    """Moves the bytes of one function's requests."""

    referring = False  # whether the client is told of a refusal, and has not answered yet

    def _move(
        self, segments: Segments, attributes: Attributes, *, write: bool, later: bool = False
    ) -> list[bytes]:
        """Admit all segments, then move them; return what was read. Under the lock.

        DmaRefused, recorded: nothing was moved (but see `_through`). ``later``: OnlyByMessage, when
        nothing refuses and messages are needed.
        """
        window = self._window(segments, attributes, write=write)
        if window is None:
            return self._through(segments, attributes, write=write, later=later)
        # Told first: a guest that sees the bytes may end its test before this goes on.
        if write:
            every = self.interconnect.checked or self.trace.on
            told = ranges_of(segments if every else segments[-HISTORY:], write=True)
            self._record(told, attributes, write=True)
        else:
            self._record(segments, attributes, write=False)
        low, _, memory, offset = window
        shift = offset - low
        if not write:
            return [
                memory[address + shift : address + shift + length] for address, length in segments
            ]
        for address, data in segments:
            memory[address + shift : address + shift + len(data)] = data
        return []

    def _through(
        self, segments: Segments, attributes: Attributes, *, write: bool, later: bool
    ) -> list[bytes]:
        """As `_move`, with a look at each segment.

        Where the client takes its memory away in the midst of a list, what lies before has moved,
        and is told.
        """
        ranges = ranges_of(segments, write=write)
        targets = self._admit_all(ranges, attributes, write=write, later=later)
        certain = all(each.certain for each in targets)
        if certain:
            self._record(ranges, attributes, write=write)
        read: list[bytes] = []
        done = 0
        try:
            for target, (_, what) in zip(targets, segments, strict=True):
                if write:
                    target.write(what)
                else:
                    read.append(target.read())
                done += 1
        except DmaRefused as refusal:
            if done:
                self._record(ranges[:done], attributes, write=write)
            self._record_refused(*ranges[done], attributes, refusal, write=write)
            raise
        if not certain:
            self._record(ranges, attributes, write=write)
        return read

    # What may need messages.

    def _begin(
        self, segments: Segments, attributes: Attributes, *, write: bool, by_message: bool
    ) -> Outcome | Asking:
        """Move segments, or return what has to be asked of the client first, or the refusal."""
        if not by_message:
            try:
                with self.interconnect.lock:
                    return self._move(segments, attributes, write=write, later=True)
            except OnlyByMessage:
                pass
            except DmaRefused as refusal:
                return self._ended(bare(refusal), segments, attributes, write=write)
        return self._one_by_one(segments, attributes, write=write, by_message=by_message)

    def _ended(
        self, refusal: DmaRefused, segments: Segments, attributes: Attributes, *, write: bool
    ) -> DmaRefused | Asking:
        """Return a refusal that was recorded, or what tells the client's IOMMU of it first.

        A request that is refused by something else than the client's map is not the IOMMU's.
        """
        if self.behind_iommu and isinstance(refusal, NotMapped):
            page = page_at_fault(segments, refusal.address, write=write)
            if page is not None:
                return self._refer(refusal, page, attributes)
        return refusal

    def _refer(self, refusal: DmaRefused, page: Ask, attributes: Attributes) -> Asking:
        """Ask for the page at fault, which the client's IOMMU refuses; return the refusal."""
        client = self.client
        if client is None or self._leaving or not self._function.config.bus_master:
            return refusal
        length = min(page.length, client.message_max)
        data = None if page.data is None else page.data[:length]
        self.referring = True
        try:
            answer = yield Ask(page.address, length, data)
        finally:
            self.referring = False
        if isinstance(answer, bytes):  # it was mapped in between
            with self.interconnect.lock:
                self._record(((page.address, length),), attributes, write=data is not None)
        return refusal

    def _one_by_one(
        self, segments: Segments, attributes: Attributes, *, write: bool, by_message: bool
    ) -> Asking:
        """Move segments one after the other, each a request of its own, till one is refused."""
        read: list[bytes] = []
        for each in segments:
            address, what = each
            length, data = (len(what), what) if write else (what, None)
            outcome = yield from self._ask_for(address, length, data, attributes, by_message)
            if isinstance(outcome, DmaRefused):
                ended = self._ended(outcome, (each,), attributes, write=write)
                return ended if isinstance(ended, DmaRefused) else (yield from ended)
            read.append(outcome)
        return [] if write else read

    def _ask_for(
        self, address: int, length: int, data: Data | None, attributes: Attributes, by_message: bool
    ) -> _Answered:
        """Move one range, what the client alone reaches by messages (``by_message``: all of it).

        Return what was read, or the refusal, which was recorded. A write that is refused has moved
        the pieces that were answered; of a read nothing is given out.
        """
        write, read, moved = data is not None, bytearray(), 0
        view = None if data is None else memoryview(data)
        piece = b""  # that was read, and not taken yet
        while True:
            try:
                with self.interconnect.lock:
                    if piece:
                        at = address + moved, len(piece), attributes
                        with contextlib.suppress(OnlyByMessage):
                            self._admit(*at, write=write, by_message=by_message)
                        read += piece
                        moved += len(piece)
                    rest = None if view is None else view[moved:]
                    left: bytes | None = b""
                    if moved < length or not length:
                        at = address + moved, length - moved, attributes
                        left = self._move_left(*at, rest, by_message)
                    if left is not None:
                        self._record(((address, length),), attributes, write=write)
                        return bytes(read) + left
                if self.client is None:
                    raise DmaRefused(DmaReason.CLIENT_GONE, address + moved)
                count = min(length - moved, self.client.message_max)
                answer = yield Ask(address + moved, count, None if rest is None else rest[:count])
                if isinstance(answer, MemoryFault):
                    raise refusal_of(answer)
                if write:
                    moved += count
                piece = answer
            except DmaRefused as refusal:
                found = bare(refusal)
                self._record_refused(
                    address, length, attributes, found, write=write, moved=moved if write else 0
                )
                return found

    def _move_left(
        self,
        address: int,
        length: int,
        attributes: Attributes,
        data: Data | None,
        by_message: bool,
    ) -> bytes | None:
        """Admit and move what is left of a range; None when the client has to be asked for it."""
        try:
            target = self._admit(
                address, length, attributes, write=data is not None, by_message=by_message
            )
        except OnlyByMessage:
            return None if length else b""
        if data is None:
            return target.read()
        target.write(data)
        return b""
