# SPDX-License-Identifier: Apache-2.0
"""Admits requests and moves their bytes: every DMA goes through here, at once or later.

Theory of operation. Requests that need no message are admitted and moved in one step under the
interconnect's lock (`move`), from any caller. Bytes that only the client reaches go by messages,
one piece each (`_by_messages`). The rest of a range is admitted before each piece is asked for, and
a piece that was read is admitted again when its data are taken. So a right that is withdrawn in
between ends the DMA; only a piece to write that was already sent cannot be called back.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Generator

from dma_rehearsal.device.endpoints.access_check import AccessCheck
from dma_rehearsal.device.endpoints.dma import (
    Asking,
    Attributes,
    Data,
    DmaRefused,
    Dropped,
    OnlyByMessage,
    Outcome,
    Ranges,
    ScatterList,
    bare,
    ranges_of,
    refusal_of,
)
from dma_rehearsal.device.endpoints.interconnect import Link
from dma_rehearsal.device.endpoints.iommu_forwarding import IommuForwarding
from dma_rehearsal.device.endpoints.request_log import HISTORY, RequestLog
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.vfio_user.errors import MemoryFault
from dma_rehearsal.device.vfio_user.model import Ask

_Answered = Generator[Ask, bytes | MemoryFault, bytes | DmaRefused]


class DmaEngine:
    """Moves the bytes of one function's requests."""

    def __init__(
        self, link: Link, log: RequestLog, check: AccessCheck, forwarding: IommuForwarding
    ) -> None:
        self._link, self._log, self._check, self._forwarding = link, log, check, forwarding

    def move(
        self, segments: ScatterList, attributes: Attributes, *, write: bool, later: bool = False
    ) -> list[bytes]:
        """Admit all segments, then move them; return the bytes read. Under the lock.

        DmaRefused, recorded: nothing was moved (but see `_move_each`). ``later``: raise
        OnlyByMessage when nothing refuses and messages are needed.
        """
        mapped = self._check.one_mapping(segments, attributes, write=write, data=write)
        if mapped is None:
            return self._move_each(segments, attributes, write=write, later=later)
        # Recorded first: a guest that sees the bytes may end its test before this goes on.
        if write:
            every = self._link.interconnect.checked or self._log.trace.on
            recorded = ranges_of(segments if every else segments[-HISTORY:], write=True)
            self._log.record(recorded, attributes, write=True)
        else:
            self._log.record(segments, attributes, write=False)
        low, _, memory, offset = mapped
        shift = offset - low
        if not write:
            return [
                memory[address + shift : address + shift + length] for address, length in segments
            ]
        for address, data in segments:
            memory[address + shift : address + shift + len(data)] = data
        return []

    def move_in_place(
        self, ranges: Ranges, whole: memoryview, attributes: Attributes, *, write: bool
    ) -> int | None:
        """Admit ranges and move them from or to ``whole``, in order; return its CRC-32.

        Under the lock. None, and nothing was moved or recorded: they are not in one mapping.
        DmaRefused, recorded: as `move`. No copy is made, so the CRC-32 is taken before another
        function can write to ``whole``.
        """
        mapped = self._check.one_mapping(ranges, attributes, write=write, data=False)
        if mapped is None:
            return None
        self._log.record(ranges, attributes, write=write)
        low, _, memory, offset = mapped
        shift, done = offset - low, 0
        with memoryview(memory) as mapping:
            for address, length in ranges:
                start, end = address + shift, done + length
                if write:
                    mapping[start : start + length] = whole[done:end]
                else:
                    whole[done:end] = mapping[start : start + length]
                done = end
        return zlib.crc32(whole)

    def _move_each(
        self, segments: ScatterList, attributes: Attributes, *, write: bool, later: bool
    ) -> list[bytes]:
        """As `move`, with a look at each segment.

        Where the client takes its memory away in the middle of a list, the segments before that
        place have moved, and are recorded.
        """
        ranges = ranges_of(segments, write=write)
        accesses = self._check.admit_all(ranges, attributes, write=write, later=later)
        certain = all(each.certain for each in accesses)
        if certain:
            self._log.record(ranges, attributes, write=write)
        read: list[bytes] = []
        done = 0
        try:
            for access, (_, what) in zip(accesses, segments, strict=True):
                if write:
                    access.write(what)
                else:
                    read.append(access.read())
                done += 1
        except DmaRefused as refusal:
            if done:
                self._log.record(ranges[:done], attributes, write=write)
            self._log.record_refused(*ranges[done], attributes, refusal, write=write)
            raise
        if not certain:
            self._log.record(ranges, attributes, write=write)
        return read

    # Requests that may need messages.

    def begin(
        self, segments: ScatterList, attributes: Attributes, *, write: bool, by_message: bool
    ) -> Outcome | Asking:
        """Move segments, or return what has to be asked of the client first, or the refusal."""
        if not by_message:
            try:
                with self._link.interconnect.lock:
                    return self.move(segments, attributes, write=write, later=True)
            except OnlyByMessage:
                pass
            except DmaRefused as refusal:
                return self._forwarding.ended(bare(refusal), segments, attributes, write=write)
        return self._one_by_one(segments, attributes, write=write, by_message=by_message)

    def _one_by_one(
        self, segments: ScatterList, attributes: Attributes, *, write: bool, by_message: bool
    ) -> Asking:
        """Move segments one after the other, each a request of its own, until one is refused."""
        read: list[bytes] = []
        for each in segments:
            address, what = each
            length, data = (len(what), what) if write else (what, None)
            outcome = yield from self._by_messages(address, length, data, attributes, by_message)
            if isinstance(outcome, DmaRefused):
                ended = self._forwarding.ended(outcome, (each,), attributes, write=write)
                return ended if isinstance(ended, DmaRefused) else (yield from ended)
            read.append(outcome)
        return [] if write else read

    def _by_messages(
        self, address: int, length: int, data: Data | None, attributes: Attributes, by_message: bool
    ) -> _Answered:
        """Move one range; bytes that only the client reaches by messages (``by_message``: all).

        Return the bytes read, or the refusal, which was recorded. A write that is refused has moved
        the pieces that were answered; of a read nothing is given out. Of a write that is dropped or
        cancelled, what has moved is recorded.
        """
        write, read, moved = data is not None, bytearray(), 0
        view = None if data is None else memoryview(data)
        piece = b""  # that was read, and not taken yet
        while True:
            try:
                with self._link.interconnect.lock:
                    if piece:
                        at = address + moved, len(piece), attributes
                        with contextlib.suppress(OnlyByMessage):
                            self._check.admit(*at, write=write, by_message=by_message)
                        read += piece
                        moved += len(piece)
                    rest = None if view is None else view[moved:]
                    left: bytes | None = b""
                    if moved < length or not length:
                        at = address + moved, length - moved, attributes
                        left = self._move_left(*at, rest, by_message)
                    if left is not None:
                        self._log.record(((address, length),), attributes, write=write)
                        return bytes(read) + left
                client = self._link.client
                if client is None:
                    raise DmaRefused(DmaReason.CLIENT_GONE, address + moved)
                count = min(length - moved, client.message_max)
                ask = Ask(address + moved, count, None if rest is None else rest[:count])
                try:
                    answer = yield ask
                except (Dropped, GeneratorExit) as end:  # GeneratorExit: it is cancelled
                    moved += count if isinstance(getattr(end, "answer", None), bytes) else 0
                    if write and moved:
                        with self._link.interconnect.lock:
                            self._log.record(((address, moved),), attributes, write=True)
                    raise
                if isinstance(answer, MemoryFault):
                    raise refusal_of(answer)
                if write:
                    moved += count
                piece = answer
            except DmaRefused as refusal:
                found = bare(refusal)
                self._log.record_refused(
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
        """Admit and move the rest of a range; None when the client has to be asked for it."""
        try:
            access = self._check.admit(
                address, length, attributes, write=data is not None, by_message=by_message
            )
        except OnlyByMessage:
            return None if length else b""
        if data is None:
            return access.read()
        access.write(data)
        return b""
