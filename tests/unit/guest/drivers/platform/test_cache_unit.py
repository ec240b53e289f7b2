# SPDX-License-Identifier: Apache-2.0
"""The guest's side of the cache model, on the device's model: reports, refusals, and finalizers."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dma_rehearsal.device.layout import CACHE_REPORTS_MAX, Plat
from dma_rehearsal.device.layout.mailbox import MAIL_TAG_BASE
from dma_rehearsal.guest.drivers.platform import command
from dma_rehearsal.guest.drivers.platform.buffer_names import BufferNames
from dma_rehearsal.guest.drivers.platform.cache_unit import (
    CacheDirection,
    CacheError,
    CacheModelMode,
    CacheReportKind,
    CacheStatus,
    CacheUnit,
)
from dma_rehearsal.guest.drivers.platform.coherence import PlatformCoherence
from dma_rehearsal.guest.drivers.platform.command import CommandLock, PlatformDeviceError
from dma_rehearsal.guest.iobuffer import IODeviceError, IONotPermittedError, IOReturn
from dma_rehearsal.guest.iobuffer.base import deferred, mistakes
from dma_rehearsal.guest.iobuffer.base.mistakes import IOMistakeWarning
from tests.unit.device.cache_model.cache_board import VA, CacheBoard
from tests.unit.device.fakes import BASE
from tests.unit.device.platform.tables import PAGE
from tests.unit.guest.child import in_a_child
from tests.unit.guest.drivers.platform.model_bar import BoardBar

IN, IN_OUT = CacheDirection.IN, CacheDirection.IN_OUT


@pytest.fixture
def control() -> BoardBar:
    return BoardBar(CacheBoard(), 0)


@pytest.fixture
def unit(control: BoardBar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CacheUnit:
    """A unit in strict mode; the buffer with tag 1 is a write-back page."""
    monkeypatch.setattr(command, "LOCKS", tmp_path)
    registers: Any = control
    results: Any = BoardBar(control._board, 1)
    made = CacheUnit(registers, results, CommandLock("test"), "test")
    made.configure(CacheModelMode.STRICT)
    made.track(1, IN_OUT, BASE, VA, PAGE)
    return made


def test_configuration_is_read_back(unit: CacheUnit) -> None:
    assert (unit.mode, unit.line) == (CacheModelMode.STRICT, 64)
    unit.configure(CacheModelMode.SEEDED, 256, (1 << 64) - 1)
    assert (unit.mode, unit.line) == (CacheModelMode.SEEDED, 256)


def test_each_report_comes_once_and_whole(unit: CacheUnit) -> None:
    for _ in range(CACHE_REPORTS_MAX + 3):
        unit.untrack(1)
        unit.track(1, IN, BASE, VA, PAGE)
        unit.sync_for_device(1, 0, PAGE, CacheDirection.OUT)
    found = unit.take_reports()
    assert [each.kind for each in found] == [CacheReportKind.WRONG_DIRECTION] * len(found)
    assert len(found) == CACHE_REPORTS_MAX + 3
    assert unit.take_reports() == []


def test_lost_reports_are_an_error(unit: CacheUnit) -> None:
    unit.untrack(1)
    unit.track(1, IN, BASE, VA, PAGE)
    for _ in range(257):
        unit.sync_for_device(1, 0, 1, CacheDirection.OUT)
    with pytest.raises(PlatformDeviceError, match="1 cache reports are lost"):
        unit.take_reports()


def test_refusals(unit: CacheUnit) -> None:
    with pytest.raises(CacheError, match="BAD_BUFFER") as error:
        unit.track(1, IN_OUT, BASE, VA + PAGE, PAGE)
    assert error.value.status is CacheStatus.BAD_BUFFER
    with pytest.raises(CacheError, match="BAD_RANGE"):
        unit.clean(1, 0, PAGE + 1)
    for wrong in -1, 1 << 64:
        with pytest.raises(CacheError, match="BAD_RANGE"):
            unit.invalidate(1, wrong, 1)
    with pytest.raises(CacheError, match="WALK_NOT_PRESENT at 0x7f1234577000") as error:
        unit.track(2, IN_OUT, BASE, VA + 16 * PAGE, PAGE)
    assert error.value.address == VA + 16 * PAGE
    with pytest.raises(CacheError, match="BAD_CONFIGURATION"):
        unit.configure(CacheModelMode.STRICT, 48)


@pytest.mark.parametrize("register", [Plat.CACHE_STATUS, Plat.CACHE_REPORTS])
def test_a_device_that_answers_nonsense(unit: CacheUnit, control: BoardBar, register: Plat) -> None:
    control.answers[register] = 0xFFFF_FFFF
    with pytest.raises(PlatformDeviceError):
        unit.take_reports()


class Buffer:
    """As much of a buffer as the adaptor looks at; mapped at a page of the board."""

    def __init__(self, address: int = VA) -> None:
        self.address = address

    def getDirection(self) -> int:
        return IN

    def getCapacity(self) -> int:
        return PAGE


@pytest.fixture
def caches(unit: CacheUnit) -> PlatformCoherence:
    driver: Any = SimpleNamespace(query=lambda _: SimpleNamespace(root=BASE, levels=4))
    return PlatformCoherence(unit, driver)


def test_a_buffer_s_life(caches: PlatformCoherence, unit: CacheUnit) -> None:
    made: Any = Buffer()
    end = caches.track(made)
    tag = caches.tag_of(made)
    caches.sync_for_device(made, 0, PAGE, made.getDirection())
    caches.clean_and_invalidate(made, 0, PAGE)
    assert "Buffer" in caches.name_of(tag)
    end()
    with pytest.raises(IODeviceError, match="not tracked by the cache model"):
        caches.clean(made, 0, 1)
    assert unit.take_reports() == []


@pytest.mark.parametrize("pid", [1, 0x7FFF, 0x8000, 0xFFFF, (1 << 22) - 1])
def test_a_process_has_tags_below_those_of_kernel_drivers(
    caches: PlatformCoherence, monkeypatch: pytest.MonkeyPatch, pid: int
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: pid)
    made: Any = Buffer()
    end = caches.track(made)
    assert caches.tag_of(made) < MAIL_TAG_BASE
    end()


def test_a_buffer_that_another_process_made_has_its_name(
    caches: PlatformCoherence, unit: CacheUnit, tmp_path: Path
) -> None:
    driver: Any = SimpleNamespace()
    elsewhere = PlatformCoherence(unit, driver)
    made: Any = Buffer()
    caches.track(made)()
    (tag,) = caches._buffers
    assert elsewhere.name_of(tag) == f"{caches.name_of(tag)} of process {os.getpid()}"
    assert elsewhere.name_of(0xBEEF) == "buffer 0xbeef"
    names = BufferNames(tmp_path / "names")
    for tag in range(3000):
        names.tell(tag, f"two\nlines {'x' * 1000}")
    assert (tmp_path / "names").stat().st_size < (1 << 20) + 1000
    assert (names.find(2999) or "").startswith("two lines xxx")
    assert names.find(0) is None, "the oldest are gone"
    nowhere = BufferNames(tmp_path / "names" / "no folder")
    nowhere.tell(1, "a name")
    assert nowhere.find(1) is None


def test_a_tag_that_another_process_took(caches: PlatformCoherence, unit: CacheUnit) -> None:
    first: Any = Buffer()
    end = caches.track(first)
    taken = caches.tag_of(first)
    end()
    unit.track(taken + 1, IN_OUT, BASE, VA, PAGE)
    second: Any = Buffer()
    caches.track(second)
    assert caches.tag_of(second) == taken + 2


def test_the_end_in_the_midst_of_a_command(caches: PlatformCoherence, unit: CacheUnit) -> None:
    """A caller is told; a finalizer leaves it for the next call."""
    made: Any = Buffer()
    end = caches.track(made)
    tag = caches.tag_of(made)
    with unit.lock.held():
        with pytest.raises(IONotPermittedError, match="in the middle of another one"):
            end()
        deferred.finalize(end, "a buffer")
    assert mistakes.taken() == []
    deferred.run_pending()
    with pytest.raises(CacheError, match="BAD_BUFFER"):
        unit.untrack(tag)


def test_what_cannot_be_untracked_is_an_error_and_stays_tracked(
    caches: PlatformCoherence, unit: CacheUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: Any = Buffer()
    end = caches.track(made)
    tag = caches.tag_of(made)

    def full(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", full)
        with pytest.raises(IODeviceError, match="Too many open files") as error:
            end()
        assert error.value.code is IOReturn.kIOReturnNoResources
        with pytest.warns(IOMistakeWarning, match=r"a buffer could not .* Too many open files"):
            deferred.finalize(end, "a buffer")
        with pytest.raises(IODeviceError, match="Too many open files"):
            caches.track(made)
    mistakes.taken()
    unit.clean(tag, 0, 64)
    deferred.run_pending()
    with pytest.raises(CacheError, match="BAD_BUFFER"):
        unit.untrack(tag)


def test_a_forked_child_leaves_what_its_parent_tracks(
    caches: PlatformCoherence, unit: CacheUnit
) -> None:
    made: Any = Buffer()
    end = caches.track(made)
    tag = caches.tag_of(made)

    def leave() -> None:
        end()
        unit.clean(tag, 0, 64)  # the model is the child's own copy: nothing was told to it
        caches.track_existing(made, VA + 8, 64)
        assert tag not in caches._tags.values()

    assert in_a_child(leave) == 0
    end()
    with pytest.raises(CacheError, match="BAD_BUFFER"):
        unit.untrack(tag)


def test_what_a_reset_dropped_is_gone(caches: PlatformCoherence, unit: CacheUnit) -> None:
    made: Any = Buffer()
    end = caches.track(made)
    unit.configure(CacheModelMode.OFF)
    end()
    far: Any = Buffer(VA + 16 * PAGE)
    with pytest.raises(IODeviceError, match="WALK_NOT_PRESENT"):
        caches.track(far)


def test_memory_that_was_there_before(caches: PlatformCoherence, unit: CacheUnit) -> None:
    """Tracked as a buffer is, but not where a sync would destroy what lies beside it."""
    made: Any = Buffer()
    end = caches.track_existing(made, VA, 128)
    caches.sync_for_device(made, 0, 128, made.getDirection())
    tag = caches.tag_of(made)
    end()
    with pytest.raises(CacheError, match="BAD_BUFFER"):
        unit.untrack(tag)
    for address, length in (VA + 16, 128), (VA, 96):
        end = caches.track_existing(made, address, length)
        with pytest.raises(IODeviceError, match="lines of its own") as error:
            caches.tag_of(made)
        assert error.value.code is IOReturn.kIOReturnNotAligned
        end()
        with pytest.raises(IODeviceError, match="not tracked by the cache model"):
            caches.tag_of(made)


def test_a_buffer_that_is_mapped_elsewhere_is_tracked_by_the_kernels_mapping(
    caches: PlatformCoherence, unit: CacheUnit
) -> None:
    """Its owner tracks it, though only another task has it mapped."""
    made: Any = Buffer(0)
    window = SimpleNamespace(root=BASE, address=VA, levels=4)
    made.backing = SimpleNamespace(make_kernel_map=lambda: window)
    end = caches.track(made)
    caches.sync_for_device(made, 0, PAGE, made.getDirection())
    end()
    with pytest.raises(IODeviceError, match="not tracked"):
        caches.tag_of(made)
    assert unit.take_reports() == []
