# SPDX-License-Identifier: Apache-2.0
"""The faults of the guest's kernel module."""

from __future__ import annotations

from dma_rehearsal.device.layout.faults.fault import Component, Fault

DRIVER = (
    Fault(
        "driver-wrong-cache",
        Component.DRIVER,
        "the driver maps another cache mode than the one asked for",
        ("kIOMapWriteThruCache", "cache aliases", "UIO maps", "kernel mapping"),
        tests=(
            "test_cache_modes.py",
            "test_cache_lines.py",
            "test_driver_uio.py",
            "test_driver_kernel_map.py",
        ),
        parameter="dma_rehearsal.fault=wrong_cache",
    ),
    Fault(
        "driver-pin-does-not-pin",
        Component.DRIVER,
        "the driver releases pinned pages at once, but still tells their addresses",
        ("pinned pages",),
        tests=("test_driver_pin.py",),
        parameter="dma_rehearsal.fault=pin_does_not_pin",
    ),
    Fault(
        "driver-pin-never-ends",
        Component.DRIVER,
        "the driver keeps pages pinned after the last close of their file",
        ("unpinned pages",),
        tests=("test_driver_pin.py",),
        parameter="dma_rehearsal.fault=pin_never_ends",
    ),
    Fault(
        "driver-close-stops-nothing",
        Component.DRIVER,
        "the driver does not stop a function when its file is closed for the last time",
        ("stopped at the last close",),
        tests=("test_driver_stop.py",),
        parameter="dma_rehearsal.fault=close_stops_nothing",
    ),
    Fault(
        "driver-dead-pins-end",
        Component.DRIVER,
        "the driver releases a dead process's pinned pages while its device may still do DMA",
        ("pages outlive their device's work",),
        tests=("test_driver_stop.py",),
        parameter="dma_rehearsal.fault=dead_pins_end",
    ),
    Fault(
        "driver-wrong-entry",
        Component.DRIVER,
        "the driver tells page-table entries with another cache mode than the CPU's",
        ("kIOMapWriteThruCache", "page size"),
        tests=("test_witnessed.py",),
        parameter="dma_rehearsal.fault=wrong_entry",
    ),
    Fault(
        "driver-aliases",
        Component.DRIVER,
        "the driver maps memory a second time with another cache mode",
        ("kIOMapInhibitCache", "kIOMapWriteThruCache"),
        tests=("test_cache_modes.py",),
        parameter="dma_rehearsal.fault=aliases",
    ),
)
