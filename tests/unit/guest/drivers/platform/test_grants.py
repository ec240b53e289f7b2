# SPDX-License-Identifier: Apache-2.0
"""The allocator's grants in the protection unit: failed withdrawals, finalizers, forks."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.device.layout import ProtectionStatus
from dma_rehearsal.device.platform.platform import Platform
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.guest.drivers.platform import command as platform_command
from dma_rehearsal.guest.drivers.platform.command import CommandInProgress, CommandLock
from dma_rehearsal.guest.drivers.platform.grants import PlatformAccess, PlatformEvidence
from dma_rehearsal.guest.drivers.platform.protection_unit import (
    GrantsExhausted,
    ProtectionUnit,
    process_owner,
)
from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IOBusyError,
    IODeviceError,
    IODirection,
    IONotPermittedError,
    IOReturn,
    IOReturnError,
    kIODirectionIn,
    kIODirectionOut,
)
from dma_rehearsal.guest.iobuffer.base import deferred, mistakes
from dma_rehearsal.guest.iobuffer.base.mistakes import IOMistakeWarning
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from tests.unit.device.fakes import answer
from tests.unit.guest.child import begin_child, in_a_child
from tests.unit.guest.memory_pool import MemoryPool, make

IN = IODirection.kIODirectionIn


class ModelBar:
    """BAR0 of a platform's model."""

    def __init__(self) -> None:
        self._platform = Platform(Trace())
        answer(self._platform)

    def __getitem__(self, offset: int) -> int:
        return int.from_bytes(self._platform.region_read(0, offset, 4), "little")

    def __setitem__(self, offset: int, value: int) -> None:
        self._platform.region_write(0, offset, value.to_bytes(4, "little"))

    def set64(self, offset: int, value: int) -> None:
        self[offset], self[offset + 4] = value & 0xFFFF_FFFF, value >> 32

    def get64(self, offset: int) -> int:
        return self[offset] | self[offset + 4] << 32


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLock:
    monkeypatch.setattr(platform_command, "LOCKS", tmp_path / "locks")
    return CommandLock("rig")


@pytest.fixture
def unit(lock: CommandLock) -> ProtectionUnit:
    control: Any = ModelBar()
    return ProtectionUnit(control, lock, "rig")


@pytest.fixture
def access(unit: ProtectionUnit, main: MemoryPool) -> Iterator[PlatformAccess]:  # noqa: ARG001
    made = PlatformAccess(unit)
    before, dma_platform.access_control = dma_platform.access_control, made
    yield made
    dma_platform.access_control = before
    deferred.run_pending()


@contextmanager
def no_descriptors() -> Iterator[None]:
    """No file can be opened in the ``with``: the process has as many as it may."""

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "open", full)
        yield


# A withdrawal that fails.


@pytest.mark.usefixtures("access")
def test_a_release_that_cannot_withdraw_is_an_error_and_can_be_done_again(
    unit: ProtectionUnit, main: MemoryPool
) -> None:
    free = main.free_size()
    memory = make(4096)
    with no_descriptors(), pytest.raises(IODeviceError, match="Too many open files") as error:
        memory.release()
    assert error.value.code is IOReturn.kIOReturnNoResources
    assert unit.grant_count == 1, "the device still reaches it,"
    assert not memory.released, "and the error says so"
    assert main.free_size() < free
    memory.release()
    assert (unit.grant_count, main.free_size()) == (0, free)


@pytest.mark.usefixtures("access")
def test_complete_and_set_direction_say_so_as_well(unit: ProtectionUnit) -> None:
    memory = make(4096, options=kIODirectionIn)
    memory.prepare()
    with no_descriptors(), pytest.raises(IODeviceError, match="Too many open files"):
        memory.complete()
    assert (unit.grant_count, memory.prepared) == (2, 2)
    memory.complete()
    with no_descriptors(), pytest.raises(IODeviceError, match="Too many open files"):
        memory.setDirection(kIODirectionOut)
    assert memory.getDirection() is IN, "devices may do what they could before"
    memory.setDirection(kIODirectionOut)
    assert unit.grant_count == 1
    memory.release()
    assert unit.grant_count == 0


@pytest.mark.usefixtures("access")
def test_a_direction_that_is_not_granted_leaves_the_old_one(
    unit: ProtectionUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, grant = make(4096, options=kIODirectionIn), unit.grant

    def none_left_for_out(address: int, length: int, direction: int, owner: int) -> int:
        if direction == IODirection.kIODirectionOut:
            raise GrantsExhausted(ProtectionStatus.FULL, "the unit is full")
        return grant(address, length, direction, owner)

    monkeypatch.setattr(unit, "grant", none_left_for_out)
    with pytest.raises(IOReturnError, match="full") as error:
        memory.setDirection(kIODirectionOut)
    assert error.value.code is IOReturn.kIOReturnNoResources
    assert memory.getDirection() is IN
    assert (unit.grant_count, memory.prepared) == (1, 1)
    memory.release()
    assert unit.grant_count == 0


def test_a_grant_that_was_taken_back_is_counted_no_more(
    unit: ProtectionUnit, access: PlatformAccess
) -> None:
    unit.grant(0x9000, 4096, int(IN), 1)
    memory = make(4096, options=kIODirectionIn)
    assert access.others == 1
    memory.release()
    assert access.others == 1, "by hand, and so it stands"


@pytest.mark.usefixtures("access")
def test_the_caller_gets_an_error_in_the_midst_of_a_command(
    unit: ProtectionUnit, lock: CommandLock
) -> None:
    """As a signal handler comes: its release() must not succeed while the device reaches it."""
    memory = make(4096)
    with lock.held():
        with pytest.raises(IONotPermittedError, match="in the middle of another one"):
            memory.release()
        assert not memory.released
    memory.release()
    assert unit.grant_count == 0


# A buffer that nobody released.


def drop(memory: list[IOBufferMemoryDescriptor]) -> None:
    """Drop the last reference to a buffer."""
    with pytest.warns(ResourceWarning, match="was not released"):
        memory.clear()


@pytest.mark.usefixtures("access")
def test_a_finalizer_in_the_midst_of_a_command_leaves_it_for_the_next_call(
    unit: ProtectionUnit, lock: CommandLock, main: MemoryPool
) -> None:
    """It has nothing to tell: the thread that it interrupts is the one to wait for."""
    free = main.free_size()
    memory = [make(4096)]
    with lock.held():
        drop(memory)
        assert main.free_size() < free, "memory that a device reaches is nobody else's"
    assert mistakes.taken() == []
    make(64).release()
    assert (unit.grant_count, main.free_size()) == (0, free)


@pytest.mark.usefixtures("access")
def test_a_finalizer_that_cannot_withdraw_tells_it_and_keeps_the_memory(
    unit: ProtectionUnit, main: MemoryPool
) -> None:
    free = main.free_size()
    memory = [make(4096)]
    with no_descriptors(), pytest.warns(IOMistakeWarning, match="devices may still reach it"):
        drop(memory)
    with no_descriptors():
        deferred.run_pending()
    (told,) = mistakes.taken()
    assert "Too many open files" in told, "told once, with the reason"
    assert unit.grant_count == 1
    assert main.free_size() < free, "memory that a device reaches is nobody else's"
    make(64).release()
    assert (unit.grant_count, main.free_size()) == (0, free)


@pytest.mark.usefixtures("access")
def test_a_finalizer_that_can_tells_nothing(unit: ProtectionUnit) -> None:
    drop([make(4096)])
    assert (unit.grant_count, mistakes.taken()) == (0, [])


# The state that a fork inherits.


def test_a_child_leaves_its_parents_grants_alone(
    unit: ProtectionUnit, access: PlatformAccess
) -> None:
    memory = make(4096)
    granted = access.grant(0x1000, 64, IN)
    grants = memory._preparations._open[0].grants
    assert grants is not None
    inherited: list[object] = list(grants._granted)

    def withdraw() -> None:
        access.withdraw(granted)
        grants.withdraw()
        memory._resources.withdraw()
        assert grants._granted == inherited
        # The model is the child's own copy, as the device is not: it shows what was told.
        assert unit.grant_count == 2

    assert in_a_child(withdraw) == 0
    access.withdraw(granted)
    memory.release()
    assert unit.grant_count == 0


@pytest.mark.usefixtures("main")
def test_a_child_that_drops_a_buffer_is_not_blamed(recwarn: pytest.WarningsRecorder) -> None:
    """The buffer was its parent's, and is the parent's to release."""
    held = [make(4096)]

    def child() -> None:
        held.clear()
        gc.collect()
        assert not [each for each in recwarn if each.category is ResourceWarning]

    assert in_a_child(child) == 0
    held[0].release()


def test_a_child_does_nothing_of_what_its_parent_left_for_later() -> None:
    tries: list[int] = []
    may: list[bool] = []

    def call() -> None:
        tries.append(1)
        if not may:
            raise IOBusyError("not yet")

    def child() -> None:
        may.append(True)
        deferred.run_pending()
        assert len(tries) == 1

    deferred.close_or_defer(call)
    assert in_a_child(child) == 0
    may.append(True)
    deferred.run_pending()
    assert len(tries) == 2


def test_a_child_reclaims_by_its_own_count(unit: ProtectionUnit, access: PlatformAccess) -> None:
    """Its parent's grants are others', and so are those of the dead."""
    granted = access.grant(0x1000, 64, IN)
    assert access.others == 0

    def look() -> None:
        assert access.others == 1
        own = access.grant(0x2000, 64, IN)
        assert access.others == 1
        access.withdraw(own)
        dead = os.fork()
        if dead == 0:
            signal.pause()
        owner = process_owner(dead)
        os.kill(dead, signal.SIGKILL)
        os.waitpid(dead, 0)
        unit.grant(0x3000, 64, 1, owner)
        access.reclaim()
        assert unit.grant_count == 1, "the dead's are gone, the parent's stay"

    assert in_a_child(look) == 0
    access.withdraw(granted)


def test_a_child_keeps_no_lock_of_its_parents_command(lock: CommandLock, tmp_path: Path) -> None:
    """A parent that is killed within a command leaves nobody waiting, whoever it forked."""
    ours, theirs = socket.socketpair()
    parent = os.fork()
    if parent == 0:
        ours.close()
        with lock.held():
            child = os.fork()
            if child == 0:
                theirs.send(b"here")
                theirs.recv(1)  # until the test closes its end
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
    theirs.close()
    assert ours.recv(4) == b"here"
    assert os.waitstatus_to_exitcode(os.waitpid(parent, 0)[1]) == -signal.SIGKILL
    fd = os.open(tmp_path / "locks" / "rig.lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)
    ours.close()


def test_a_child_may_give_commands(lock: CommandLock) -> None:
    """Also one that was forked in the middle of a command, when that has ended."""

    def command() -> None:
        with lock.held(), pytest.raises(CommandInProgress), lock.held():
            pass

    with lock.held():
        ended = begin_child(command)
    assert ended() == 0


# Evidence.


def test_evidence_that_cannot_be_asked_is_an_error(unit: ProtectionUnit, lock: CommandLock) -> None:
    evidence = PlatformEvidence(unit)
    with lock.held():
        assert evidence.untouched(0x1000, 64, IN, 0) is None, "in the midst of a command"
    with no_descriptors(), pytest.raises(IODeviceError, match="Too many open files"):
        evidence.untouched(0x1000, 64, IN, 0)


def test_what_this_access_control_did_not_grant(access: PlatformAccess) -> None:
    with pytest.raises(TypeError, match="is not a grant"):
        access.withdraw(7)
