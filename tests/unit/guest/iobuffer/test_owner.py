# SPDX-License-Identifier: Apache-2.0
"""Memory has one owner, who says what devices may do with it: between real processes."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.guest.drivers.platform.command import PlatformDeviceError
from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IOBusyError,
    IODirection,
    IOMemoryMap,
    IOOptions,
    IOReturn,
    IOReturnError,
    TaskPort,
    current_task,
    kIODirectionInOut,
    kIODirectionOut,
    kIOMapAnywhere,
    kIOMapPrefault,
    kIOMemoryKernelUserShared,
    task_of,
)
from dma_rehearsal.guest.iobuffer.base import mistakes
from dma_rehearsal.guest.iobuffer.base.flags import MapOptions
from dma_rehearsal.guest.iobuffer.base.mistakes import IOMistakeWarning
from dma_rehearsal.guest.iobuffer.base.options import CacheMode
from dma_rehearsal.guest.iobuffer.descriptors.imported_memory import ImportedMap, Mapped
from dma_rehearsal.guest.iobuffer.descriptors.remote import request
from dma_rehearsal.guest.iobuffer.memory import pool_registry
from dma_rehearsal.guest.iobuffer.memory.backing import Share
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.os import port_messages
from dma_rehearsal.guest.iobuffer.os.port_messages import Lost
from dma_rehearsal.guest.testkit.other_process import OtherProcess
from tests.unit.guest.shared_pool import ZONE, Remake

Ask = Callable[[], Any]
IN_OUT, OUT = IODirection.kIODirectionInOut, IODirection.kIODirectionOut
SHARED = kIODirectionInOut | kIOMemoryKernelUserShared
SIZE = 5000


class Grants:
    """An access control of all processes that are forked from this one; the device obeys it.

    Its file has a line for each grant and each withdrawal, in their order.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._count = 0
        self.room = True

    def grant(self, address: int, length: int, direction: IODirection) -> object:
        if not self.room:
            raise IOReturnError("full", code=IOReturn.kIOReturnNoResources)
        self._count += 1
        made = f"{os.getpid()}.{self._count}"
        self._write("grant", made, address, length, int(direction))
        return made

    def withdraw(self, grant: object) -> None:
        self._write("withdraw", grant)

    def reclaim(self) -> None:
        for pid in {int(name.partition(".")[0]) for name in self._open()}:
            with contextlib.suppress(OSError):
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
                if state not in "ZX":
                    continue
            for name in self._open():
                if name.startswith(f"{pid}."):
                    self._write("withdraw", name)

    @property
    def rights(self) -> list[IODirection]:
        """The rights of devices, by each grant in force."""
        return [direction for _, direction in self._open().values()]

    @property
    def owners(self) -> set[int]:
        """The processes whose grants are in force."""
        return {int(name.partition(".")[0]) for name in self._open()}

    def close(self) -> None:
        os.close(self._fd)

    def _open(self) -> dict[str, tuple[int, IODirection]]:
        found = {}
        for line in os.pread(self._fd, 1 << 20, 0).decode().splitlines():
            what, name, *rest = line.split()
            if what == "grant":
                found[name] = int(rest[0]), IODirection(int(rest[2]))
            else:
                found.pop(name, None)
        return found

    def _write(self, *words: object) -> None:
        os.write(self._fd, f"{' '.join(map(str, words))}\n".encode())


@pytest.fixture
def grants(tmp_path: Path) -> Iterator[Grants]:
    made = Grants(tmp_path / "grants")
    before, dma_platform.access_control = dma_platform.access_control, made
    yield made
    dma_platform.access_control = before
    made.close()


def free() -> int:
    return pool_registry.named("main").free_size()


def maps(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def is_mapped(pid: int, address: int) -> bool:
    """Whether a process has something at an address."""
    return any(line.startswith(f"{address // 4096 * 4096:x}-") for line in maps(pid).splitlines())


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread or process does by itself."""
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("it has not come to that within 30 s")


def mapper_of(remake: Remake) -> Callable[[Ask], Iterator[object]]:
    """Return a process that opens a port, and says what is at the addresses that it is told."""

    def body(ask_test: Ask) -> Iterator[object]:
        remake()
        with TaskPort() as port:
            yield port.handle
            while (address := ask_test()) is not None:
                yield ctypes.string_at(address, SIZE)

    return body


def taker_of(remake: Remake) -> Callable[[Ask], Iterator[object]]:
    """Return a process that takes one buffer, and calls what it is told of it."""

    def body(ask_test: Ask) -> Iterator[object]:
        remake()
        with TaskPort() as port:
            yield port.handle
            ask_test()
            memory = port.receive(timeout=20)
            yield os.getpid()
            while (call := ask_test()) is not None:
                try:
                    yield getattr(memory, call[0])(*call[1:])
                except IOReturnError as error:
                    yield error.code

    return body


def tell(other: OtherProcess, *call: object) -> Any:
    other.tell(call)
    return other.hear()


# A mapping in another process.


def test_who_maps_grants_nothing(remake: Remake, grants: Grants) -> None:
    with OtherProcess(mapper_of(remake)) as other:
        task = task_of(other.hear())
        with IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), SHARED, SIZE) as memory:
            mapped = memory.createMappingInTask(task, 0, kIOMapAnywhere | kIOMapPrefault)
            memory.writeBytes(0, b"word" * 1250)
            other.tell(mapped.getVirtualAddress())
            assert other.hear() == b"word" * 1250, "and that is all that it does"
            assert (grants.rights, grants.owners) == ([IN_OUT], {os.getpid()})
            memory.setDirection(kIODirectionOut)
            assert grants.rights == [OUT], "the device may write no more, whoever maps it"
            memory.prepare()
            assert grants.rights == [OUT, OUT]
            memory.complete()
            mapped.unmap()
        assert grants.rights == []


def test_unmap_returns_when_it_is_unmapped_there(remake: Remake) -> None:
    with OtherProcess(mapper_of(remake)) as other:
        task = task_of(other.hear())
        with IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), SHARED, SIZE) as memory:
            for _ in range(20):
                mapped = memory.createMappingInTask(task)
                address = mapped.getVirtualAddress()
                assert is_mapped(other.pid, address)
                mapped.unmap()
                assert not is_mapped(other.pid, address)


def test_a_task_that_does_not_answer(remake: Remake, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the memory mapped still, so unmap() is an error, and can be called again."""
    with OtherProcess(mapper_of(remake)) as other:
        task = task_of(other.hear())
        memory = IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), SHARED, SIZE)
        mapped = memory.createMappingInTask(task)
        address = mapped.getVirtualAddress()
        other.stop()
        monkeypatch.setattr(port_messages, "PATIENCE", 0.2)
        for _ in range(2):
            with pytest.raises(Lost, match=r"task \d+ does not answer to 'end' within 0.2 s"):
                mapped.unmap()
        assert not mapped.unmapped
        with pytest.raises(IOBusyError, match="1 mapping"):
            memory.release()
        other.go_on()
        monkeypatch.undo()
        mapped.unmap()
        assert not is_mapped(other.pid, address)
        memory.release()


def test_a_task_that_has_died_has_nothing_mapped(remake: Remake) -> None:
    before = free()
    with OtherProcess(mapper_of(remake)) as other:
        task = task_of(other.hear())
        with IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), SHARED, SIZE) as memory:
            mapped = memory.createMappingInTask(task)
            other.kill()
            mapped.unmap()
    assert free() == before


def test_a_port_that_closes_unmaps_before_it_lets_go(remake: Remake) -> None:
    with OtherProcess(mapper_of(remake)) as other:
        task = task_of(other.hear())
        with IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), SHARED, SIZE) as memory:
            mapped = memory.createMappingInTask(task)
            other.tell(None)
            mapped.unmap()
    assert free() == ZONE.size


def test_a_dropped_mapping_goes_by_itself(remake: Remake) -> None:
    with OtherProcess(mapper_of(remake)) as other:
        task = task_of(other.hear())
        with IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), SHARED, SIZE) as memory:
            mapped = memory.createMappingInTask(task)
            address = mapped.getVirtualAddress()
            with pytest.warns(ResourceWarning, match="was not unmapped"):
                del mapped
            until(lambda: not is_mapped(other.pid, address))


@pytest.mark.usefixtures("remake")
def test_an_unmap_that_fails_there_is_told_and_can_be_done_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    withdraw = ImportedMap.withdraw

    def refuse(_: ImportedMap) -> None:
        raise PlatformDeviceError("the platform answers nonsense")

    with TaskPort() as port:
        memory = IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), SHARED, SIZE)
        with memory, memory_in(port, memory) as mapped:
            monkeypatch.setattr(ImportedMap, "withdraw", refuse)
            with pytest.raises(IOReturnError, match="the platform answers nonsense") as error:
                mapped.unmap()
            assert error.value.code is IOReturn.kIOReturnError
            assert not mapped.unmapped
            monkeypatch.setattr(ImportedMap, "withdraw", withdraw)


def memory_in(port: TaskPort, memory: IOBufferMemoryDescriptor) -> IOMemoryMap:
    """Map memory through a port of this process, as if it were another one's."""
    details = {
        "options": int(SHARED),
        "capacity": SIZE,
        "map_options": int(kIOMapAnywhere),
        "map_address": 0,
        "cache": 0,
        "offset": 0,
        "length": SIZE,
    }
    task = task_of(port.handle)
    remote = request(task, "map", memory.backing.share(), details)
    return IOMemoryMap(
        memory,
        task,
        remote.address,
        SIZE,
        offset=0,
        options=MapOptions.kIOMapAnywhere,
        cache_mode=memory.cache_mode,
        mapping=None,
        unmap=remote.close,
    )


# A buffer that is made in another process.


def test_the_maker_is_the_owner_until_its_release(remake: Remake, grants: Grants) -> None:
    before = free()
    with OtherProcess(taker_of(remake)) as other:
        memory = IOBufferMemoryDescriptor.inTaskWithOptions(
            task_of(other.hear()), kIODirectionInOut, SIZE
        )
        other.tell()
        there = other.hear()
        assert (grants.rights, grants.owners) == ([IN_OUT], {os.getpid()})
        assert tell(other, "prepare") is IOReturn.kIOReturnBusy
        assert tell(other, "setDirection", 1) is IOReturn.kIOReturnBusy
        assert grants.rights == [IN_OUT]
        memory.setDirection(kIODirectionOut)
        assert grants.rights == [OUT]
        assert tell(other, "getDirection") is OUT, "the direction is the memory's"
        memory.release()
        assert (grants.rights, grants.owners) == ([OUT], {there}), "it is the task's from now on"
        assert tell(other, "prepare", 2) is None
        assert grants.rights == [OUT, OUT]
        assert tell(other, "complete") is None
        assert tell(other, "setDirection", 3) is None
        assert (grants.rights, grants.owners) == ([IN_OUT], {there})
        assert tell(other, "release") is None
        assert grants.rights == []
    assert free() == before


def test_the_task_lets_go_before_the_maker(remake: Remake, grants: Grants) -> None:
    with OtherProcess(taker_of(remake)) as other:
        memory = IOBufferMemoryDescriptor.inTaskWithOptions(
            task_of(other.hear()), kIODirectionInOut, SIZE
        )
        other.tell()
        other.hear()
        assert tell(other, "release") is None
        assert (grants.rights, grants.owners) == ([IN_OUT], {os.getpid()})
        memory.setDirection(kIODirectionOut)
        memory.release()
        assert grants.rights == []
    assert free() == ZONE.size


@pytest.mark.parametrize("end", ["released", "dropped", "killed"])
def test_the_port_may_be_closed_when_the_maker_lets_go(
    remake: Remake, grants: Grants, end: str
) -> None:
    """Dropped without release(), or by a process that is killed, it is the task's as well."""
    with TaskPort() as port:
        handle = port.handle

        def maker(ask_test: Ask) -> Iterator[object]:
            remake()
            held = [
                IOBufferMemoryDescriptor.inTaskWithOptions(task_of(handle), kIODirectionInOut, SIZE)
            ]
            held[0].prepare()  # the living do not inherit the preparations of the dead
            yield os.getpid()
            ask_test()
            held[0].complete()
            held[0].setDirection(kIODirectionOut)
            if ask_test() == "released":
                held[0].release()
            held.clear()
            yield "done"
            ask_test()

        other = OtherProcess(maker)
        there = other.hear()
        memory = port.receive(timeout=20)
    with other:
        assert grants.owners == {there}
        assert memory.getDirection() is IN_OUT
        if end == "killed":
            other.kill()
        else:
            other.tell()
            other.tell(end)
            assert other.hear() == "done"
        due = IN_OUT if end == "killed" else OUT
        assert memory.getDirection() is due
        assert (grants.rights, grants.owners) == ([due], {os.getpid()})
        memory.prepare()
        memory.complete()
        memory.release()
        assert grants.rights == []
    assert free() == ZONE.size


def fork_and_stay(ours: socket.socket, theirs: socket.socket) -> None:
    """Fork a child that lives until the test has closed ``ours``; return when it runs."""
    if os.fork() == 0:
        ours.close()
        theirs.send(b"here")
        theirs.recv(1)
        os._exit(0)
    ours.recv(4)


def test_the_end_of_a_maker_shows_whoever_it_has_forked(remake: Remake, grants: Grants) -> None:
    """Its child has no copy of its connections, which would hide the end."""
    ours, theirs = socket.socketpair()
    with TaskPort() as port:
        handle = port.handle

        def maker(ask_test: Ask) -> Iterator[object]:
            remake()
            made = IOBufferMemoryDescriptor.inTaskWithOptions(
                task_of(handle), kIODirectionInOut, SIZE
            )
            if os.fork() == 0:
                ours.close()
                theirs.recv(1)  # until the test closes its end
                os._exit(0)
            yield made.getPhysicalAddress()
            ask_test()

        with OtherProcess(maker) as other:
            place = other.hear()
            memory = port.receive(timeout=20)
            other.kill()
            assert memory.getPhysicalAddress() == place
            assert (grants.rights, grants.owners) == ([IN_OUT], {os.getpid()})
            memory.release()
        assert grants.rights == []
    ours.close()
    theirs.close()


def test_the_end_of_a_task_shows_whoever_it_has_forked(remake: Remake) -> None:
    ours, theirs = socket.socketpair()

    def mapper(ask_test: Ask) -> Iterator[object]:
        remake()
        with TaskPort() as port:
            yield port.handle
            ask_test()
            fork_and_stay(ours, theirs)
            yield None
            ask_test()

    with OtherProcess(mapper) as other:
        task = task_of(other.hear())
        with IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), SHARED, SIZE) as memory:
            mapped = memory.createMappingInTask(task)
            other.tell()
            other.hear()
            other.kill()
            mapped.unmap()
    ours.close()
    theirs.close()


def test_a_child_of_the_owner_ends_nothing(remake: Remake, grants: Grants) -> None:
    """It drops what it has inherited; the mapping stays, and so does the maker's say."""
    with OtherProcess(mapper_of(remake)) as other, OtherProcess(taker_of(remake)) as taker:
        task = task_of(other.hear())
        memory = [IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), SHARED, SIZE)]
        mapped = [memory[0].createMappingInTask(task)]
        made = [
            IOBufferMemoryDescriptor.inTaskWithOptions(
                task_of(taker.hear()), kIODirectionInOut, SIZE
            )
        ]
        taker.tell()
        taker.hear()
        child = os.fork()
        if child == 0:
            for each in mapped, memory, made:
                each.clear()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert is_mapped(other.pid, mapped[0].getVirtualAddress())
        assert tell(taker, "prepare") is IOReturn.kIOReturnBusy
        assert grants.rights == [IN_OUT, IN_OUT]
        mapped[0].unmap()
        memory[0].release()
        made[0].release()
        assert tell(taker, "prepare") is None


def test_a_release_that_the_task_does_not_answer(
    remake: Remake, grants: Grants, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices have lost the memory, and it is nobody else's: the call can be made again."""
    with OtherProcess(taker_of(remake)) as other:
        memory = IOBufferMemoryDescriptor.inTaskWithOptions(
            task_of(other.hear()), kIODirectionInOut, SIZE
        )
        other.tell()
        there = other.hear()
        other.stop()
        monkeypatch.setattr(port_messages, "PATIENCE", 0.2)
        with pytest.raises(Lost, match="does not answer to 'direction'"):
            memory.setDirection(kIODirectionOut)
        assert (memory.getDirection(), grants.rights) == (IN_OUT, [IN_OUT])
        with pytest.raises(Lost, match="does not answer to 'end'"):
            memory.release()
        assert not memory.released
        assert grants.rights == []
        other.go_on()
        monkeypatch.undo()
        memory.release()
        assert (grants.rights, grants.owners) == ([IN_OUT], {there})
        assert tell(other, "getDirection") is IN_OUT


def makes_and_releases(
    remake: Remake, handle: str, direction: IOOptions
) -> Callable[[Ask], Iterator[object]]:
    """Make a buffer in the task, and release it when the test asks."""

    def maker(ask_test: Ask) -> Iterator[object]:
        remake()
        made = IOBufferMemoryDescriptor.inTaskWithOptions(task_of(handle), direction, SIZE)
        yield None
        ask_test()
        made.release()
        yield None

    return maker


def test_no_room_for_the_grants_of_the_new_owner(remake: Remake, grants: Grants) -> None:
    """Its buffer has none then; it is prepared as soon as there is room."""
    with TaskPort() as port:
        with OtherProcess(makes_and_releases(remake, port.handle, kIODirectionInOut)) as other:
            other.hear()
            memory = port.receive(timeout=20)
            grants.room = False
            other.tell()
            other.hear()
        assert (grants.rights, memory.prepared) == ([], 0)
        with pytest.raises(IOReturnError, match="full"):
            memory.prepare()
        grants.room = True
        assert memory.getLength() == SIZE
        assert (grants.rights, memory.prepared) == ([IN_OUT], 1)
        memory.release()
        assert grants.rights == []


def test_what_the_task_does_not_take_is_not_made(remake: Remake, grants: Grants) -> None:
    before = free()
    with OtherProcess(mapper_of(remake)) as other:
        task = task_of(other.hear())
        other.kill()
        with pytest.raises(Lost, match="does not answer"):
            IOBufferMemoryDescriptor.inTaskWithOptions(task, kIODirectionInOut, SIZE)
    assert (grants.rights, free()) == ([], before)


class Mapper:
    """A mapper that keeps what it maps: bus address -> what devices may do."""

    def __init__(self) -> None:
        self.open: dict[int, tuple[bool, bool]] = {}

    def map(
        self,
        va: int,
        length: int,  # noqa: ARG002
        *,
        read: bool,
        write: bool,
        address: int | None = None,
        alignment: int = 1,  # noqa: ARG002
        bits: int = 64,  # noqa: ARG002
        grant: bool = True,  # noqa: ARG002
    ) -> Mapping:
        at = va if address is None else address
        self.open[at] = read, write
        return Mapping(self.open, at)


class Mapping:
    def __init__(self, opened: dict[int, tuple[bool, bool]], address: int) -> None:
        self._opened, self.address = opened, address

    def close(self) -> None:
        del self._opened[self.address]


def test_behind_a_mapper_a_device_reaches_what_is_the_tasks(
    remake: Remake, grants: Grants, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before it is: who maps it for the device says what that one may do."""
    with (
        TaskPort() as port,
        OtherProcess(makes_and_releases(remake, port.handle, kIODirectionOut)) as other,
    ):
        other.hear()
        books = Mapper()
        monkeypatch.setattr(dma_platform, "iommu", books)
        # The port's thread has made the buffer, perhaps before: make it one for the mapper.
        memory = port.receive(timeout=20)
        monkeypatch.setattr(memory._resources.window, "_iommu", books)
        assert (books.open, memory.prepared) == ({}, 0)
        other.tell()
        other.hear()
        assert memory.getLength() == SIZE
        assert list(books.open.values()) == [(True, False)]
        assert grants.rights == [OUT]
        memory.release()
        assert books.open == {}


# The port.


@pytest.mark.parametrize(
    "error",
    [PlatformDeviceError("the platform answers nonsense"), RuntimeError("a bug"), OSError(5, "x")],
)
@pytest.mark.usefixtures("remake")
def test_the_port_outlives_what_a_call_raises(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The asker gets it as an error, and the next one is answered."""

    def refuse(*_: object) -> None:
        raise error

    with TaskPort() as port:
        memory = IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), SHARED, SIZE)
        with memory:
            with monkeypatch.context() as patched:
                patched.setattr(Mapped, "createMappingInTask", refuse)
                with pytest.raises(IOReturnError, match=type(error).__name__) as told:
                    memory_in(port, memory)
                assert told.value.code is IOReturn.kIOReturnError
                assert str(error) in told.value.reason
            memory_in(port, memory).unmap()


@pytest.mark.usefixtures("remake")
def test_what_goes_wrong_in_the_port_itself_is_told(monkeypatch: pytest.MonkeyPatch) -> None:

    def refuse(*_: object) -> None:
        raise RuntimeError("a bug")

    with TaskPort() as port:
        memory = IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), SHARED, SIZE)
        with memory:
            with monkeypatch.context() as patched:
                patched.setattr(port, "_answer", refuse)
                with pytest.warns(IOMistakeWarning, match="a bug"), pytest.raises(Lost):
                    memory_in(port, memory)
            mistakes.taken()
            memory_in(port, memory).unmap()


@pytest.mark.usefixtures("remake")
def test_an_asker_that_says_nothing_keeps_nobody_waiting() -> None:
    with TaskPort() as port, contextlib.ExitStack() as stack:
        for _ in range(8):
            silent = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            silent.connect(f"\0{port.handle}")
        memory = IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), SHARED, SIZE)
        with memory:
            memory_in(port, memory).unmap()


@pytest.mark.usefixtures("remake")
def test_no_descriptor_for_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The asker waits until there is one."""
    failed: list[int] = []
    accept = socket.socket.accept

    def full(listener: socket.socket) -> Any:
        if len(failed) < 3:
            failed.append(errno.EMFILE)
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", full)
    with TaskPort() as port:
        memory = IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), SHARED, SIZE)
        with memory:
            memory_in(port, memory).unmap()
    assert len(failed) == 3


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"call": "erase"}, "kIOReturnBadArgument"),
        ({}, "kIOReturnBadArgument"),
        ({"call": "direction"}, "kIOReturnBadArgument"),
        ({"call": "direction", "direction": 4}, "kIOReturnBadArgument"),
        ({"call": "direction", "direction": "x"}, "kIOReturnBadArgument"),
        ([], "kIOReturnNotAttached"),
    ],
)
@pytest.mark.usefixtures("remake")
def test_nonsense_from_a_maker_is_answered_and_changes_nothing(
    grants: Grants, message: object, code: str
) -> None:
    with TaskPort() as port:
        claimed = IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), SHARED, SIZE)
        remote = request(
            task_of(port.handle),
            "make",
            claimed.backing.share(),
            {"options": int(kIODirectionInOut), "capacity": SIZE, "alignment": 1},
        )
        memory = port.receive(timeout=20)
        remote._connection.send(json.dumps(message).encode())
        answer = json.loads(remote._connection.recv(4096))
        assert IOReturn(answer["code"]).name == code
        with pytest.raises(IOBusyError, match="its maker"):
            memory.prepare()
        remote.close()
        claimed.release()
        assert grants.rights == [IN_OUT]
        memory.release()
    assert grants.rights == []


def test_late_answers_are_no_answers_to_later_calls() -> None:
    """An answer with another number belongs to a call that nobody waits for any more."""
    handle = f"dma-rehearsal-task-nobody:{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"\0{handle}")
        listener.listen(1)

        def reply(_ask: Ask) -> Iterator[object]:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.send(b'{"address": 1}')
                connection.recv(4096)
                connection.send(b'{"number": 0}')
                connection.send(b'{"number": 1, "code": 3758097084, "reason": "late"}')
                yield None
                connection.recv(4096)

        with OtherProcess(reply) as other:
            remote = request(
                task_of(handle), "make", Share("file", "main", 0, 1, CacheMode.COPYBACK, ()), {}
            )
            with pytest.raises(IOReturnError, match="late"):
                remote.close()
            other.hear()
            other.kill()
            remote.close()
