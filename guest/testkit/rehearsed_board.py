# SPDX-License-Identifier: Apache-2.0
"""The board under a condition of a driver's rehearsal: protection, caches, held DMA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from dma_rehearsal.device.layout import PlatformFeature
from dma_rehearsal.guest.drivers.pci_bars import PciError
from dma_rehearsal.guest.drivers.platform.cache_unit import CacheModelMode, CacheUnit
from dma_rehearsal.guest.drivers.platform.command import PlatformDeviceError
from dma_rehearsal.guest.drivers.platform.device import PlatformDevice
from dma_rehearsal.guest.testkit.conditions import HELD, Condition
from dma_rehearsal.guest.testkit.hold_watcher import HoldWatcher

LINE: Final = 64  # bytes of a cache line
_SEED: Final = 1


@contextmanager
def rehearsed_board(platform: PlatformDevice, condition: Condition) -> Iterator[HoldWatcher | None]:
    """Bring the board into a condition within the ``with``, and back at its end.

    It yields the watcher of held DMA, where there is one. `PciError` for a platform that lacks
    what the condition needs.
    """
    _check(platform, condition)
    unit = platform.protection
    unit.enabled = not condition.plain
    try:
        with _caches(platform, condition), _holding(platform, condition) as watcher:
            yield watcher
    finally:
        unit.enabled = True


def drain(platform: PlatformDevice) -> None:
    """Make room for the cache model's next reports; the host has them in the device's trace."""
    if platform.cache.mode is not CacheModelMode.OFF:
        with suppress(PlatformDeviceError):  # some were lost, which the host sees, too
            platform.cache.take_reports()


def _check(platform: PlatformDevice, condition: Condition) -> None:
    if condition.plain and (
        condition.merge
        or condition.bounce
        or not condition.coherent
        or condition.place
        or condition.every_failure
        or condition.device_bits
    ):
        raise PciError(
            f"{condition}: plain hooks nothing, so it goes with a timing only; next: leave out "
            "plain=True, or the other conditions"
        )
    needed = PlatformFeature(0) if condition.plain else PlatformFeature.MAILBOX
    if not condition.coherent:
        needed |= PlatformFeature.CACHE | PlatformFeature.BOARD_SNOOP
    if condition.timing == HELD:
        needed |= PlatformFeature.HOLD
    if missing := needed & ~platform.features:
        raise PciError(f"{platform.pci.address}: this platform lacks {missing!r} for {condition}")


@contextmanager
def _caches(platform: PlatformDevice, condition: Condition) -> Iterator[None]:
    if condition.coherent:
        yield
        return
    cache: CacheUnit = platform.cache
    cache.configure(CacheModelMode.STRICT, LINE, _SEED)
    try:
        platform.board.snooped = False
        try:
            yield
        finally:
            drain(platform)
    finally:
        platform.board.snooped = True
        cache.configure(CacheModelMode.OFF, LINE)


@contextmanager
def _holding(platform: PlatformDevice, condition: Condition) -> Iterator[HoldWatcher | None]:
    if condition.timing != HELD:
        yield None
        return
    board = platform.board
    board.holding = True
    try:
        with HoldWatcher(board) as watcher:
            yield watcher
    finally:
        board.holding = False
        board.release()
