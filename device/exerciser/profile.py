# SPDX-License-Identifier: Apache-2.0
"""Profiles: a user's device as a TOML file, so that the exerciser has that device's limits.

A file names what differs from the plain exerciser; ``docs/profiles.md`` is the
reference. All mistakes of a file are reported at once, each with the file, the key and the allowed
values.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dma_rehearsal.device import layout
from dma_rehearsal.device.layout import DmaRule
from dma_rehearsal.device.pci.config import Identity

SHIPPED = Path(__file__).with_name("profiles")
ADDRESS_BITS = (24, 26, 28, 30, 32, 36, 40, 48, 64)
BUFFER_MIN, BUFFER_MAX = 0x1000, 0x100_0000
_WORD = 0xFFFF_FFFF
_FILE_MAX = 1 << 16  # bytes
_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE = re.compile(r"(\d{1,12}) ?([KMG]iB|B)?")


class ProfileError(ValueError):
    """A profile that cannot be had; the message names file, keys and what is allowed."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A device's identity and the limits of its DMA. Sizes in bytes; 0 where there is no limit.

    The defaults are the plain exerciser: no limits, coherent, no modelled time.
    """

    name: str = "exerciser"
    vendor: int = layout.EXERCISER_VENDOR_ID
    device: int = layout.EXERCISER_DEVICE_ID
    class_code: int = layout.EXERCISER_CLASS_CODE
    revision: int = 0
    subsystem_vendor: int = layout.EXERCISER_SUBSYSTEM_VENDOR_ID
    subsystem: int = layout.EXERCISER_SUBSYSTEM_ID
    buffer: int = layout.BUFFER_SIZE_DEFAULT  # BAR1
    vectors: int = layout.VECTORS_DEFAULT
    address_bits: int = 0
    alignment: int = 0
    length_alignment: int = 0
    max_segment: int = 0
    boundary: int = 0
    max_segments: int = 0
    max_transfer: int = 0
    rule: DmaRule = DmaRule.NONE
    coherent: bool = True
    line_size: int = 64
    latency_ns: int = 0
    bandwidth_mb_s: int = 0  # 10**6 bytes a second
    sloppy: bool = False

    @property
    def identity(self) -> Identity:
        """Return what configuration space says."""
        return Identity(
            vendor_id=self.vendor,
            device_id=self.device,
            class_code=self.class_code,
            subsystem_vendor_id=self.subsystem_vendor,
            subsystem_id=self.subsystem,
            revision_id=self.revision,
            interrupt_pin=1,
        )

    @property
    def facts(self) -> dict[str, str | int]:
        """Return each value by its name, as JSON has it; the rule by its own name."""
        return {**asdict(self), "rule": self.rule.name}

    @property
    def crc32(self) -> int:
        """Return the checksum of all values but the name: what two equal devices share."""
        values = {key: value for key, value in asdict(self).items() if key != "name"}
        return zlib.crc32(json.dumps(values, sort_keys=True).encode())

    @property
    def limits(self) -> tuple[str, ...]:
        """Return the kinds of its limits: of what they are that it cannot do, or does wrong.

        "addresses", "alignment" (of lengths, too), "segments" (their size, place and number).
        """
        counts = (self.max_segment, self.boundary, self.max_segments, self.max_transfer)
        kinds = {
            "addresses": 0 < self.address_bits < 64,
            "alignment": max(self.alignment, self.length_alignment) > 1 or bool(self.rule),
            "segments": any(counts) or self.buffer < layout.BUFFER_SIZE_DEFAULT,
        }
        return tuple(kind for kind, there in kinds.items() if there)

    def modelled_ns(self, length: int) -> int:
        """Return the nanoseconds that the user's device would take for a DMA of ``length`` bytes.

        Nothing ever waits for them.
        """
        moving = -(-length * 1000 // self.bandwidth_mb_s) if self.bandwidth_mb_s else 0
        return self.latency_ns + moving


PLAIN = Profile()


@dataclass(frozen=True, slots=True)
class _Key:
    """One key: what is allowed, in words, and the function that says whether a value is."""

    allowed: str
    check: Callable[[object], bool]
    size: bool = False  # takes "64 KiB", too
    field: str = ""  # of Profile, where it has another name


def _number(least: int, most: int, *, field: str = "") -> _Key:
    return _Key(f"{least} to {most}", lambda value: _is_number(value, least, most), field=field)


def _id(bits: int, *, field: str = "", most: int | None = None, least: int = 0) -> _Key:
    top = (1 << bits) - 1 if most is None else most
    words = f"{least:#0{bits // 4 + 2}x} to {top:#0{bits // 4 + 2}x}"
    return _Key(words, lambda value: _is_number(value, least, top), field=field)


def _size(least: int, most: int, *, power: bool = False) -> _Key:
    kind = "a power of two of bytes" if power else "bytes"

    def check(value: object) -> bool:
        if not isinstance(value, int) or not _is_number(value, least, most):
            return False
        return not power or not value & (value - 1)

    return _Key(f'{kind}, {least} to {most}, or text such as "64 KiB"', check, size=True)


def _is_number(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


_FLAG = _Key("true or false", lambda value: isinstance(value, bool))
_RULES = {rule.name.lower(): rule for rule in DmaRule}
# 0xffff is the vendor that an empty slot answers.
_KEYS = {
    "vendor": _id(16, least=1, most=0xFFFE),
    "device": _id(16),
    "class": _id(24, field="class_code"),
    "revision": _id(8),
    "subsystem_vendor": _id(16),
    "subsystem": _id(16),
    "buffer": _size(BUFFER_MIN, BUFFER_MAX, power=True),
    "vectors": _number(2, 2048),
    "address_bits": _Key(
        f"one of {', '.join(map(str, ADDRESS_BITS))}",
        lambda value: _is_number(value, 1, 64) and value in ADDRESS_BITS,
    ),
    "alignment": _size(1, 4096, power=True),
    "length_alignment": _size(1, 4096, power=True),
    "max_segment": _size(1, _WORD),
    "boundary": _size(1024, 1 << 32, power=True),
    "max_segments": _number(1, _WORD),
    "max_transfer": _size(1, _WORD),
    "rule": _Key(
        f"one of {', '.join(_RULES)}", lambda value: isinstance(value, str) and value in _RULES
    ),
    "coherent": _FLAG,
    "line_size": _size(16, 4096, power=True),
    "latency_ns": _number(0, 1_000_000_000),
    "bandwidth_mb_s": _number(1, 1_000_000),
    "sloppy": _FLAG,
}


def shipped() -> list[str]:
    """Return the names of the profiles that are included."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def path_of(named: str) -> Path:
    """Return the file of a shipped name, or the path itself (with a slash, or ending in .toml)."""
    if "/" in named or named.endswith(".toml"):
        return Path(named)
    return SHIPPED / f"{named}.toml"


def find(named: str) -> Profile:
    """Return the profile of a shipped name, or of a path (with a slash, or ending in .toml).

    ProfileError when there is none, or when it has mistakes.
    """
    path = path_of(named)
    if path == Path(named):
        return load(path)
    known = shipped()
    if named not in known:
        near = difflib.get_close_matches(named, known, 1)
        meant = f"; do you mean {near[0]}?" if near else "."
        raise ProfileError(
            f"there is no profile {named!r}{meant} There are {', '.join(known)}; "
            "a file of your own is a path that ends in .toml"
        )
    return load(path)


def load(path: Path) -> Profile:
    """Read and check a file. ProfileError lists all that is wrong with it."""
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_MAX + 1)
    except OSError as error:
        raise ProfileError(f"{path}: {error.strerror}") from error
    if len(content) > _FILE_MAX:
        raise ProfileError(f"{path}: longer than {_FILE_MAX} bytes; a profile has at most so many")
    try:
        table = tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ProfileError(f"{path}: not TOML: {error}") from error
    return parse(table, path.stem, str(path))


def parse(table: Mapping[str, object], name: str, source: str = "profile") -> Profile:
    """Check a table of keys; ``source`` names it in messages. ProfileError lists all mistakes."""
    wrong: list[str] = []
    values: dict[str, object] = {}
    for key, given in table.items():
        rule = _KEYS.get(key)
        if rule is None:
            near = difflib.get_close_matches(key, _KEYS, 1)
            hint = f"do you mean {near[0]}?" if near else f"there are {', '.join(_KEYS)}"
            wrong.append(f"{source}: {key}: there is no such key; {hint}")
            continue
        value = _bytes(given) if rule.size else given
        if rule.check(value):
            values[rule.field or key] = _RULES[str(value)] if key == "rule" else value
        else:
            wrong.append(f"{source}: {key} = {_shown(given)}: allowed is {rule.allowed}")
    if not wrong:
        found = replace(PLAIN, name=name, **values)  # type: ignore[arg-type]
        wrong = [f"{source}: {each}" for each in _contradictions(found)]
    if wrong:
        raise ProfileError("\n".join(wrong))
    return found


def _contradictions(found: Profile) -> list[str]:
    """Return what single keys cannot show."""
    wrong = []
    step = max(found.alignment, found.length_alignment, 1)
    for key in ("max_segment", "boundary", "max_transfer"):
        limit = getattr(found, key)
        if limit and limit < step:
            wrong.append(
                f"{key} = {limit}: allowed is {step} and more, as alignment and length_alignment "
                "would leave no DMA"
            )
    if found.max_transfer and found.max_transfer < found.max_segment:
        wrong.append(
            f"max_segment = {found.max_segment}: allowed is up to max_transfer, "
            f"{found.max_transfer}"
        )
    if found.rule is DmaRule.PRP:
        if found.boundary != layout.PRP_PAGE:
            wrong.append(
                f"boundary = {found.boundary}: allowed with rule prp is {layout.PRP_PAGE}, its page"
            )
        if found.alignment < 4:
            wrong.append(
                f"alignment = {found.alignment}: allowed with rule prp is 4 and more, a dword"
            )
    return wrong


def _bytes(given: object) -> object:
    """Return the bytes that "64 KiB" means; anything else as it is."""
    match = _SIZE.fullmatch(given) if isinstance(given, str) else None
    return int(match[1]) * _UNITS[match[2] or ""] if match else given


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:59]}…"
