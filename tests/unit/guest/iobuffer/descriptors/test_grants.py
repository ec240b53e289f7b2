# SPDX-License-Identifier: Apache-2.0
"""Grants of several segments: all of them or none, also when a withdrawal fails."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dma_rehearsal.guest.iobuffer import IODeviceError, IODirection, IOReturn, IOReturnError
from dma_rehearsal.guest.iobuffer.base import deferred, mistakes
from dma_rehearsal.guest.iobuffer.base.mistakes import IOMistakeWarning
from dma_rehearsal.guest.iobuffer.descriptors import preparation
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform

IN = IODirection.kIODirectionIn
SEGMENTS = [(0x1000, 16), (0x2000, 16), (0x3000, 16)]


class Unit:
    """An access control with room for two grants, which can refuse to withdraw."""

    def __init__(self) -> None:
        self.granted: list[int] = []
        self.stuck = False

    def grant(self, address: int, length: int, direction: IODirection) -> object:  # noqa: ARG002
        if len(self.granted) == 2:
            raise IOReturnError("full", code=IOReturn.kIOReturnNoResources)
        self.granted.append(address)
        return address

    def withdraw(self, grant: object) -> None:
        if self.stuck:
            raise IODeviceError("no descriptor is free")
        self.granted.remove(grant)  # type: ignore[arg-type]

    def reclaim(self) -> None: ...


@pytest.fixture
def unit() -> Iterator[Unit]:
    made = Unit()
    before, dma_platform.access_control = dma_platform.access_control, made
    yield made
    dma_platform.access_control = before


def test_no_room_for_all_grants_none(unit: Unit) -> None:
    with pytest.raises(IOReturnError, match="full"):
        preparation.Grants(SEGMENTS, IN)
    assert not unit.granted


def test_what_was_granted_before_and_cannot_be_withdrawn_is_withdrawn_later(unit: Unit) -> None:
    """The cause is what is raised, and the grants are not forgotten."""
    unit.stuck = True
    with (
        pytest.warns(IOMistakeWarning, match="2 segments could not be given back"),
        pytest.raises(IOReturnError, match=r"full.*not undone: .*no descriptor") as caught,
    ):
        preparation.Grants(SEGMENTS, IN)
    assert caught.value.code is IOReturn.kIOReturnNoResources
    deferred.run_pending()
    assert len(unit.granted) == 2
    unit.stuck = False
    deferred.run_pending()
    assert not unit.granted
    assert len(mistakes.taken()) == 1
