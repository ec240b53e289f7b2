# SPDX-License-Identifier: Apache-2.0
"""Named faults of the mapper, which maps memory for a device, applied from outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.guest.drivers.vfio import Container, Iova
from dma_rehearsal.guest.iobuffer.base.options import (
    IODirection,
    IOOptions,
    kIOMemoryHostPhysicallyContiguous,
)
from dma_rehearsal.guest.iobuffer.base.ranges import Segment
from dma_rehearsal.guest.iobuffer.descriptors import buffer
from dma_rehearsal.guest.iobuffer.descriptors.creation import make_place, make_request
from dma_rehearsal.guest.iobuffer.descriptors.iommu import BusPlacement, BusWindow
from dma_rehearsal.guest.iobuffer.descriptors.memory_descriptor import IOMemoryDescriptor

_map = Container.map
_allow = BusWindow.allow
_close = BusWindow.close
_map_part = BusWindow._map


def wrong_permission() -> None:
    """Map for both directions where one was asked for."""

    def map_all(
        container: Container, va: int, length: int, *, read: bool, write: bool, **rest: Any
    ) -> Iova:
        allowed = read or write
        return _map(container, va, length, read=allowed, write=allowed, **rest)

    patched: Any = Container
    patched.map = map_all


def grants_both_ways() -> None:
    """A buffer is mapped for reads and writes, whatever its preparations say."""

    def allow(window: BusWindow, _rights: IODirection, physical: Sequence[Any]) -> None:
        _allow(window, IODirection.kIODirectionInOut, physical)

    setattr(BusWindow, _allow.__name__, allow)


def rights_kept() -> None:
    """Devices keep the rights of the first preparation."""

    def changes(_window: BusWindow, _rights: IODirection) -> bool:
        return False

    setattr(BusWindow, changes.__name__, changes)


def stale_after_unmap() -> None:
    """A buffer stays mapped after complete() and release(). Its rights still change."""

    def close(window: BusWindow) -> None:
        window._mapped, window._segments = [], []

    def allow(window: BusWindow, rights: IODirection, physical: Sequence[Any]) -> None:
        if window.changes(rights):
            places = window._segments
            _close(window)
            window._segments = places
        _allow(window, rights, physical)

    setattr(BusWindow, close.__name__, close)
    setattr(BusWindow, allow.__name__, allow)


def segments_unmerged() -> None:
    """Each page is mapped on its own, with a gap behind it."""

    def map_pages(window: BusWindow, va: int, length: int, *rest: Any) -> None:
        window._place = replace(window._place, alignment=2 * PAGE)
        end = va + length
        while va < end:
            part = min(PAGE - va % PAGE, end - va)
            _map_part(window, va, part, *rest)
            va += part

    setattr(BusWindow, _map_part.__name__, map_pages)


def none_ignored() -> None:
    """MapperNone gets bus addresses of the mapper's."""

    def physical_never(options: IOOptions, alignment: int, highest: int | None) -> BusPlacement:
        return replace(make_place(options, alignment, highest), physical=False)

    setattr(buffer, make_place.__name__, physical_never)


def host_contiguous_ignored() -> None:
    """HostPhysicallyContiguous is contiguous to the device alone."""

    def contiguous_to_devices(task: Any, options: IOOptions, *rest: Any) -> Any:
        plain = IOOptions.of(int(options) & ~kIOMemoryHostPhysicallyContiguous.value)
        return make_request(task, plain, *rest)

    setattr(buffer, make_request.__name__, contiguous_to_devices)


def unmapped_translated() -> None:
    """A command for kUnmapped gets bus addresses of the mapper's."""

    def physical(
        memory: IOMemoryDescriptor, offset: int = 0, length: int | None = None
    ) -> list[Segment]:
        return memory.segments(offset, length)

    setattr(IOMemoryDescriptor, IOMemoryDescriptor.physical_segments.__name__, physical)


def mask_ignored() -> None:
    """Place mappings wherever the IOMMU translates."""

    def set_mask(_container: Container, _bits: int) -> None:
        pass

    setattr(Container, set_mask.__name__, set_mask)


IMPLEMENTATIONS: dict[str, Callable[[], None]] = {
    "iommu-wrong-permission": wrong_permission,
    "iommu-mask-ignored": mask_ignored,
    "mapper-grants-both-ways": grants_both_ways,
    "mapper-rights-kept": rights_kept,
    "mapper-stale-after-unmap": stale_after_unmap,
    "mapper-segments-unmerged": segments_unmerged,
    "mapper-none-ignored": none_ignored,
    "mapper-host-contiguous-ignored": host_contiguous_ignored,
    "mapper-unmapped-translated": unmapped_translated,
}
