# SPDX-License-Identifier: Apache-2.0
"""Allocators that err in one call break the right promise."""

from __future__ import annotations

from typing import Any

import pytest

from dma_rehearsal.guest.iobuffer import (
    CacheMode,
    IOBufferMemoryDescriptor,
    IODirection,
    IOMemoryDescriptor,
    IOMultiMemoryDescriptor,
    IOOptions,
)
from dma_rehearsal.guest.iobuffer.descriptors import creation
from dma_rehearsal.guest.iobuffer.memory.placement import Hostile
from tests.inprocess.rig.machine import Machine
from tests.inprocess.rig.suite_run import SuiteRunner

pytest_plugins = ["pytester"]

_with_descriptors = IOMultiMemoryDescriptor.withDescriptors


def reverses(entries: list[IOMemoryDescriptor], direction: IOOptions) -> IOMultiMemoryDescriptor:
    """Take the entries in the wrong order."""
    return _with_descriptors(entries[::-1], direction)


def ignores_mask(
    task: Any, options: IOOptions, capacity: int, _mask: int
) -> IOBufferMemoryDescriptor:
    """Place memory anywhere."""
    return IOBufferMemoryDescriptor.inTaskWithOptions(task, options, capacity)


def unites(one: IOOptions, other: IOOptions) -> IOOptions:
    """Combine options as plain flags, cache modes included."""
    return IOOptions.of(int(one) | int(other))


def keeps_direction(_memory: IOBufferMemoryDescriptor, _direction: IODirection) -> None:
    """Ignore setDirection()."""


def appends_nothing(_memory: IOBufferMemoryDescriptor, _data: bytes) -> bool:
    """Lose what is appended, and say that it was stored."""
    return True


_BUFFER = IOBufferMemoryDescriptor
_EVERY_MODE = dict.fromkeys(CacheMode, CacheMode.COPYBACK)


@pytest.mark.fires("promise", neighbour="tests/inprocess/test_whole_suite.py::test_sound_devices")
@pytest.mark.parametrize(
    ("target", "name", "value", "selected", "promise"),
    [
        (
            *(IOMultiMemoryDescriptor, "withDescriptors", staticmethod(reverses)),
            *("several_as_one", "IOMultiMemoryDescriptor"),
        ),
        (
            *(_BUFFER, "inTaskWithPhysicalMask", staticmethod(ignores_mask)),
            *("test_physical_mask", "inTaskWithPhysicalMask"),
        ),
        (_BUFFER, "setDirection", keeps_direction, "none_then_set", "kIODirectionNone"),
        (_BUFFER, "setDirection", keeps_direction, "test_parts", "setDirection"),
        (_BUFFER, "appendBytes", appends_nothing, "thread_safe", "kIOMemoryThreadSafe"),
        (Hostile, "highest", False, "without_a_mask", "placement"),
        (IOOptions, "__or__", unites, "two_cache_modes", "options"),
        (creation, "_UNSUPPORTED", (), "says_so and ClearEncrypt", "kIOMemoryClearEncrypt"),
        *(
            (creation, "CACHE_MODES", _EVERY_MODE, f"says_so and {name}", name)
            for name in ("kIOMapPostedWrite", "kIOMapRealTimeCache", "kIOMapCopybackInnerCache")
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_allocator(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    target: Any,
    name: str,
    value: object,
    selected: str,
    promise: str,
) -> None:
    monkeypatch.setattr(target, name, value)
    assert SuiteRunner(pytester, monkeypatch).run(Machine, "-k", selected).broken == {promise}
