# SPDX-License-Identifier: Apache-2.0
"""The events of a timeline, each a frozen dataclass.

Times are nanoseconds from the run's first event on. Addresses are bus addresses, and lengths bytes,
unless a field says something else. Numbers have at most 64 bits, and text is printable, whatever a
guest said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Range = tuple[int, int]  # bus address of the first byte, bytes

HOST = "host"  # the device of events that the host tells
GUEST = "guest"  # of calls and lines that the guest tells


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event. ``index`` is its place in the timeline; ``vm`` counts from 1.

    ``device`` is the name of the function, "platform", `HOST` or `GUEST`. ``test`` is the node id
    of the test that ran, None between tests.
    """

    index: int
    time_ns: int
    vm: int
    device: str
    test: str | None

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The bus addresses that it is about, as far as it says them itself."""
        return ()

    @property
    def tag(self) -> int | None:
        """The number by which the guest names the buffer that it is about; None: it has none."""
        return None


# Tests and the machine.


@dataclass(frozen=True, slots=True, kw_only=True)
class TestBegins(Event):
    """The host asks for a test. ``told_by``: "trace" where only its first event tells."""

    __test__ = False  # not a class of tests, for pytest
    told_by: Literal["host", "trace"] = "host"


@dataclass(frozen=True, slots=True, kw_only=True)
class TestEnds(Event):
    """The host has the test's last report. ``outcome``: passed, failed, skipped, "" if unknown.

    ``objections`` are the host's own.
    """

    __test__ = False
    outcome: str = ""
    objections: tuple[str, ...] = ()
    told_by: Literal["host", "trace"] = "host"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleLine(Event):
    """A line of the guest's console, at the time when the host had all of it."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost(Event):
    """Events of a source that are not here. ``count``: how many, 0 where that is unknown."""

    source: str
    count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Other(Event):
    """An event of the trace that has no class of its own; ``facts`` are its fields."""

    name: str
    facts: Mapping[str, str] = field(default_factory=dict)


# The driver.


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverCall(Event):
    """A call of a driver. ``action`` is what it does to its buffer.

    ``call`` is the function's name. A sync or a part of a mapping begins ``offset`` bytes into the
    buffer. ``toward`` is "device" or "CPU" for a sync. ``callers`` are the kernel's return
    addresses, innermost first; ``place`` is the "file:line" of a caller in Python. ``whole`` is the
    tag of the mapping that this is a part of.
    """

    action: Literal["make", "map", "unmap", "sync", "prepare", "complete", "set", "release"]
    call: str
    buffer_tag: int
    segments: tuple[Range, ...] = ()
    offset: int = 0
    length: int = 0
    direction: str = ""
    toward: str = ""
    callers: tuple[int, ...] = ()
    place: str = ""
    whole: int | None = None
    grant_id: int | None = None

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The segments that a map tells."""
        return self.segments

    @property
    def tag(self) -> int | None:
        """The mapping's tag."""
        return self.buffer_tag


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverReport(Event):
    """A mistake of a driver that the guest's module reports: the guest's word."""

    kind: str
    call: str
    buffer_tag: int | None
    address: int
    length: int
    callers: tuple[int, ...] = ()

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The memory that it is about, where it says so."""
        return ((self.address, self.length),) if self.length else ()

    @property
    def tag(self) -> int | None:
        """The mapping's tag, where it names one."""
        return self.buffer_tag


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterAccess(Event):
    """An access to a function, or ``count`` equal ones in a row, the last ``span_ns`` later.

    ``region``: 0-5 BARs, 6 expansion ROM, 7 configuration space. ``register`` is its name, "" for
    none. ``value``: the first 8 of ``length`` bytes, little-endian. ``acts``: a write here has a
    side effect.
    """

    write: bool
    region: int
    offset: int
    register: str
    value: int
    length: int
    count: int = 1
    span_ns: int = 0
    acts: bool = False

    @property
    def doorbell(self) -> bool:
        """Whether it is a write that makes the device act."""
        return self.write and self.acts


# The device.


@dataclass(frozen=True, slots=True, kw_only=True)
class Dma(Event):
    """A request to memory. ``reason`` is "NONE", or why it was refused or ended.

    ``segments`` are in order, of which ``moved`` bytes were moved; ``more`` counts segments that
    the trace left out. ``byte`` is the first at fault. ``snooped``: the caches follow it.
    ``attributes`` are those that are not the usual ones, by name.
    """

    sequence: int
    write: bool
    segments: tuple[Range, ...]
    moved: int
    reason: str
    byte: int | None = None
    more: int = 0
    snooped: bool = True
    attributes: Mapping[str, str] = field(default_factory=dict)
    nearest_grant: int | None = None

    @property
    def ranges(self) -> tuple[Range, ...]:
        """Its segments."""
        return self.segments

    @property
    def address(self) -> int:
        """The first byte."""
        return self.segments[0][0] if self.segments else 0

    @property
    def length(self) -> int:
        """The bytes of all segments that are here."""
        return sum(length for _, length in self.segments)

    @property
    def refused(self) -> bool:
        """Whether it was refused; a reset or the end of a client refuses nothing."""
        return self.reason not in ("NONE", "RESET", "CLIENT_GONE")


@dataclass(frozen=True, slots=True, kw_only=True)
class DmaRecord(Event):
    """The exerciser's record of a DMA that ended, with the device's own status.

    ``modelled_ns``: the time that the profile's device would take.
    """

    sequence: int
    status: str
    reason: str
    address: int
    length: int
    moved: int
    direction: str
    segments: int
    crc32: int
    modelled_ns: int = 0

    @property
    def ranges(self) -> tuple[Range, ...]:
        """Its first byte: the record does not have the rest of a list."""
        return ((self.address, self.length if self.segments == 1 else 1),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupt(Event):
    """An interrupt. ``kind``: "msi-x", "msi" or "intx"; ``vector`` is its message, 0 for INTx.

    ``action``: "sent"; "pending", since it is masked; INTx is "raised" and "lowered".
    """

    kind: str
    vector: int
    action: Literal["sent", "pending", "raised", "lowered"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset(Event):
    """A function was reset. ``kind`` says by what."""

    kind: str


# The platform.


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant(Event):
    """Devices may reach a range from now on. ``direction``: IN, OUT or IN_OUT."""

    id: int
    address: int
    length: int
    direction: str
    owner: int

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The range."""
        return ((self.address, self.length),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation(Event):
    """A grant (``id``), or all ``count`` grants of an owner (None), are taken back."""

    id: int | None
    owner: int
    count: int = 1
    address: int = 0
    length: int = 0

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The range of the grant; none for an owner's."""
        return ((self.address, self.length),) if self.length else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection(Event):
    """The protection unit is turned on or off."""

    enabled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheMaintenance(Event):
    """A command of the cache model, on ``length`` bytes from ``offset`` on of the tag's buffer."""

    command: str
    buffer_tag: int
    offset: int
    length: int
    direction: str = ""

    @property
    def tag(self) -> int | None:
        """The buffer's tag; None for a command that names no buffer."""
        return None if self.command in ("CONFIGURE", "TAKE_REPORTS") else self.buffer_tag


@dataclass(frozen=True, slots=True)
class MappedRun:
    """Consecutive pages as a walk found them: virtual and physical address, bytes, memory type."""

    va: int
    physical: int
    length: int
    memory_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk(Event):
    """A walk of page tables: the witness's, or the cache model's of a buffer that it tracks."""

    status: str
    runs: tuple[MappedRun, ...]
    buffer_tag: int | None = None

    @property
    def tag(self) -> int | None:
        """The tag of the buffer that is tracked from now on; None: a walk by the witness."""
        return self.buffer_tag


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheReport(Event):
    """The cache model reports a mistake, ``lines`` lines long. ``missing`` is the missing call.

    ``by`` is the operation that found it, and ``last`` the one before. ``offset`` is that of the
    first line in the buffer, perhaps negative. ``expected`` and ``seen`` are hexadecimal bytes.
    """

    kind: str
    missing: str
    buffer_tag: int
    other_tag: int
    offset: int
    line: int
    lines: int
    by: str
    last: str
    expected: str
    seen: str

    @property
    def tag(self) -> int | None:
        """The buffer's tag."""
        return self.buffer_tag
