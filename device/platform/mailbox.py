# SPDX-License-Identifier: Apache-2.0
"""The mailbox: a read of one register carries out a batch of commands that lies in guest memory.

Theory of operation. The batch is copied once, by a read of the platform function itself, and only
the copy is used. Its commands are then done in order, under the interconnect's lock, so that a DMA
of another function meets the state before the batch or after it. The first command that fails ends
it; what came before stays done.

The mailbox keeps nothing. What a tag names is what the protection unit has granted to its owner,
and what the cache model tracks by it. So whatever a guest writes here, it holds no more than these
two let it hold.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

from dma_rehearsal.device.cache_model.names import Direction, Release
from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.endpoints.interconnect import Interconnect
from dma_rehearsal.device.endpoints.registers import Access, Register, RegisterFile
from dma_rehearsal.device.layout import (
    CacheStatus,
    DmaReason,
    GrantDirection,
    MemoryType,
    Plat,
    ProtectionStatus,
    requester_id_of,
)
from dma_rehearsal.device.layout.driver_reports import DriverReportKind
from dma_rehearsal.device.layout.mailbox import (
    MAIL_BUDGET,
    MAIL_CALLERS,
    MAIL_CAPACITY,
    MAIL_FORGOTTEN,
    MAIL_GIVEN_UP,
    MAIL_OWNER_BASE,
    MAIL_POSITION_SHIFT,
    MAIL_TAG_BASE,
    MAIL_TRACK_MAX,
    MAIL_VALUES,
    DmaCall,
    MailCommand,
    MailRecord,
    MailStatus,
)
from dma_rehearsal.device.platform.protection import Protection, ProtectionError
from dma_rehearsal.device.platform.protection_registers import grant_facts
from dma_rehearsal.device.platform.tracks import TrackFailed, Tracks
from dma_rehearsal.device.platform.witness import WalkResult

_ADDRESS_END = 1 << 64
_DIRECTIONS = ("", "IN", "OUT", "IN_OUT")  # GrantDirection
_BOTH = GrantDirection.IN | GrantDirection.OUT
_COMMANDS = {int(each): each for each in MailCommand}
_CALLS = {int(each): each for each in DmaCall}
_SYNCS = frozenset(each for each in DmaCall if each.name.startswith("SYNC_"))
_PROTECTION = {ProtectionStatus.FULL: MailStatus.PROTECTION_FULL}
_CACHE = {
    CacheStatus(each & 0xFF): each for each in MailStatus if each.name.startswith("CACHE_")
} | {CacheStatus.BUS_MASTER_OFF: MailStatus.BUS_MASTER_OFF}
# The fields that each command uses beside the command, the call and the callers.
_USED = {
    MailCommand.GRANT: {"tag", "address", "length", "direction", "values"},
    MailCommand.WITHDRAW: {"tag"},
    MailCommand.TRACK: {
        *("tag", "address", "length", "direction", "values"),
        *("virtual", "root", "levels"),
    },
    MailCommand.TRACK_UNCACHED: {"tag", "address", "length", "direction", "values"},
    MailCommand.UNTRACK: {"tag", "values"},
    MailCommand.SYNC_FOR_DEVICE: {"tag", "offset", "length", "direction"},
    MailCommand.SYNC_FOR_CPU: {"tag", "offset", "length", "direction"},
    MailCommand.ANNOUNCE_BEGIN: {"tag", "offset", "length"},
    MailCommand.ANNOUNCE_END: {"tag", "offset", "length"},
    MailCommand.REPORT: {"tag", "offset", "address", "length", "direction", "values", "kind"},
}
_PLAIN = ("tag", "direction", "address", "length", "offset", "virtual", "root", "levels", "kind")
_BEGINS = (MailCommand.GRANT, MailCommand.TRACK, MailCommand.TRACK_UNCACHED)
_NONE = (0,) * MAIL_VALUES
_RELEASES = {
    _NONE: Release.SETTLED,
    (MAIL_GIVEN_UP, 0): Release.GIVEN_UP,
    (MAIL_FORGOTTEN, 0): Release.FORGOTTEN,
}
_GRANT = 128  # bytes of the budget that the withdrawal of a grant counts as


def _unused(command: MailCommand) -> Callable[[MailRecord], bool]:
    """Return what says whether a record has 0 in all fields that its command does not use."""
    names = [name for name in _PLAIN if name not in _USED[command]]
    get = attrgetter(*names, "reserved")
    zeros = (*(0,) * len(names), (0, 0))
    if "values" in _USED[command]:
        return lambda record: get(record) == zeros
    return lambda record: record.values == _NONE and get(record) == zeros


_IS_PLAIN = {command: _unused(command) for command in MailCommand}


def carry_out_all(record: MailRecord) -> bool:
    """Return True: every command that is right is done."""
    del record
    return True


class MailFailed(Exception):
    """A command that changed nothing."""

    def __init__(self, status: MailStatus) -> None:
        super().__init__(status.name)
        self.status = status


class Mailbox:
    """The registers, and the commands of a batch.

    ``read`` is the function's own read of the bus, ``walk`` the witness's with root, address,
    length and levels; ``carries_out`` says whether a command that is right is done (a fault drops
    some); ``event`` writes to the trace: a name and facts.
    """

    def __init__(
        self,
        control: RegisterFile,
        unit: Protection,
        tracks: Tracks,
        interconnect: Interconnect,
        *,
        read: Callable[[int, int], bytes],
        walk: Callable[[int, int, int, int], WalkResult],
        carries_out: Callable[[MailRecord], bool],
        event: Callable[..., None],
    ) -> None:
        self._control, self._unit, self._tracks = control, unit, tracks
        self._interconnect, self._read, self._walk = interconnect, read, walk
        self._carries_out, self._event = carries_out, event
        self._spent = 0  # of the batch's budget
        self._commands: dict[MailCommand, Callable[[MailRecord, DmaCall], None]] = {
            MailCommand.GRANT: self._grant,
            MailCommand.WITHDRAW: self._withdraw,
            MailCommand.TRACK: self._track,
            MailCommand.TRACK_UNCACHED: self._track_uncached,
            MailCommand.UNTRACK: self._untrack,
            MailCommand.SYNC_FOR_DEVICE: self._sync_for_device,
            MailCommand.SYNC_FOR_CPU: self._sync_for_cpu,
            MailCommand.ANNOUNCE_BEGIN: self._announce_begin,
            MailCommand.ANNOUNCE_END: self._announce_end,
            MailCommand.REPORT: self._report,
        }
        control.add(
            (
                Register(Plat.MAIL_ADDRESS_LO, Access.RW),
                Register(Plat.MAIL_ADDRESS_HI, Access.RW),
                Register(Plat.MAIL_COUNT, Access.RW),
                Register(Plat.MAIL_GO, read=self._go),
                Register(Plat.MAIL_CAPACITY, reset=MAIL_CAPACITY),
            ),
            self,
        )

    def _go(self) -> int:
        """Carry out the batch; return what MAIL_GO reads."""
        control = self._control
        count = control[Plat.MAIL_COUNT]
        if not 0 < count <= MAIL_CAPACITY:
            return self._failed(-1, MailStatus.BAD_COUNT)
        address = control.pair(Plat.MAIL_ADDRESS_LO, Plat.MAIL_ADDRESS_HI)
        try:
            batch = self._read(address, count * MailRecord.SIZE)
        except DmaRefused as refusal:
            off = refusal.reason is DmaReason.BUS_MASTER_OFF
            return self._failed(-1, MailStatus.BUS_MASTER_OFF if off else MailStatus.UNREACHABLE)
        self._spent = 0
        with self._interconnect.lock:
            for position in range(count):
                if self._spent >= MAIL_BUDGET:
                    return position + 1 << MAIL_POSITION_SHIFT | MailStatus.BUDGET
                start = position * MailRecord.SIZE
                record = MailRecord.unpack(batch[start : start + MailRecord.SIZE])
                try:
                    self._do(record)
                except MailFailed as failure:
                    return self._failed(position, failure.status, record)
        return 0

    def _failed(self, position: int, status: MailStatus, record: MailRecord | None = None) -> int:
        facts: dict[str, object] = {"status": status.name}
        if record is not None:
            command = _COMMANDS.get(record.command)
            name = record.command if command is None else command.name
            facts |= {"position": position, "command": name, "tag": hex(record.tag)}
        self._event("mail failed", **facts)
        return position + 1 << MAIL_POSITION_SHIFT | status

    # One command.

    def _do(self, record: MailRecord) -> None:
        """Check a record, and do it. MailFailed."""
        command, call = _COMMANDS.get(record.command), _CALLS.get(record.call)
        if command is None:
            raise MailFailed(MailStatus.BAD_COMMAND)
        if not _IS_PLAIN[command](record):
            raise MailFailed(MailStatus.BAD_FIELD)
        if record.tag < MAIL_TAG_BASE and (command is not MailCommand.REPORT or record.tag):
            raise MailFailed(MailStatus.BAD_TAG)
        if call is None:
            raise MailFailed(MailStatus.BAD_CALL)
        if command in _BEGINS:
            self._check_mapping(record)
        elif record.direction > _BOTH:
            raise MailFailed(MailStatus.BAD_DIRECTION)
        if self._carries_out(record):
            self._commands[command](record, call)

    def _check_mapping(self, record: MailRecord) -> None:
        if not 0 < record.direction <= _BOTH:
            raise MailFailed(MailStatus.BAD_DIRECTION)
        if not 0 < record.length <= _ADDRESS_END - record.address:
            raise MailFailed(MailStatus.BAD_RANGE)
        whole, other = record.values
        if record.command == MailCommand.GRANT:
            try:
                requester_id_of(other)
            except ValueError:
                raise MailFailed(MailStatus.BAD_FUNCTION) from None
            other = 0
        if other or (whole and (whole == record.tag or not self._named(whole))):
            raise MailFailed(MailStatus.BAD_TAG)
        if record.command != MailCommand.GRANT:
            if record.length > MAIL_TRACK_MAX:
                raise MailFailed(MailStatus.TOO_LONG)
            if self._tracks.tracks(record.tag):
                raise MailFailed(MailStatus.TAG_IN_USE)

    def _named(self, tag: int) -> bool:
        """Return whether a tag names a mapping."""
        return self._unit.grants_to(MAIL_OWNER_BASE | tag) or self._tracks.tracks(tag)

    # Mappings.

    def _grant(self, record: MailRecord, call: DmaCall) -> None:
        begins = not self._named(record.tag)
        owner = MAIL_OWNER_BASE | record.tag
        try:
            made = self._unit.grant(
                record.address,
                record.length,
                record.direction,
                owner,
                requester_id_of(record.values[1]),
            )
        except ProtectionError as error:
            raise MailFailed(_PROTECTION[error.status]) from error
        if begins:
            self._tell_map(record, call, grant_facts(made))
        else:
            self._event("grant", **grant_facts(made))

    def _withdraw(self, record: MailRecord, call: DmaCall) -> None:
        owner = MAIL_OWNER_BASE | record.tag
        count = self._unit.withdraw_owner(owner)
        if not count:
            raise MailFailed(MailStatus.NO_SUCH_TAG)
        self._spent += count * _GRANT
        withdrawn = {"owner": hex(owner), "count": count}
        if self._named(record.tag):
            self._event("withdraw owner", **withdrawn)
        else:
            self._tell_unmap(record, call, withdrawn)

    def _track(self, record: MailRecord, call: DmaCall) -> None:
        walk = self._walk(record.root, record.virtual, record.length, record.levels)
        direction, tracks = Direction(record.direction), self._tracks
        where = (walk, record.virtual, record.length)
        # A driver that maps a buffer for the device to read has stored there before.
        stored = direction is Direction.OUT

        def command() -> None:
            tracks.track_walked(record.tag, direction, *where, stored=stored)

        self._begin_track(record, call, command)

    def _track_uncached(self, record: MailRecord, call: DmaCall) -> None:
        run = (record.address, record.length, MemoryType.UC)
        direction, tracks = Direction(record.direction), self._tracks
        self._begin_track(record, call, lambda: tracks.track(record.tag, direction, [run]))

    def _begin_track(self, record: MailRecord, call: DmaCall, command: Callable[[], None]) -> None:
        begins = not self._named(record.tag)
        self._attempt(record, command)
        self._spent += self._tracks.model.cost(record.tag)
        if begins:
            self._tell_map(record, call, {})

    def _untrack(self, record: MailRecord, call: DmaCall) -> None:
        how = _RELEASES.get(record.values)
        if how is None:
            raise MailFailed(MailStatus.BAD_FIELD)
        self._check_tracked(record)
        self._spent += self._tracks.model.cost(record.tag)
        self._attempt(record, lambda: self._tracks.untrack(record.tag, how))
        if not self._named(record.tag):
            self._tell_unmap(record, call, {})

    # Syncs, and the kernel's own copies.

    def _sync_for_device(self, record: MailRecord, call: DmaCall) -> None:
        self._sync(record, call, self._tracks.model.sync_for_device)

    def _sync_for_cpu(self, record: MailRecord, call: DmaCall) -> None:
        self._sync(record, call, self._tracks.model.sync_for_cpu)

    def _sync(
        self,
        record: MailRecord,
        call: DmaCall,
        sync: Callable[[int, int, int, Direction | None], None],
    ) -> None:
        self._check_tracked(record)
        self._spent += self._tracks.model.cost(record.tag, record.length)
        direction = Direction(record.direction) if record.direction else None
        self._attempt(record, lambda: sync(record.tag, record.offset, record.length, direction))
        if call in _SYNCS:
            self._event(
                "driver sync",
                tag=hex(record.tag),
                call=call.name,
                to="device" if record.command == MailCommand.SYNC_FOR_DEVICE else "CPU",
                offset=record.offset,
                length=record.length,
                direction=_DIRECTIONS[record.direction],
                callers=_callers(record),
            )

    def _announce_begin(self, record: MailRecord, _call: DmaCall) -> None:
        self._announce(record, self._tracks.model.announce_begin)

    def _announce_end(self, record: MailRecord, _call: DmaCall) -> None:
        self._announce(record, self._tracks.model.announce_end)

    def _announce(self, record: MailRecord, announce: Callable[[int, int, int], None]) -> None:
        self._check_tracked(record)
        self._spent += self._tracks.model.cost(record.tag, record.length)
        self._attempt(record, lambda: announce(record.tag, record.offset, record.length))

    def _check_tracked(self, record: MailRecord) -> None:
        if not self._tracks.tracks(record.tag):
            raise MailFailed(MailStatus.NO_SUCH_TAG)

    def _attempt(self, record: MailRecord, command: Callable[[], None]) -> None:
        try:
            self._tracks.attempt(MailCommand(record.command).name, record.tag, command)
        except TrackFailed as failure:
            raise MailFailed(_CACHE[failure.status]) from failure

    # The trace.

    def _report(self, record: MailRecord, call: DmaCall) -> None:
        """Hand on a report: it is the guest's word, and evidence against the driver alone."""
        try:
            kind = DriverReportKind(record.kind)
        except ValueError:
            raise MailFailed(MailStatus.BAD_KIND) from None
        self._event(
            "driver report",
            kind=kind.name,
            call=call.name,
            tag=hex(record.tag) if record.tag else None,
            address=hex(record.address),
            length=record.length,
            offset=record.offset,
            direction=_DIRECTIONS[record.direction],
            values=list(record.values),
            callers=_callers(record),
            told_by="guest",
        )

    def _tell_map(self, record: MailRecord, call: DmaCall, granted: dict[str, object]) -> None:
        whole = record.values[0]
        facts = granted or {
            "address": hex(record.address),
            "length": record.length,
            "direction": _DIRECTIONS[record.direction],
        }
        self._event(
            "driver map",
            tag=hex(record.tag),
            of=hex(whole) if whole else None,
            call=call.name,
            **facts,
            callers=_callers(record),
        )

    def _tell_unmap(self, record: MailRecord, call: DmaCall, withdrawn: dict[str, object]) -> None:
        self._event(
            "driver unmap",
            tag=hex(record.tag),
            call=call.name,
            **withdrawn,
            callers=_callers(record),
        )


def _callers(record: MailRecord) -> list[str]:
    """Return the return addresses, without the zeros behind the last."""
    count = next((i for i, each in enumerate(record.callers) if not each), MAIL_CALLERS)
    return [hex(each) for each in record.callers[:count]]
