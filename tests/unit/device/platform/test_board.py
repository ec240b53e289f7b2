# SPDX-License-Identifier: Apache-2.0
"""BOARD_SNOOP: a board that snoops no request, whatever its functions are and ask for."""

from __future__ import annotations

from typing import ClassVar

import pytest

from dma_rehearsal.device.endpoints.bars import Bars
from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.layout import (
    CacheCommand,
    CacheReportKind,
    CacheStatus,
    DmaReason,
    Plat,
    PlatformFeature,
)
from dma_rehearsal.device.pci.config import Identity
from dma_rehearsal.device.trace import Trace
from tests.unit.device.cache_model.cache_board import DATA, STAGING, TAG, CacheBoard
from tests.unit.device.fakes import read32, write32
from tests.unit.device.platform.mail_board import Events
from tests.unit.device.platform.tables import PAGE

LINE = 64
OLD, NEW = b"\x11" * LINE, b"\x22" * LINE


class Own(Endpoint):
    """A user's device, which knows nothing of snooping."""

    name = "own"
    identity = Identity(vendor_id=0x1234, device_id=1, class_code=0xFF0000)
    bars: ClassVar[Bars] = {}


@pytest.fixture
def board() -> CacheBoard:
    """A buffer that holds OLD and was cleaned."""
    made = CacheBoard(Events())
    assert made.configure() is CacheStatus.OK
    made.store(DATA, OLD)
    assert made.track() is CacheStatus.OK
    made.done(CacheCommand.CLEAN, TAG, length=PAGE)
    return made


@pytest.fixture
def own(board: CacheBoard) -> Own:
    made = Own(Trace())
    made.bus.interconnect = board.platform.interconnect
    made.attach(board.client)
    made.region_write(7, 4, b"\x06\x00")
    return made


def snoop(board: CacheBoard, value: int) -> None:
    write32(board.platform, 0, Plat.BOARD_SNOOP, value)


def test_discovery(board: CacheBoard) -> None:
    assert PlatformFeature.BOARD_SNOOP in PlatformFeature(read32(board.platform, 0, Plat.FEATURES))
    assert read32(board.platform, 0, Plat.BOARD_SNOOP) == 1
    snoop(board, 0)
    assert read32(board.platform, 0, Plat.BOARD_SNOOP) == 0
    snoop(board, 0xFFFF_FFFF)
    assert read32(board.platform, 0, Plat.BOARD_SNOOP) == 1


def test_a_snooping_board_follows_each_function(board: CacheBoard, own: Own) -> None:
    board.store(DATA, NEW)
    assert own.bus.read(DATA, LINE) == NEW
    assert board.reads(DATA, LINE, no_snoop=False) == NEW
    assert board.reads(DATA, LINE) == OLD


def test_a_board_that_snoops_nothing(board: CacheBoard, own: Own) -> None:
    snoop(board, 0)
    board.store(DATA, NEW)
    assert own.bus.read(DATA, LINE) == OLD
    assert board.reads(DATA, LINE, no_snoop=False) == OLD
    board.done(CacheCommand.SYNC_FOR_DEVICE, TAG, length=PAGE)
    own.bus.write(DATA, OLD)
    assert board.load(DATA, LINE) == NEW
    board.done(CacheCommand.SYNC_FOR_CPU, TAG, length=PAGE)
    assert board.load(DATA, LINE) == OLD
    assert board.kinds() == []
    board.store(DATA, NEW)
    own.bus.write(DATA, OLD)
    assert board.kinds() == [CacheReportKind.WRITE_TO_DIRTY_LINE]


def test_it_holds_until_it_is_set_again(board: CacheBoard, own: Own) -> None:
    snoop(board, 0)
    board.store(DATA, NEW)
    snoop(board, 1)
    assert own.bus.read(DATA, LINE) == NEW


def test_a_reset_of_the_platform_restores_it(board: CacheBoard) -> None:
    snoop(board, 0)
    board.platform.device_reset()
    assert board.platform.interconnect.snoops
    board.platform.region_write(7, 4, b"\x06\x00")
    assert read32(board.platform, 0, Plat.BOARD_SNOOP) == 1


def test_a_reset_of_another_function_leaves_it(board: CacheBoard, own: Own) -> None:
    snoop(board, 0)
    own.device_reset()
    assert not board.platform.interconnect.snoops


def test_memory_that_nothing_tracks(board: CacheBoard, own: Own) -> None:
    """As a no-snoop request: refused in strict mode. Without a cache model all is memory."""
    own.bus.read(STAGING, LINE)
    snoop(board, 0)
    with pytest.raises(DmaRefused) as refusal:
        own.bus.read(STAGING, LINE)
    assert refusal.value.reason is DmaReason.CACHE_UNTRACKED
    board.configure(0)
    own.bus.write(STAGING, NEW)
    assert board.load(STAGING, LINE) == NEW


def test_the_trace_has_it(board: CacheBoard) -> None:
    trace = board.platform.trace
    assert isinstance(trace, Events)
    trace.events.clear()
    snoop(board, 0)
    assert [each["snoop"] for each in trace.of("board")] == [False]
