"""The one way to memory: checks what the bus would refuse, and says exactly why.

Everything that a function reads is copied once; it can only work with the copy.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from functools import partial

from device.layout import DmaReason
from device.vfio_user.errors import MemoryFault, ReadOnly, Unmapped, Withdrawn
from device.vfio_user.model import Dma, Place, Window

from .referral import Piece, page_at_fault
from .requester import HISTORY, Requester
from .requests import PLAIN, Attributes, Data, DmaRefused, NotMapped, OnlyByMessage, bare
from .targets import refusal_of
from .task import Steps, Task

_CUT_SHORT = (DmaReason.CLIENT_ERROR, DmaReason.BUS_MASTER_OFF)


class Bus(Requester):
    """Reads and writes memory at bus addresses for one function. Not for several threads."""

    def read(self, address: int, length: int, attributes: Attributes = PLAIN) -> bytes:
        """Return a copy of memory, taken once. DmaRefused, and then nothing was read."""
        with self.interconnect.lock:
            found = self._place(address, length, attributes, write=False)
            if found is None:
                return self._read_all(((address, length),), attributes)[0]
            memory, start = found
            return memory[start : start + length]

    def write(self, address: int, data: bytes, attributes: Attributes = PLAIN) -> None:
        """Store ``data`` in memory. DmaRefused, and then nothing was written."""
        with self.interconnect.lock:
            found = self._place(address, len(data), attributes, write=True)
            if found is None:
                self._write_all(((address, data),), attributes)
            else:
                memory, start = found
                memory[start : start + len(data)] = data

    def read_list(
        self, segments: Sequence[tuple[int, int]], attributes: Attributes = PLAIN
    ) -> list[bytes]:
        """Return a copy of each segment (address, length). DmaRefused: nothing was read."""
        with self.interconnect.lock:
            return self._read_all(segments, attributes)

    def write_list(
        self, segments: Sequence[tuple[int, Data]], attributes: Attributes = PLAIN
    ) -> None:
        """Store each segment (address, data), in order. DmaRefused: nothing was written."""
        with self.interconnect.lock:
            self._write_all(segments, attributes)

    # The same, where the client's help may be needed: memory that it mapped without a descriptor.

    def read_async(
        self,
        address: int,
        length: int,
        on_done: Callable[[bytes | DmaRefused], None],
        attributes: Attributes = PLAIN,
        *,
        by_message: bool = False,
    ) -> None:
        """Read memory, and call ``on_done`` once with a copy of it or the refusal.

        Set what ``on_done`` clears (busy, TransactionPending) before the call: in mapped memory the
        DMA is done, and ``on_done`` was called, when this returns; otherwise it comes later, from
        the same thread, while registers are read and written as ever. These DMAs are done in the
        order they were started, behind what a refusal asks of the client's IOMMU. After
        ``cancel``, which a reset does, ``on_done`` never comes.
        ``by_message``: see ``Dma``.
        """
        self._start(address, length, None, attributes, by_message, on_done)

    def write_async(
        self,
        address: int,
        data: bytes,
        on_done: Callable[[bytes | DmaRefused], None],
        attributes: Attributes = PLAIN,
        *,
        by_message: bool = False,
    ) -> None:
        """Write memory; ``on_done`` gets no bytes, or the refusal. See ``read_async``.

        A write by messages that fails has moved what lies before the refusal's address.
        """
        self._start(address, len(data), data, attributes, by_message, on_done)

    def read_list_async(
        self,
        segments: Sequence[tuple[int, int]],
        on_done: Callable[[list[bytes] | DmaRefused], None],
        attributes: Attributes = PLAIN,
    ) -> None:
        """Read segments, and call ``on_done`` once with a copy of each or the refusal.

        In mapped memory it is ``read_list``, done when this returns. Otherwise nothing is asked of
        the client unless each segment can be reached, and they are read one after the other, each
        a request of its own.
        """
        with self.interconnect.lock:
            try:
                read = self._read_all(segments, attributes, later=True)
            except OnlyByMessage:
                pieces = [(address, length, None) for address, length in segments]
                Task(self._each(pieces, attributes, on_done)).start()
            except DmaRefused as refusal:
                self._refer(bare(refusal), _to_read(segments), attributes, on_done)
            else:
                on_done(read)

    def write_list_async(
        self,
        segments: Sequence[tuple[int, Data]],
        on_done: Callable[[list[bytes] | DmaRefused], None],
        attributes: Attributes = PLAIN,
    ) -> None:
        """Write segments; ``on_done`` gets no bytes, or the refusal. See ``read_list_async``."""
        with self.interconnect.lock:
            try:
                self._write_all(segments, attributes, later=True)
            except OnlyByMessage:
                pieces = [(address, len(data), bytes(data)) for address, data in segments]
                Task(self._each(pieces, attributes, on_done)).start()
            except DmaRefused as refusal:
                self._refer(bare(refusal), _to_write(segments), attributes, on_done)
            else:
                on_done([])

    def _read_all(
        self, segments: Sequence[tuple[int, int]], attributes: Attributes, *, later: bool = False
    ) -> list[bytes]:
        window = self._window(segments[0][0], write=False) if segments else None
        if window is not None:
            low, high, memory, offset = window
            for address, length in segments:
                if address < low or address + length > high:
                    break
            else:
                self._pass(segments, attributes, write=False)
                shift = offset - low
                return [
                    memory[address + shift : address + shift + length]
                    for address, length in segments
                ]
        try:
            found = self._gather(segments, attributes, write=False, later=later)
        except NotMapped as refusal:
            if not later:
                self._refer(bare(refusal), _to_read(segments), attributes, _nobody_waits)
            raise
        read: list[bytes] = []
        try:
            for target in found:
                read.append(target.read())
        except DmaRefused as refusal:
            self._cut(segments, len(read), refusal, write=False)
            raise
        self._moved(segments, write=False)
        return read

    def _write_all(
        self, segments: Sequence[tuple[int, Data]], attributes: Attributes, *, later: bool = False
    ) -> None:
        window = self._window(segments[0][0], write=True) if segments else None
        if window is not None:
            low, high, memory, offset = window
            for address, data in segments:
                if address < low or address + len(data) > high:
                    break
            else:
                every = self.interconnect.checked or self.trace.on
                judged = segments if every else segments[-HISTORY:]
                ranges = [(address, len(data)) for address, data in judged]
                self._pass(ranges, attributes, write=True)
                shift = offset - low
                for address, data in segments:
                    memory[address + shift : address + shift + len(data)] = data
                return
        ranges = [(address, len(data)) for address, data in segments]
        try:
            found = self._gather(ranges, attributes, write=True, later=later)
        except NotMapped as refusal:
            if not later:
                self._refer(bare(refusal), _to_write(segments), attributes, _nobody_waits)
            raise
        written = 0
        try:
            for target, (_, data) in zip(found, segments, strict=True):
                target.write(data)
                written += 1
        except DmaRefused as refusal:
            self._cut(ranges, written, refusal, write=True)
            raise
        self._moved(ranges, write=True)

    def _cut(
        self, ranges: Sequence[tuple[int, int]], done: int, refusal: DmaRefused, *, write: bool
    ) -> None:
        """Tell of a list that ended behind ``done`` of its ranges: the client cut its memory."""
        if done:
            self._moved(ranges[:done], write=write)
        self._refused(ranges[done : done + 1], refusal, write=write, moved=0)

    def _window(self, address: int, *, write: bool) -> Window | None:
        """Return the mapping around ``address``, where `_gather` is not needed.

        Lists of thousands are mostly in one mapping, where each range costs two comparisons; to
        look each up costs twenty times that.
        """
        config, client = self._function.config, self.client
        if client is None or self.interconnect.caches or not config.bus_master:
            return None
        window = client.window(address, write=write)
        if window is None or config.overlaps_bar(window.address, window.end - window.address):
            return None
        return window

    def _place(
        self, address: int, length: int, attributes: Attributes, *, write: bool
    ) -> tuple[mmap.mmap, int] | None:
        """Return where one range lies and record its request, as above. DmaRefused, recorded.

        All in one piece: after a megabyte nothing of this is in the CPU's caches any more, and
        each function more is a percent of the next megabyte's time.
        """
        config, client, interconnect = self._function.config, self.client, self.interconnect
        if client is None or interconnect.caches or not config.bus_master:
            return None
        window = client.window(address, write=write)
        if window is None:
            return None
        low, high, memory, offset = window
        if address + length > high or config.overlaps_bar(address, length):
            return None
        if interconnect.checked:
            self._cross_all(((address, length),), attributes, write=write)
        if attributes.no_snoop:
            attributes = self._sent(attributes)
        self.transactions.add(write, ((address, length),), attributes, DmaReason.NONE)
        interconnect.sequence += 1
        if self.trace.on:
            self._tell(((address, length),), DmaReason.NONE, write=write, moved=length)
        return memory, address - low + offset

    def _each(
        self,
        pieces: Sequence[tuple[int, int, bytes | None]],
        attributes: Attributes,
        on_done: Callable[[list[bytes] | DmaRefused], None],
    ) -> Steps[None]:
        done = []
        for address, length, data in pieces:
            outcome = yield partial(self._start, address, length, data, attributes, False)
            if isinstance(outcome, DmaRefused):
                on_done(outcome)
                return
            done.append(outcome)
        on_done(done)

    def _refer(
        self,
        refusal: DmaRefused,
        pieces: Sequence[Piece],
        attributes: Attributes,
        then: Callable[[DmaRefused], object],
    ) -> None:
        """Call ``then`` with a refusal that was recorded: behind an IOMMU when that knows of it.

        A request that is refused by something else than the client's map is not the IOMMU's.
        """
        client, referral = self.client, self.referral
        place = page_at_fault(pieces, refusal.address)
        if client is None or referral is None or not isinstance(refusal, NotMapped) or not place:
            then(refusal)
            return

        def answered(outcome: bytes | MemoryFault) -> None:
            if isinstance(outcome, bytes):  # it was mapped in between
                ranges, write = ((place.address, place.length),), place.data is not None
                with self.interconnect.lock:
                    self.transactions.add(write, ranges, self._sent(attributes), DmaReason.NONE)
                    self._moved(ranges, write=write)
            then(refusal)

        referral.tell(client, place, answered, lambda: self._function.config.bus_master)

    @property
    def referring(self) -> bool:
        """Return whether the client has been told of a refusal, and has not answered yet."""
        return self.referral is not None and self.referral.under_way

    def cancel(self) -> None:
        """Forget every DMA that ``read_async`` and ``write_async`` started."""
        if self.referral is not None:
            self.referral.forget()
        if self.client is not None:
            self.client.cancel_dma()

    def _start(
        self,
        address: int,
        length: int,
        data: bytes | None,
        attributes: Attributes,
        by_message: bool,
        on_done: Callable[[bytes | DmaRefused], None],
    ) -> None:
        denied: DmaRefused | None = None
        write = data is not None

        def allowed() -> bool:
            nonlocal denied
            if not self._function.config.bus_master:
                return False
            try:
                self._cross(address, length, attributes, write=write)
                self._check_message(address, length, attributes, write=write, chosen=by_message)
            except DmaRefused as refusal:
                denied = refusal
            return denied is None

        def through(places: Sequence[Place]) -> bytes:
            nonlocal denied
            with self.interconnect.lock:
                try:
                    target = self._through(places, attributes)
                    if data is None:
                        return target.read()
                    target.write(data)
                except DmaRefused as refusal:
                    denied = bare(refusal)
                    raise Withdrawn(refusal.address) from None
                return b""

        def done(outcome: bytes | MemoryFault | DmaRefused) -> None:
            if isinstance(outcome, Withdrawn) and denied is not None:
                outcome = denied
            elif isinstance(outcome, Unmapped) and not by_message:
                outcome = self._reach.at_peer(address, length, data, outcome)
            elif isinstance(outcome, ReadOnly) and not by_message:
                outcome = NotMapped(DmaReason.READ_ONLY, outcome.address)
            found = refusal_of(outcome) if isinstance(outcome, MemoryFault) else outcome
            place = address, length
            if isinstance(found, DmaRefused):
                # By messages, what lies before the piece at fault was moved.
                cut = write and found.reason in _CUT_SHORT
                moved = max(found.address - address, 0) if cut else 0
                self._record(write, *place, attributes, found, moved=moved)
                self._refer(found, (Piece(*place, data),), attributes, on_done)
                return
            sent = self._sent(attributes)
            with self.interconnect.lock:
                self.transactions.add(write, (place,), sent, DmaReason.NONE)
                self._moved((place,), write=write)
            on_done(found)

        with self.interconnect.lock:
            try:
                if by_message:
                    client = self._reach.admitted(self.client, address, length)
                else:
                    client = self._admitted(address, length, write=write)
                self._cross(address, length, attributes, write=write)
            except DmaRefused as refusal:
                done(bare(refusal))
            else:
                client.start_dma(Dma(address, length, data, done, by_message, allowed, through))

    def ranges(self) -> list[tuple[int, int]]:
        """Return the bus addresses that the client has mapped, in order: (address, bytes)."""
        return list(self.client.ranges()) if self.client is not None else []

    def reachable(self, address: int, length: int, *, write: bool) -> bool:
        """Return whether memory is there for a request, perhaps by a message.

        Sends none, and asks no interconnect.
        """
        try:
            client = self._reach.admitted(self.client, address, length)
            self._reach.views(client, address, length, write=write)
        except OnlyByMessage:
            return True
        except DmaRefused:
            return False
        return True


def _to_read(segments: Sequence[tuple[int, int]]) -> list[Piece]:
    return [Piece(address, length, None) for address, length in segments]


def _to_write(segments: Sequence[tuple[int, Data]]) -> list[Piece]:
    return [Piece(address, len(data), data) for address, data in segments]


def _nobody_waits(_refusal: DmaRefused) -> None:
    """Let the client's answer to a refusal be: whoever made the request knows it already."""
