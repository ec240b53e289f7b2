# SPDX-License-Identifier: Apache-2.0
"""Files of a client's memory, whose bytes are not there when they are needed: no SIGBUS.

What would raise it, were the file mapped, runs in a child.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import subprocess
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.layout import DmaCtl, DmaReason, Ext, Reg
from dma_rehearsal.device.platform.file_memory import FileMemory, MemoryGone
from dma_rehearsal.device.vfio_user import client_memory
from dma_rehearsal.device.vfio_user.client_memory import FileView, MappedFile, View, inspect
from dma_rehearsal.device.vfio_user.dma_map import DmaMap
from dma_rehearsal.device.vfio_user.errors import RemoteProtocolError, Unmapped
from tests.unit.device.processes import running
from tests.unit.vfio_user.client import RawClient, Refused
from tests.unit.vfio_user.connected_endpoint import FIRST, ConnectedEndpoint

PAGE = 4096
SIZE = 1 << 20
BASE = 0x10_0000


def survives(action: Callable[[], None]) -> None:
    """Run an action in a child, which must not die of it."""
    child = os.fork()
    if not child:
        status = 1
        with contextlib.suppress(BaseException):
            try:
                action()
                status = 0
            except BaseException:
                traceback.print_exc()
        os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, f"signal {-code}" if code < 0 else "see standard error"


def mapped(descriptor: int, *, size: int = SIZE, flags: int = 3) -> DmaMap:
    made = DmaMap()
    made.add(BASE, size, flags, 0, descriptor)
    return made


def only(views: list[View]) -> View:
    (view,) = views
    return view


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "small", str(folder)],
        check=False,
        capture_output=True,
        text=True,
    )
    if made.returncode:
        pytest.skip(f"a tmpfs must be mounted, which takes root: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def sparse(small_disk: Path) -> Iterator[int]:
    """A file of 1 MiB, all of it a hole, where there is no room for more than one page."""
    descriptor = os.open(small_disk / "memory", os.O_RDWR | os.O_CREAT)
    os.ftruncate(descriptor, SIZE)
    (small_disk / "other").write_bytes(bytes(15 * PAGE))
    yield descriptor
    os.close(descriptor)


# Memory that is taken away.


def test_cut_behind_the_question(unsealed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as a client that is fast enough can do."""
    found = mapped(unsealed)
    monkeypatch.setattr(client_memory._CopiedFile, "holds", lambda *_: True)

    def access() -> None:
        os.ftruncate(unsealed, PAGE + 100)
        view = only(found.views(BASE + PAGE, PAGE, write=False))
        with pytest.raises(Unmapped) as fault:
            bytes(view)
        assert fault.value.address == BASE + PAGE + 100
        with pytest.raises(Unmapped) as fault:
            bytes(view[200:300])
        assert fault.value.address == BASE + PAGE + 200

    survives(access)
    found.clear()


def test_full_file_system(sparse: int) -> None:
    """A hole reads as zeros; behind the last page for which there is room nothing is stored."""
    found = mapped(sparse)

    def access() -> None:
        assert bytes(only(found.views(BASE, SIZE, write=False))) == bytes(SIZE)
        view = only(found.views(BASE + 8 * PAGE, 3 * PAGE, write=True))
        with pytest.raises(Unmapped) as fault:
            view[:] = b"x" * 3 * PAGE
        assert fault.value.address == BASE + 9 * PAGE
        assert bytes(view[:PAGE]) == b"x" * PAGE
        assert bytes(view[PAGE:]) == bytes(2 * PAGE)

    survives(access)
    found.clear()


def test_full_file_system_of_a_device_process(sparse: int, tmp_path: Path) -> None:
    """The DMA is refused, and both devices go on."""
    sockets = tmp_path / "sockets"
    sockets.mkdir()
    with running(sockets) as process, RawClient(sockets / "exerciser") as client:
        client.region_write(7, 4, b"\6\0")
        client.dma_map(BASE, SIZE, sparse)
        client.write32(0, Reg.DMA_LEN, 2 * PAGE)
        for number, direction, reason in (
            (1, DmaCtl.WRITE_MEMORY, DmaReason.UNMAPPED),
            (2, DmaCtl(0), DmaReason.NONE),
        ):
            client.write32(0, Reg.DMA_BUS_ADDR_LO, BASE)
            client.write32(0, Reg.DMACTL, DmaCtl.TRIGGER | direction)
            client.write32(3, Ext.RECORD_SELECT, number)
            assert client.read32(3, Ext.RECORD_REASON) == reason
        assert process.poll() is None
        with RawClient(sockets / "platform") as platform:
            assert platform.region_read(7, 0, 2) == b"\x34\x12"


def test_endpoint_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = ConnectedEndpoint(sealed=False)
    bus = rig.endpoint.bus
    monkeypatch.setattr(client_memory._CopiedFile, "holds", lambda *_: True)

    def access() -> None:
        os.ftruncate(rig.memory, 3 * PAGE)  # FIRST is of its third page, and the one behind
        outcomes: list[object] = []
        bus.read_async(FIRST + PAGE - 4, 8, outcomes.append)
        rig.endpoint.go_on()
        (refusal,) = outcomes
        assert isinstance(refusal, DmaRefused)
        assert (refusal.reason, refusal.address) == (DmaReason.UNMAPPED, FIRST + PAGE)
        with pytest.raises(DmaRefused, match="UNMAPPED"):
            bus.read(FIRST + PAGE, 4)
        assert bus.read(FIRST, 4) == bytes(4)

    survives(access)
    rig.close()


def test_cache_model_finds_it_gone(unsealed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = mapped(unsealed)
    (place,) = found.file_ranges(BASE, SIZE, write=True)
    memory = FileMemory()
    monkeypatch.setattr(client_memory._CopiedFile, "holds", lambda *_: True)

    def access() -> None:
        with memory.lent([place]):
            memory.write(place.file, PAGE, b"here")
            assert memory.read(place.file, PAGE, 4) == b"here"
            os.ftruncate(unsealed, PAGE)
            with pytest.raises(MemoryGone) as gone:
                memory.read(place.file, PAGE, 4)
            assert gone.value.address == PAGE

    survives(access)
    found.clear()


# Huge pages.


def test_kernel_copies_into_a_mapping() -> None:
    """Without huge pages: a plain file's mapping, of which the file is cut off."""
    descriptor = os.memfd_create("plain")
    os.ftruncate(descriptor, SIZE)
    file = client_memory._HugeFile(inspect(descriptor))
    data = bytes(range(256)) * (SIZE // 256)
    assert file.write(0, data) == SIZE
    assert os.pread(descriptor, SIZE, 0) == data
    os.ftruncate(descriptor, 2 * SIZE)
    file.grow(descriptor, 2 * SIZE)
    assert file.write(SIZE + 5, b"grown") == 5
    assert file.read(SIZE + 5, 5) == b"grown"

    def access() -> None:
        os.ftruncate(descriptor, PAGE)
        assert file.write(PAGE - 4, b"12345678") == 4
        assert file.write(SIZE, b"x") == 0

    survives(access)
    os.close(descriptor)


def test_huge_pages() -> None:
    """They are reached where there are some, and refused when they are mapped where not."""
    try:
        descriptor = os.memfd_create("huge", os.MFD_HUGETLB | os.MFD_ALLOW_SEALING)
    except OSError as error:
        pytest.skip(f"a kernel with huge pages is needed (CONFIG_HUGETLBFS): {error}")
    huge = os.fstat(descriptor).st_blksize
    os.ftruncate(descriptor, huge)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    try:
        mmap.mmap(descriptor, huge).close()
    except OSError:
        with pytest.raises(RemoteProtocolError) as refusal:
            mapped(descriptor, size=huge)
        assert refusal.value.errno == errno.EINVAL
        reading = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY)
        with_holes = mapped(reading, size=huge, flags=1)
        survives(lambda: check_zeros(with_holes))
        with_holes.clear()
        os.close(reading)
    else:
        found = mapped(descriptor, size=huge)
        view = only(found.views(BASE + 5, 10, write=True))
        view[:] = b"0123456789"
        assert bytes(only(found.views(BASE, 16, write=False))) == bytes(5) + b"0123456789\0"
        found.clear()
    os.close(descriptor)


def check_zeros(found: DmaMap) -> None:
    assert bytes(only(found.views(BASE, 16, write=False))) == bytes(16)


# Ways to reach a file.


def test_memory_that_cannot_shrink_is_mapped(sealed: int, unsealed: int) -> None:
    found = DmaMap()
    for address, descriptor, kind in ((BASE, sealed, memoryview), (0, unsealed, FileView)):
        found.add(address, PAGE, 3, 0, descriptor)
        assert isinstance(only(found.views(address, 4, write=True)), kind)
        assert (found.mapped_range(address, write=True) is not None) is (kind is memoryview)
    found.clear()


def test_pages_that_may_be_refused_are_not_mapped(
    sealed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With vm.overcommit_memory=2 a memfd's page can be refused, and then SIGBUS is raised."""
    setting = tmp_path / "overcommit_memory"
    monkeypatch.setattr(client_memory, "_OVERCOMMIT", setting)
    for value, maps in (("0\n", True), ("1\n", True), ("2\n", False)):
        setting.write_text(value)
        assert isinstance(inspect(sealed).open(), MappedFile) is maps
    setting.unlink()
    assert isinstance(inspect(sealed).open(), MappedFile)


def test_memory_that_is_sealed_against_writing() -> None:
    descriptor = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.write(descriptor, b"constant".ljust(PAGE))
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE)
    for flags in (2, 3):
        with pytest.raises(RemoteProtocolError):
            mapped(descriptor, size=PAGE, flags=flags)
    found = mapped(descriptor, size=PAGE, flags=1)
    assert bytes(only(found.views(BASE, 8, write=False))) == b"constant"
    found.clear()
    os.close(descriptor)


def test_view_is_as_a_memoryview_is(unsealed: int) -> None:
    os.pwrite(unsealed, b"0123456789", 0)
    found = mapped(unsealed)
    view = only(found.views(BASE, 10, write=True))
    assert (len(view), len(view[2:5]), len(view[5:2]), len(view[8:99])) == (10, 3, 0, 2)
    assert bytes(view[2:8][1:3]) == b"34"
    view[2:8][1:3] = memoryview(b"xy")
    assert os.pread(unsealed, 10, 0) == b"012xy56789"
    for data in (b"", b"12345678901"):
        with pytest.raises(ValueError, match="for 10"):
            view[:] = data
    view[3:3] = b""
    assert bytes(view[4:4]) == b""
    found.clear()
    assert bytes(view[:3]) == b"012", "it outlives its mapping"


def test_one_file_by_descriptors_of_different_rights(unsealed: int) -> None:
    """It is one memory, for whoever asks by which file two addresses lie."""
    reading = os.open(f"/proc/self/fd/{unsealed}", os.O_RDONLY)
    found = DmaMap()
    found.add(BASE, PAGE, 1, 0, reading)
    found.add(0, PAGE, 3, 0, unsealed)
    (first,), (second,) = (found.file_ranges(each, 4, write=False) for each in (BASE, 0))
    assert first.file == second.file
    only(found.views(0, 4, write=True))[:] = b"both"
    assert bytes(only(found.views(BASE, 4, write=False))) == b"both"
    found.clear()
    os.close(reading)


def test_descriptors_are_given_back(unsealed: int) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # a count, no paths
    found = mapped(unsealed)
    assert len(os.listdir("/proc/self/fd")) == before + 1  # noqa: PTH208
    view = only(found.views(BASE, 4, write=False))
    found.remove(BASE, SIZE)
    assert bytes(view) == bytes(4)
    del view
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


# Descriptors of other things than memory.


def others(folder: Path) -> Iterator[tuple[str, int]]:
    """Descriptors that lead to no file, or to one that the client may serve."""
    read_end, write_end = os.pipe()
    os.close(write_end)
    file = folder / "file"
    file.write_bytes(bytes(PAGE))
    yield "pipe", read_end
    yield "process", os.open("/proc/self/maps", os.O_RDONLY)
    yield "attribute", os.open("/sys/kernel/uevent_seqnum", os.O_RDONLY)
    yield "device", os.open("/dev/zero", os.O_RDWR)
    yield "folder", os.open(folder, os.O_RDONLY)
    yield "path", os.open(file, os.O_PATH)
    yield "eventfd", os.eventfd(0)


def test_what_is_no_memory_is_refused(client: RawClient, tmp_path: Path) -> None:
    for kind, descriptor in others(tmp_path):
        with pytest.raises(Refused) as refusal:
            client.dma_map(BASE, PAGE, descriptor, flags=1)
        assert refusal.value.errno == errno.EINVAL, kind
        os.close(descriptor)


def test_file_on_a_disk(client: RawClient, tmp_path: Path) -> None:
    file = tmp_path / "firmware"
    file.write_bytes(bytes(SIZE))
    with file.open("r+b") as opened:
        client.dma_map(BASE, SIZE, opened.fileno())
    with file.open("rb") as opened:
        client.dma_map(0, PAGE, opened.fileno(), flags=1)


@pytest.mark.parametrize("kind", ["fuse", "fuse.sshfs", "nfs4", "9p", None])
def test_file_that_a_peer_may_serve_is_asked_nothing(
    unsealed: int, kind: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size, too, may never come."""

    def ask(_descriptor: int) -> os.stat_result:
        raise AssertionError("asked")

    with monkeypatch.context() as patch:
        patch.setattr(client_memory, "_seals", lambda _: None)
        patch.setattr(client_memory, "_mounted", lambda _: kind)
        patch.setattr(os, "fstat", ask)
        with pytest.raises(RemoteProtocolError, match="use memory") as refusal:
            inspect(unsealed)
    assert refusal.value.errno == errno.EINVAL


# Many runs at once.


def every_other(length: int) -> list[tuple[int, int]]:
    return [(first, first + 1) for first in range(0, length, 2)]


@pytest.mark.parametrize("seals", [0, fcntl.F_SEAL_SHRINK], ids=["copied", "mapped"])
def test_runs_are_stored_with_few_calls_and_nothing_between_them(
    seals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptor = os.memfd_create("runs", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, SIZE)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    made = mapped(descriptor)
    (place,) = made.file_ranges(BASE + PAGE, 2 * PAGE, write=True)
    assert isinstance(place.memory, FileView if not seals else memoryview)
    calls: list[str] = []

    def counted(name: str) -> Callable[..., int]:
        sound: Callable[..., int] = getattr(os, name)

        def call(*how: object) -> int:
            calls.append(name)
            return sound(*how)

        return call

    for name in ("pwrite", "preadv"):
        monkeypatch.setattr(os, name, counted(name))
    memory = FileMemory()
    with memory.lent([place]):
        mask = b"\xff\0" * PAGE
        memory.write_where(place.file, PAGE, b"ab" * PAGE, mask)
    assert calls == ([] if seals else ["pwrite", "preadv"] * 4)
    assert os.pread(descriptor, 2 * PAGE + 2, PAGE) == b"a\0" * PAGE + b"\0\0"
    os.close(descriptor)


def test_runs_in_what_was_cut_are_told() -> None:
    def action() -> None:
        descriptor = os.memfd_create("runs")
        os.ftruncate(descriptor, SIZE)
        found = inspect(descriptor).open()
        view = found.part(0, 2 * PAGE, BASE)
        assert isinstance(view, FileView)
        view.write_runs(b"x" * 2 * PAGE, every_other(2 * PAGE))
        os.ftruncate(descriptor, PAGE)
        with pytest.raises(Unmapped) as failure:
            view.write_runs(b"y" * 2 * PAGE, every_other(2 * PAGE))
        assert failure.value.address == BASE + PAGE
        assert os.pread(descriptor, SIZE, 0) == b"y\0" * (PAGE // 2)

    survives(action)


def test_runs_in_what_can_only_be_written(tmp_path: Path) -> None:
    """It cannot be mapped so: each run is a call of its own."""
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGE))
    descriptor = os.open(path, os.O_WRONLY)
    view = inspect(descriptor).open().part(0, PAGE, BASE)
    assert isinstance(view, FileView)
    view.write_runs(b"z" * PAGE, every_other(PAGE))
    assert path.read_bytes() == b"z\0" * (PAGE // 2)
    os.close(descriptor)
