# SPDX-License-Identifier: Apache-2.0
"""Promises that a test claims, and that the host judges by the device's trace.

The guest says what it asked for and which memory that is; the host decides whether the promise was
kept. The guest's data is untrusted: it is checked and bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dma_rehearsal.host_harness.machine.channel import GuestProtocolError
from dma_rehearsal.host_harness.process.plain_text import printable

PROPERTY = "claim"
MAX = 2000  # in one test
RANGES_MAX = 1 << 16  # in one test
KINDS = ("direction", "contiguous", "alignment", "released", "cache")
DIRECTIONS = ("kIODirectionIn", "kIODirectionOut", "kIODirectionInOut")
MODES = ("UC", "WC", "WT", "WB")
_TEXT_MAX = 300
_END = 1 << 64
# The fields that each kind needs.
_NEEDED = {
    "direction": ("direction",),
    "contiguous": (),
    "alignment": ("alignment",),
    "released": ("mark",),
    "cache": ("va", "length", "mode"),
}


@dataclass(frozen=True, slots=True)
class Claim:
    """One promise of one buffer, whose ``ranges`` are bus addresses and bytes.

    Requests count with ``first`` < sequence <= ``last``; None: to the end of the test. ``mark``
    names the mark that was set when the claim was made, 0 none; ``va`` and ``length`` are the
    buffer in its process, 0 when that does not matter.
    """

    promise: str
    kind: str
    asked: str
    buffer: str
    made: str
    ranges: tuple[tuple[int, int], ...]
    first: int
    last: int | None
    direction: str = ""
    alignment: int = 0
    mark: int = 0
    va: int = 0
    length: int = 0
    mode: str = ""

    @property
    def size(self) -> int:
        """The bytes of all ranges."""
        return sum(length for _, length in self.ranges)

    @property
    def where(self) -> str:
        """The buffer for people, and the line that made it."""
        name = self.buffer or "the buffer"
        return f"{name} (made at {self.made})" if self.made else name


def claims(properties: Sequence[Sequence[Any]]) -> list[Claim]:
    """Return the claims in a report's properties; GuestProtocolError for anything else."""
    values = [value for name, value in properties if name == PROPERTY]
    if len(values) > MAX:
        raise GuestProtocolError(f"the guest makes {len(values)} claims in one test")
    found = [_claim(value) for value in values]
    if sum(len(each.ranges) for each in found) > RANGES_MAX:
        raise GuestProtocolError("the guest's claims of one test have too many ranges")
    return found


def _claim(value: object) -> Claim:
    if not isinstance(value, dict):
        raise GuestProtocolError(f"the guest makes a claim that is not a table: {value!r:.100}")
    kind = _one_of(value, "kind", KINDS)
    given = {name for name in value if value[name] not in (None, "", 0)}
    if missing := set(_NEEDED[kind]) - given:
        raise _wrong(value, f"{kind} needs {', '.join(sorted(missing))}")
    claim = Claim(
        promise=_text(value, "promise"),
        kind=kind,
        asked=_text(value, "asked"),
        buffer=_text(value, "buffer"),
        made=_text(value, "made"),
        ranges=_ranges(value),
        first=_number(value, "first"),
        last=None if value.get("last") is None else _number(value, "last"),
        direction=_one_of(value, "direction", ("", *DIRECTIONS)),
        alignment=_number(value, "alignment"),
        mark=_number(value, "mark"),
        va=_number(value, "va"),
        length=_number(value, "length"),
        mode=_one_of(value, "mode", ("", *MODES)),
    )
    if not claim.promise or (not claim.ranges and kind != "cache"):
        raise _wrong(value, "it has no promise, or no memory")
    return claim


def _wrong(value: object, why: str) -> GuestProtocolError:
    return GuestProtocolError(f"the guest makes an impossible claim ({why}): {value!r:.100}")


def _text(value: dict[str, Any], name: str) -> str:
    text = value.get(name, "")
    if not isinstance(text, str) or len(text) > _TEXT_MAX:
        raise _wrong(value, name)
    return printable(text)


def _one_of(value: dict[str, Any], name: str, known: Sequence[str]) -> str:
    text = value.get(name) or ""
    if not isinstance(text, str) or text not in known:
        raise _wrong(value, name)
    return text


def _number(value: dict[str, Any], name: str) -> int:
    found = value.get(name) or 0
    if type(found) is not int or not 0 <= found < _END:
        raise _wrong(value, name)
    return found


def _ranges(value: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    found = value.get("ranges") or []
    if not isinstance(found, list) or len(found) > RANGES_MAX:
        raise _wrong(value, "ranges")
    for each in found:
        if not (
            isinstance(each, list | tuple)
            and len(each) == 2
            and all(type(part) is int for part in each)
            and each[0] >= 0
            and 0 < each[1] <= _END - each[0]
        ):
            raise _wrong(value, "ranges")
    return tuple((start, length) for start, length in found)
