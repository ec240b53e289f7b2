"""The module's pins and kernel mappings, used directly: pages stay, and everybody sees the same."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import socket
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import page_frames
import pytest
from iobuffer import CacheMode, IOBusyError, IOCannotWireError, IODeviceError, IOReturn
from iobuffer.carveout import find_zones
from iobuffer.driver import Driver
from iobuffer.pin import KernelMap, Pin
from iobuffer.uapi import PIN_MAX
from layout import WitnessStatus
from page_frames import HUGE, MAP_HUGETLB, PAGE, Region
from swap import zram_swap

from suite.attestation import Attest, CheckFailed
from suite.bench import EFFECTIVE, Bench, described
from suite.patterns import Patterns, difference, inverted

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.usefixtures("unprotected"),
    pytest.mark.any_device,
    pytest.mark.unlimited("addresses"),  # pages are wherever the kernel finds them
]

PINNED, UNPINNED, KERNEL_MAPPING = "pinned pages", "unpinned pages", "kernel mapping"
Segments = list[tuple[int, int]]


def pieces(bench: Bench, segments: Segments) -> Iterator[tuple[int, int, int]]:
    """Yield (offset, address, length) of DMAs that cover the segments in order."""
    offset = 0
    for start, length in segments:
        for at, part in bench.parts(start, length):
            yield offset + at, start + at, part
        offset += length


def device_sees(bench: Bench, segments: Segments, data: bytes) -> None:
    """Let the device read the segments; they must hold ``data``."""
    total = 0
    for offset, address, part in pieces(bench, segments):
        chunk = data[offset : offset + part]
        bench.load(inverted(chunk))
        due = zlib.crc32(chunk)
        record = bench.move(address, part, due, write_memory=False)
        if record is not None and record.crc32 != due:
            raise CheckFailed(
                f"{part} bytes at {address:#x}, offset {offset:#x} of {len(data)}: the device's "
                f"CRC is {record.crc32:08x}, that of the bytes there {due:08x}"
            )
        total += part
    if total != len(data):
        raise CheckFailed(f"the segments hold {total} bytes of {len(data)}")


def device_stores(bench: Bench, segments: Segments, data: bytes) -> None:
    """Let the device write ``data`` to the segments."""
    for offset, address, part in pieces(bench, segments):
        chunk = data[offset : offset + part]
        bench.load(chunk)
        bench.move(address, part, zlib.crc32(chunk), write_memory=True)


@contextmanager
def mapped(kind: str, length: int) -> Iterator[mmap.mmap]:
    """Have memory of a kind; small pages are scattered."""
    hugepages = Path("/proc/sys/vm/nr_hugepages")
    if kind == "hugetlb":
        hugepages.write_text("4\n")
        length = (length + HUGE - 1) // HUGE * HUGE
        made = mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_HUGETLB)
    elif kind == "memfd":
        fd = os.memfd_create("pinned")
        os.ftruncate(fd, length)
        made = mmap.mmap(fd, length, mmap.MAP_SHARED)
        os.close(fd)
    else:
        made = mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if kind != "hugetlb":
        made.madvise(mmap.MADV_NOHUGEPAGE)
        for page in (*range(0, length, 2 * PAGE), *range(PAGE, length, 2 * PAGE)):
            made[page] = 1
    try:
        yield made
    finally:
        made.close()
        if kind == "hugetlb":
            hugepages.write_text("0\n")


def attest_soundness(
    bench: Bench, data: Patterns, attest: Attest, promise: str, asked: str
) -> None:
    """After refusals, the device finds memory that is pinned as it must be."""
    content = data.take(PAGE)
    with mapped("anonymous", PAGE) as memory:
        memory[:] = content
        with bench.driver.pin(address_of(memory), PAGE) as pin:
            device_sees(bench, pin.segments(), content)
            place = pin.segments()[0][0]
    attest(promise, asked=asked, attested=f"then {PAGE} bytes at {place:#x}", kept=True)


def address_of(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def free_hugepages() -> int:
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["HugePages_Free"])


@pytest.mark.unlimited("alignment")
@pytest.mark.promise(PINNED)
@pytest.mark.parametrize("kind", ["anonymous", "memfd", "hugetlb"])
def test_process_kernel_and_device_see_the_same_bytes(
    bench: Bench, data: Patterns, attest: Attest, kind: str
) -> None:
    offset, length = 3 * PAGE + 100, 20 * PAGE + 77
    with mapped(kind, 30 * PAGE) as memory:
        sent, received, stored = (data.take(length) for _ in range(3))
        memory[offset : offset + length] = sent
        with bench.driver.pin(address_of(memory) + offset, length) as pin:
            segments = pin.segments()
            assert kind == "hugetlb" or len(segments) > 10, "so that their order matters"
            device_sees(bench, segments, sent)
            found = difference(sent, pin.read(0, length))
            assert not found, f"the kernel finds other bytes than the process stored: {found}"
            device_stores(bench, segments, received)
            found = difference(received, memory[offset : offset + length])
            assert not found, f"the process finds other bytes than the device stored: {found}"
            with pin.kernel_map() as kernel:
                kernel.write(0, stored)
                device_sees(bench, segments, stored)
                assert memory[offset : offset + length] == stored
                pin.write(1000, sent[:9000])
                assert kernel.read(1000, 9000) == sent[:9000]
    attest(
        PINNED,
        asked=f"{length} bytes of {kind} memory from offset {offset % PAGE} of a page on",
        attested=f"{len(segments)} segments, each read and written by the device",
        kept=True,
    )


def collapse(*regions: Region) -> None:
    for region in regions:
        region.collapse()


def page_out(*regions: Region) -> None:
    for region in regions:
        region.page_out()


def moved(before: list[int | None], after: list[int | None]) -> int:
    """Return how many pages that were somewhere are elsewhere, or nowhere."""
    if before == after:
        return 0
    return sum(a is not None and a != b for a, b in zip(before, after, strict=True))


def pages_moved(move: Callable[..., None], control: Region, pinned: Region) -> tuple[int, int]:
    """Have the kernel move what it can of both; return how many pages of each were moved."""
    before = control.frames(), pinned.frames()
    move(control, pinned)
    after = control.frames(), pinned.frames()
    return moved(before[0], after[0]), moved(before[1], after[1])


@pytest.mark.promise(PINNED)
@pytest.mark.parametrize(
    ("move", "beside", "length"),
    [(collapse, HUGE, HUGE), (page_out, 64 * PAGE, 64 * PAGE)],
    ids=["collapse", "paging out"],
)
def test_pinned_pages_stay(
    bench: Bench,
    data: Patterns,
    attest: Attest,
    move: Callable[..., None],
    beside: int,
    length: int,
) -> None:
    with zram_swap(16), Region(beside) as control, Region(length) as pinned:
        expected = data.take(length)
        pinned.write(0, expected)
        with bench.driver.pin(pinned.address, length) as pin:
            segments = pin.segments()
            others, ours = pages_moved(move, control, pinned)
            assert others > 0, (
                "nothing was moved at all, so that the pinned pages stayed is no news"
            )
            if ours:
                attest.broken(
                    PINNED,
                    asked=f"{pin.pages} pages stay, by {move.__name__}",
                    attested=f"{ours} moved",
                    reason="a device would reach the old ones",
                )
            device_sees(bench, segments, expected)
            assert pinned.read(0, length) == expected
    attest(
        PINNED,
        asked=f"{length // PAGE} pages stay, by {move.__name__}",
        attested=f"0 moved, and {others} unpinned ones",
        kept=True,
    )


@pytest.mark.promise(PINNED)
def test_compaction_leaves_pinned_pages(bench: Bench, data: Patterns, attest: Attest) -> None:
    """Of the pages between holes every other run is pinned.

    Compaction moves what is low in memory, if there is room higher up: so take most of memory.
    """
    part = HUGE // 4
    with Region(128 * HUGE, holes=True) as region, ExitStack() as stack:
        runs = range(HUGE - part, region.length, HUGE)
        pins = {
            offset: stack.enter_context(bench.driver.pin(region.address + offset, part))
            for offset in runs[::2]
        }
        expected = data.take(part)
        region.write(runs[0], expected)
        before = {offset: region.frames(offset, part) for offset in runs}
        page_frames.compact_memory()
        ours = others = 0
        for offset in runs:
            count = moved(before[offset], region.frames(offset, part))
            ours, others = (ours + count, others) if offset in pins else (ours, others + count)
        asked = f"{len(pins) * part // PAGE} pages stay, by compaction"
        assert others > 0, "nothing was moved at all, so that the pinned pages stayed is no news"
        if ours:
            attest.broken(
                PINNED,
                asked=asked,
                attested=f"{ours} moved",
                reason="a device would reach the old ones",
            )
        device_sees(bench, pins[runs[0]].segments(), expected)
    attest(PINNED, asked=asked, attested=f"0 moved, and {others} unpinned ones", kept=True)


@pytest.mark.promise(UNPINNED)
def test_unpinned_pages_move_again(bench: Bench, data: Patterns, attest: Attest) -> None:
    length = 64 * PAGE
    with zram_swap(16), Region(length) as region:
        expected = data.take(length)
        region.write(0, expected)
        with bench.driver.pin(region.address, length) as pin:
            device_sees(bench, pin.segments(), expected)
            kernel = pin.kernel_map()
        with kernel:
            before = region.frames()
            region.page_out()
            assert region.frames() == before, "a kernel mapping of the pin holds it"
        region.page_out()
        away = region.frames().count(None)
        assert region.read(0, length) == expected
    attest(
        UNPINNED,
        asked="64 pages can be paged out after the last close",
        attested=f"{away} were",
        kept=away == length // PAGE,
    )


@pytest.mark.promise(UNPINNED)
def test_a_pin_outlives_its_process_and_leaks_nothing(
    bench: Bench, data: Patterns, attest: Attest
) -> None:
    """The killed process's huge page stays as long as somebody has the descriptor."""
    with mapped("hugetlb", HUGE):
        expected = data.take(PAGE)
        all_free = free_hugepages()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            child = os.fork()
            if child == 0:
                try:
                    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_HUGETLB
                    memory = mmap.mmap(-1, HUGE, flags)
                    memory[:PAGE] = expected
                    with Driver() as driver:
                        pin = driver.pin(address_of(memory), HUGE)
                    socket.send_fds(theirs, [b"x"], [pin.fileno()])
                    signal.pause()
                finally:
                    os._exit(1)
            try:
                _, fds, _, _ = socket.recv_fds(ours, 1, 1)
            finally:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        with Pin.from_fd(fds[0]) as pin:
            device_sees(bench, [(pin.segments()[0][0], PAGE)], expected)
            assert pin.read(0, PAGE) == expected
            held = all_free - free_hugepages()
        left = all_free - free_hugepages()
    attest(
        UNPINNED,
        asked="a killed process's pin: held while we have it, then given back",
        attested=f"{held} huge page held, then {left}",
        kept=(held, left) == (1, 0),
    )


def refusal(action: Callable[..., object], *arguments: object) -> IOReturn:
    """Return the code that a call is refused with."""
    with pytest.raises((IODeviceError, IOCannotWireError, IOBusyError)) as caught:
        action(*arguments)
    return caught.value.code


def end_of_carve_outs() -> int:
    """Return where the last carve-out ends; the allocator comes there last, so nobody maps it."""
    zone = find_zones()[-1]
    return zone.start + zone.size


@pytest.mark.promise(PINNED)
def test_what_cannot_be_pinned(bench: Bench, data: Patterns, attest: Attest) -> None:
    pin = bench.driver.pin
    with mapped("anonymous", 4 * PAGE) as memory:
        address = address_of(memory)
        assert refusal(pin, address, 0) == IOReturn.kIOReturnBadArgument
        assert refusal(pin, -1, 1) == IOReturn.kIOReturnBadArgument
        assert refusal(pin, (1 << 64) - 1, 2) == IOReturn.kIOReturnBadArgument
        assert refusal(pin, (1 << 64) - 1, 1) == IOReturn.kIOReturnCannotWire
        assert refusal(pin, PAGE, 1) == IOReturn.kIOReturnCannotWire
        with pytest.raises(IOCannotWireError, match="one pin has at most") as caught:
            pin(address, PIN_MAX + 1)
        assert caught.value.limit == PIN_MAX
    carve_out = bench.staging.address & -PAGE
    assert refusal(pin, carve_out, PAGE) == IOReturn.kIOReturnCannotWire
    attest_soundness(bench, data, attest, PINNED, "what cannot be pinned: refused")


@pytest.mark.promise(PINNED)
def test_file_with_a_backing_store_cannot_be_pinned(
    bench: Bench, data: Patterns, attest: Attest, tmp_path: Path
) -> None:
    """Of its kind the guest has ramfs: its pages are a page cache's, and are never swapped."""
    libc = ctypes.CDLL(None, use_errno=True)
    where = os.fsencode(tmp_path)
    assert libc.mount(b"ramfs", where, b"ramfs", 0, None) == 0
    try:
        path = tmp_path / "file"
        path.write_bytes(bytes(2 * PAGE))
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            for write in True, False:
                with pytest.raises(IOCannotWireError, match="backing store"):
                    bench.driver.pin(address_of(memory), 2 * PAGE, write=write)
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as memory:
            # What is copied on write is the process's own.
            bench.driver.pin(address_of(memory), 2 * PAGE).close()
    finally:
        libc.umount(where)
    attest_soundness(bench, data, attest, PINNED, "pages of a file with a backing store: refused")


@pytest.mark.promise(PINNED)
def test_read_only_pin(bench: Bench, data: Patterns, attest: Attest) -> None:
    """It needs no writable mapping, cannot be written, and has the pages that are stored to."""
    expected = data.take(4 * PAGE)
    with mapped("memfd", 4 * PAGE) as memory:
        memory[:] = expected
        address = address_of(memory)
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mprotect(ctypes.c_void_p(address), 4 * PAGE, mmap.PROT_READ) == 0
        assert refusal(bench.driver.pin, address, PAGE) == IOReturn.kIOReturnCannotWire
        with bench.driver.pin(address, 4 * PAGE, write=False) as pin:
            assert not pin.writable
            device_sees(bench, pin.segments(), expected)
            assert refusal(pin.write, 0, b"x") == IOReturn.kIOReturnNotWritable
            with pin.kernel_map() as kernel:
                assert kernel.read(0, 4 * PAGE) == expected
                assert refusal(kernel.write, 0, b"x") == IOReturn.kIOReturnNotWritable
    with (
        # Not stored to, it has the kernel's one page of zeros.
        mmap.mmap(-1, 4 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory,
        bench.driver.pin(address_of(memory), 4 * PAGE, write=False) as pin,
    ):
        memory[:] = expected
        device_sees(bench, pin.segments(), expected)
    attest_soundness(bench, data, attest, PINNED, "a pin for reading alone")


@pytest.mark.promise(PINNED)
def test_bytes_outside_of_a_pin_are_refused(bench: Bench, data: Patterns, attest: Attest) -> None:
    with mapped("anonymous", 2 * PAGE) as memory:
        with bench.driver.pin(address_of(memory) + 10, PAGE) as pin:
            assert pin.read(PAGE, 0) == b""
            for offset, length in ((0, PAGE + 1), (PAGE, 1), (-1, 1), (0, -1)):
                code = refusal(pin.read, offset, length)
                assert code == IOReturn.kIOReturnBadArgument
            assert os.pread(pin.fileno(), 100, PAGE - 7) == bytes(7), "as at the end of a file"
            with pytest.raises(OSError, match="No space left"):
                os.pwrite(pin.fileno(), b"x", PAGE)
        assert refusal(pin.read, 0, 1) == IOReturn.kIOReturnBadArgument
    attest_soundness(bench, data, attest, PINNED, "bytes outside of a pin: refused")


@pytest.mark.promise(PINNED)
def test_a_descriptor_of_another_kind_is_refused(
    bench: Bench, data: Patterns, attest: Attest
) -> None:
    for kind in Pin, KernelMap:
        fd = os.memfd_create("other")
        assert refusal(kind.from_fd, fd) == IOReturn.kIOReturnBadArgument
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    attest_soundness(bench, data, attest, PINNED, "a descriptor of another kind: refused")


@pytest.mark.promise(PINNED)
def test_pins_count_against_the_limit_of_locked_memory(
    bench: Bench, data: Patterns, attest: Attest
) -> None:
    """In a process that may not lock as it likes: of another user, with 8 pages."""
    with mapped("anonymous", 16 * PAGE) as memory:
        address = address_of(memory)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                resource.setrlimit(resource.RLIMIT_MEMLOCK, (8 * PAGE, 8 * PAGE))
                os.setresuid(65534, 65534, 65534)
                with bench.driver.pin(address, 5 * PAGE):
                    try:
                        bench.driver.pin(address + 5 * PAGE, 4 * PAGE)
                    except IOCannotWireError as error:
                        status = 2 * (error.limit != 8 * PAGE or "RLIMIT_MEMLOCK" not in str(error))
                    if not status:
                        bench.driver.pin(address + 5 * PAGE, 3 * PAGE).close()
                if not status:  # what was pinned counts no more
                    bench.driver.pin(address, 8 * PAGE).close()
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    attest_soundness(bench, data, attest, PINNED, "more than RLIMIT_MEMLOCK: refused")


MODES = [mode for mode in CacheMode if mode in EFFECTIVE]
modes = pytest.mark.parametrize("mode", MODES, ids=[mode.name for mode in MODES])


@pytest.mark.unlimited("alignment")
@pytest.mark.promise(KERNEL_MAPPING)
@modes
@pytest.mark.parametrize("length", [1, 3 * PAGE, HUGE + PAGE])
def test_kernel_maps_with_just_the_mode(
    bench: Bench, data: Patterns, attest: Attest, mode: CacheMode, length: int
) -> None:
    start = end_of_carve_outs() - (4 << 20) + (100 if length < PAGE else 0)
    expected, other = data.take(length), data.take(length)
    with bench.driver.kernel_map(start, length, mode) as kernel:
        device_stores(bench, [(start, length)], expected)
        found = difference(expected, kernel.read(0, length))
        if found:
            raise CheckFailed(f"the kernel finds other bytes than the device stored: {found}")
        kernel.write(0, other)
        device_sees(bench, [(start, length)], other)
        report = bench.platform.witness(kernel.root, kernel.address, length, kernel.levels)
    wrong = [
        run
        for run in report.runs
        if run.effective is not EFFECTIVE[mode] or run.user or not run.writable
    ]
    reached = (report.runs[0].physical | start % PAGE) if report.runs else 0
    attest(
        KERNEL_MAPPING,
        asked=f"{length} bytes with {mode.name}",
        attested=described(list(report.runs)),
        kept=report.status is WitnessStatus.OK and not wrong and reached == start,
        reason=f"{report.status.name}, physical {reached:#x} of {start:#x}",
    )


@pytest.mark.promise(KERNEL_MAPPING)
@modes
def test_a_range_has_one_mode_in_the_kernel_and_in_processes(
    bench: Bench, attest: Attest, mode: CacheMode
) -> None:
    driver = bench.driver
    refused = []
    start = end_of_carve_outs() - 4 * PAGE
    for other in MODES:
        with driver.kernel_map(start, 4 * PAGE, mode):
            if other is mode:
                driver.map(start, 4 * PAGE, other).close()
                driver.kernel_map(start + PAGE, 10, other).close()
            else:
                refused.append(refusal(driver.map, start, PAGE, other))
                refused.append(refusal(driver.kernel_map, start, 1, other))
        user = driver.map(start, 2 * PAGE, mode)
        try:
            if other is not mode:
                refused.append(refusal(driver.kernel_map, start + PAGE, 3 * PAGE, other))
        finally:
            user.close()
        driver.kernel_map(start, 4 * PAGE, other).close()  # with no other one there, it can
    device_stores(bench, [(start, 64)], bytes(64))
    busy = refused.count(IOReturn.kIOReturnBusy)
    attest(
        KERNEL_MAPPING,
        asked=f"another mode beside {mode.name}, kernel after process and the other way round",
        attested=f"{busy} of {len(refused)} refused with kIOReturnBusy",
        kept=busy == len(refused) == 9,
    )


@pytest.mark.promise(KERNEL_MAPPING)
def test_what_the_kernel_cannot_map(bench: Bench, data: Patterns, attest: Attest) -> None:
    page = end_of_carve_outs() - PAGE
    for start, length in (0, PAGE), (page, PAGE + 1), (page, 0), (-1, 1), (page, 1 << 64):
        code = refusal(bench.driver.kernel_map, start, length, CacheMode.COPYBACK)
        assert code == IOReturn.kIOReturnBadArgument
    attest_soundness(bench, data, attest, KERNEL_MAPPING, "what is in no carve-out: refused")
