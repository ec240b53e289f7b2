# SPDX-License-Identifier: Apache-2.0
"""The platform: one object, whose attributes a program sets and a test replaces for a while."""

from __future__ import annotations

import pytest

from dma_rehearsal.guest.iobuffer import Platform, dma_platform
from dma_rehearsal.guest.iobuffer.base.coherence import CoherentBus
from dma_rehearsal.guest.iobuffer.memory import platform
from dma_rehearsal.guest.iobuffer.memory.kernel_pools import PageablePool, PinnedPool
from dma_rehearsal.guest.iobuffer.memory.placement import Hostile


class Counter:
    """An access control that counts the calls of `reclaim`."""

    def __init__(self) -> None:
        self.reclaimed = 0

    def grant(self, *_: object) -> object:
        return None

    def withdraw(self, grant: object) -> None:
        pass

    def reclaim(self) -> None:
        self.reclaimed += 1


def test_attributes_are_replaced_for_a_while_also_with_an_error() -> None:
    before = dma_platform.coherence, dma_platform.placement
    new = CoherentBus()

    def fail() -> None:
        with dma_platform.replaced(coherence=new, placement=Hostile(1)):
            assert dma_platform.coherence is new
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (dma_platform.coherence, dma_platform.placement) == before


def test_an_unknown_attribute_is_an_error_and_changes_nothing() -> None:
    before = dma_platform.coherence
    with (
        pytest.raises(AttributeError),
        dma_platform.replaced(coherence=CoherentBus(), coherance=CoherentBus()),
    ):
        pass
    assert dma_platform.coherence is before


def test_pools_are_by_name_and_in_their_order() -> None:
    made = Platform()
    made.use_pools(PinnedPool(), PageablePool())
    assert made.pools is not None
    assert list(made.pools) == ["pinned", "pageable"]
    made.use_pools()
    assert made.pools is None, "they are discovered again"


def test_grants_of_the_dead_are_reclaimed_where_there_is_an_access_control() -> None:
    made = Platform()
    made.reclaim_grants()
    made.access_control = control = Counter()
    made.reclaim_grants()
    assert control.reclaimed == 1


def test_a_child_has_neither_the_driver_nor_the_iommu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dma_platform, "driver", object())
    monkeypatch.setattr(dma_platform, "iommu", object())
    assert dma_platform.translated
    platform._after_fork_in_child()
    assert (dma_platform.driver, dma_platform.iommu) == (None, None)
    assert not dma_platform.translated
