# SPDX-License-Identifier: Apache-2.0
"""The conditions under which a test rehearses a kernel driver: the mark ``rehearse``.

A test that takes the fixture ``driver`` runs once for each condition of its mark. A session that
rehearses (``make rehearse``) runs it under each of a fixed list, which a mark narrows.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import pytest

from dma_rehearsal.guest.iobuffer.memory import placement
from dma_rehearsal.guest.session import SETTINGS

MARK: Final = "rehearse"
FIXTURE: Final = "driver"
EAGER, HELD = "eager", "held"
_TIMINGS: Final = (EAGER, HELD)
_PLACES: Final = (None, placement.KIND, placement.HOSTILE)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a driver's rehearsal.

    ``timing``: when the device does its DMA, "eager" or "held". ``coherent``: whether the board's
    caches follow DMA. ``merge``: dma_map_sg() joins what lies together. ``bounce``: each mapping
    goes by a bounce buffer. ``place``: None (as PLACE), "kind" or "hostile". ``every_failure``:
    each call that can fail does so once; a number is the most of them. ``device_bits``: the
    address bits that the device drives, 0: all. ``plain``: nothing is hooked, and only a timing
    goes with it.
    """

    timing: str = EAGER
    coherent: bool = True
    merge: bool = False
    bounce: bool = False
    place: str | None = None
    every_failure: bool | int = False
    device_bits: int = 0
    plain: bool = False

    def __str__(self) -> str:
        """Return its words, such as held-noncoherent."""
        words = [
            HELD if self.timing == HELD else "",
            "" if self.coherent else "noncoherent",
            "merge" if self.merge else "",
            "bounce" if self.bounce else "",
            self.place or "",
            "every-failure" if self.every_failure else "",
            f"{self.device_bits}-bits" if self.device_bits else "",
            "plain" if self.plain else "",
        ]
        return "-".join(filter(None, words)) or EAGER


_BITS: Final = 64
_DUE: Final[dict[str, tuple[Any, ...]]] = {
    "timing": _TIMINGS,
    "place": _PLACES,
    "every_failure": (True, False, "the most failures"),
    "device_bits": ("0 to 64",),
}
_DEFAULT: Final = Condition()
ALL: Final = (
    _DEFAULT,
    Condition(timing=HELD),
    Condition(coherent=False),
    Condition(timing=HELD, coherent=False),
    Condition(merge=True),
    Condition(bounce=True),
    Condition(place=placement.HOSTILE),
    Condition(every_failure=True),
)
"""The conditions of a session that rehearses."""
_NAMES: Final = tuple(field.name for field in fields(Condition))


def conditions(marked: Mapping[str, Any], *, rehearsing: bool = False) -> list[Condition]:
    """Return the conditions that a mark's arguments ask for; without arguments the default one.

    ``rehearsing``: those of `ALL` that the mark allows, and its own where it allows none of them.
    ValueError for an unknown name or value.
    """
    allowed = {name: _values(name, value) for name, value in marked.items()}
    if rehearsing and not any(allowed.get("plain", ())):
        rest = {name: values for name, values in allowed.items() if name != "device_bits"}
        found = [
            replace(each, device_bits=number)
            for each in ALL
            if _allows(rest, each)
            for number in allowed.get("device_bits", (0,))
        ]
        if found:
            return found
    chosen = itertools.product(*allowed.values())
    return [replace(_DEFAULT, **dict(zip(allowed, values, strict=True))) for values in chosen]


def _allows(allowed: Mapping[str, Sequence[Any]], condition: Condition) -> bool:
    return all(getattr(condition, name) in values for name, values in allowed.items())


def _values(name: str, value: object) -> tuple[Any, ...]:
    if name not in _NAMES:
        raise ValueError(f"{name}= is unknown; a condition has {', '.join(_NAMES)}")
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    for each in values:
        if not _possible(name, each):
            due = _DUE.get(name, (True, False))
            raise ValueError(f"{name}={each!r}: one of {', '.join(map(repr, due))}, or a tuple")
    if not values:
        raise ValueError(f"{name}=(): name at least one value")
    return values


def _possible(name: str, value: object) -> bool:
    if name == "timing":
        return value in _TIMINGS
    if name == "place":
        return value in _PLACES
    if name == "every_failure" and type(value) is int:
        return value > 0
    if name == "device_bits":
        return type(value) is int and 0 <= value <= _BITS
    return isinstance(value, bool)


def of_test(item: pytest.Item) -> Condition:
    """Return the condition of a test that has one only, and is not parametrized with it."""
    return _of(item, item.config)[0]


def _of(node: pytest.Item, config: pytest.Config) -> list[Condition]:
    marks = list(node.iter_markers(MARK))
    # The closest mark comes first, and wins.
    asked = {name: value for mark in reversed(marks) for name, value in mark.kwargs.items()}
    if any(mark.args for mark in marks):
        raise pytest.UsageError(f"{node.nodeid}: rehearse() takes names: rehearse(timing='held')")
    try:
        return conditions(asked, rehearsing=config.stash[SETTINGS].rehearse)
    except ValueError as error:
        raise pytest.UsageError(f"{node.nodeid}: rehearse: {error}") from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have a test with the fixture ``driver`` run once for each of its conditions."""
    if FIXTURE not in metafunc.fixturenames:
        return
    found = _of(metafunc.definition, metafunc.config)
    if len(found) > 1:
        metafunc.parametrize(FIXTURE, found, ids=map(str, found), indirect=True)
