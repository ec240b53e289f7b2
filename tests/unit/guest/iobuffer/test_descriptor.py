# SPDX-License-Identifier: Apache-2.0
"""The descriptor and the heap, on pools of ordinary memory."""

from __future__ import annotations

import gc
import itertools
import os
import random
import warnings
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dma_rehearsal.guest.iobuffer import (
    CacheMode,
    IOBadArgumentError,
    IOBufferMemoryDescriptor,
    IOBusyError,
    IODeviceError,
    IODirection,
    IONoMemoryError,
    IONotAttachedError,
    IOOptions,
    IOReturn,
    IOReturnError,
    IOUnsupportedError,
    Task,
    current_task,
    kIODirectionIn,
    kIODirectionOut,
    kIOMapAnywhere,
    kIOMapInhibitCache,
    kIOMapRealTimeCache,
    kIOMapUnique,
    kIOMapWriteCombineCache,
    kIOMapWriteThruCache,
    kIOMemoryClearEncrypt,
    kIOMemoryHostPhysicallyContiguous,
    kIOMemoryPageable,
    kIOMemoryPhysicallyContiguous,
    kIOMemoryPurgeable,
    kIOMemoryUseReserve,
)
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.memory import heap, pool_registry
from dma_rehearsal.guest.iobuffer.memory.heap_pool import HeapPool
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.memory.pool import Extent
from dma_rehearsal.guest.iobuffer.memory.zones import Zone
from dma_rehearsal.guest.iobuffer.os import virtual_memory
from dma_rehearsal.guest.iobuffer.os.virtual_memory import Mapping
from tests.generated import examples
from tests.unit.guest.memory_pool import MemoryPool, make

MIB = 1 << 20


@pytest.mark.usefixtures("main")
@pytest.mark.parametrize("capacity", [1, 2, 63, 64, 65, 1025, 4095, 4096, 4097, 1024001])
@pytest.mark.parametrize("alignment", [1, 2, 64, 256, 4096, 65536, MIB])
def test_size_and_alignment(capacity: int, alignment: int) -> None:
    with make(capacity, alignment) as buffer:
        address, length = buffer.getPhysicalSegment(0)
        assert address == buffer.getPhysicalAddress()
        assert address % alignment == 0
        assert buffer.address % min(alignment, PAGE) == 0
        assert length == buffer.getLength() == buffer.getCapacity() == len(buffer) == capacity
        assert buffer.getPhysicalSegment(capacity - 1) == (address + capacity - 1, 1)
        assert buffer.getPhysicalSegment(capacity) == (0, 0)
        assert buffer.view().nbytes == capacity


def test_view_is_the_memory_and_it_is_zeroed(main: MemoryPool) -> None:
    with make(1000) as buffer:
        assert bytes(buffer.view()) == bytes(1000)
        buffer.view()[:5] = b"hello"
        buffer.footprint()[1000:] = b"\xff" * (len(buffer.footprint()) - 1000)
        assert main.bytes_at(buffer.getPhysicalAddress(), 5) == b"hello"
        again = buffer.getPhysicalAddress()
    pool_registry.wake()
    with make(1000) as buffer:
        assert buffer.getPhysicalAddress() == again
        assert bytes(buffer.footprint()) == bytes(len(buffer.footprint()))


def test_free_memory_is_back_exactly(main: MemoryPool) -> None:
    rng = random.Random(5)
    before, mapped = main.free_size(), set(virtual_memory._live)
    buffers = [
        make(rng.choice([1, 70, 700, 3000, 5000]), 1 << rng.randrange(13)) for _ in range(99)
    ]
    spans = sorted((b.getPhysicalAddress(), len(b.footprint())) for b in buffers)
    for (start, length), (following, _) in itertools.pairwise(spans):
        assert start % heap.CACHE_LINE == 0
        assert length % heap.CACHE_LINE == 0
        assert start + length <= following, "no two buffers share a cache line"
    rng.shuffle(buffers)
    for buffer in buffers:
        buffer.release()
    assert main.free_size() == before
    assert set(virtual_memory._live) <= mapped, "what other tests of this process left is theirs"


@given(
    st.lists(
        st.tuples(
            st.integers(1, 9000),
            st.integers(0, 14),
            st.sampled_from([0, 0x100, 0x200, 0x300, 0x400]),
            st.booleans(),
        ),
        max_size=40,
    )
)
@settings(max_examples=examples(40), deadline=None)
def test_any_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, int, bool]]
) -> None:
    pool = MemoryPool(Zone("main", 0x0C00_0000, 4 * MIB), tmp_path_factory.mktemp("any"))
    dma_platform.use_pools(HeapPool(pool))
    live: list[tuple[IOBufferMemoryDescriptor, bytes]] = []
    for number, (capacity, shift, mode, drop) in enumerate(steps):
        buffer = make(capacity, 1 << shift, 3 | mode)
        data = bytes([number % 255 + 1]) * len(buffer.footprint())
        buffer.footprint()[:] = data
        live.append((buffer, data))
        if drop:
            old, _ = live.pop(number % len(live))
            old.release()
        for other, content in live:
            assert bytes(other.footprint()) == content
    for buffer, _ in live:
        buffer.release()
    assert pool.free_size() == pool.size
    dma_platform.use_pools()
    os.close(pool.fd)


def test_a_page_has_one_mode_and_a_small_buffer_one_page(main: MemoryPool) -> None:
    buffers = [make(100, 1, 3 | mode << 8) for mode in (0, 1, 2, 3, 4, 0, 1)]
    pages: dict[int, CacheMode] = {}
    for buffer in buffers:
        address, length = buffer.getPhysicalSegment(0)
        assert address // PAGE == (address + length - 1) // PAGE
        assert pages.setdefault(address // PAGE, buffer.cache_mode) == buffer.cache_mode
    assert buffers[0].cache_mode is CacheMode.COPYBACK, "the meaning of default"
    assert {mode for _, mode in main.mapped} == {CacheMode(m) for m in (1, 2, 3, 4)}
    for buffer in buffers:
        buffer.release()


@pytest.mark.usefixtures("main")
def test_a_cache_mode_raises_the_alignment_to_a_page() -> None:
    with make(10, 8, kIODirectionIn | kIOMapWriteThruCache) as buffer:
        assert buffer.alignment == PAGE
        assert buffer.getPhysicalAddress() % PAGE == 0
        assert buffer.getDirection() is IODirection.kIODirectionIn
        assert buffer.getOptions() == kIODirectionIn | kIOMapWriteThruCache
    with make(10, 8) as buffer:
        assert buffer.alignment == 8


@pytest.mark.usefixtures("main")
@pytest.mark.parametrize(
    ("capacity", "alignment", "options"),
    [
        (0, 1, 3),
        (-1, 1, 3),
        (True, 1, 3),
        (1.0, 1, 3),
        (1, 0, 3),
        (1, 3, 3),
        (1, -4, 3),
        (1, True, 3),
        ((1 << 64) - 1, 1, 3),
        ((1 << 64) - 8192, 1 << 20, 3),
        (1, 1 << 40, 3),
        (1, 1, 3 | 0x4),
        (1, 1, 3 | 0x80000000),
        (1, 1, 3 | 0x20000),
        (1, 1, -1),
        (1, 1, kIODirectionIn | kIOMemoryPurgeable),
        (1, 1, kIODirectionIn | kIOMemoryPageable | kIOMemoryPhysicallyContiguous),
        (1, 1, kIODirectionIn | kIOMemoryPageable | kIOMemoryHostPhysicallyContiguous),
        (1, 8192, kIODirectionIn | kIOMemoryPageable),
    ],
)
def test_bad_arguments(capacity: int, alignment: int, options: IOOptions | int) -> None:
    with pytest.raises(IOBadArgumentError) as caught:
        make(capacity, alignment, options)
    assert caught.value.code == IOReturn.kIOReturnBadArgument


@pytest.mark.usefixtures("main")
@pytest.mark.parametrize(
    "options",
    [
        kIODirectionIn | kIOMemoryClearEncrypt,
        kIODirectionIn | kIOMemoryUseReserve,
        kIODirectionIn | kIOMapRealTimeCache,
    ],
)
def test_unsupported_says_why(options: IOOptions) -> None:
    with pytest.raises(IOUnsupportedError) as caught:
        make(1, 1, options)
    assert caught.value.code == IOReturn.kIOReturnUnsupported
    assert ":" in caught.value.reason


@pytest.mark.usefixtures("main")
def test_another_task_needs_its_handle() -> None:
    with pytest.raises(IODeviceError, match="task_of"):
        IOBufferMemoryDescriptor.inTaskWithOptions(Task(1), kIODirectionIn, 1)


def test_contiguous_is_always_so(main: MemoryPool) -> None:
    options = kIODirectionOut | kIOMemoryPhysicallyContiguous | kIOMemoryHostPhysicallyContiguous
    with make(3 * MIB, 1, options) as buffer:
        assert buffer.getPhysicalSegment(0)[1] == 3 * MIB
        assert buffer.pool == main.name


@pytest.mark.usefixtures("main")
def test_pools_in_turn_and_by_name() -> None:
    with make(3 * MIB) as one, make(3 * MIB) as two, make(4096, pool="low") as three:
        assert (one.pool, two.pool, three.pool) == ("main", "high", "low")
        assert two.getPhysicalAddress() >= 1 << 32
        assert three.getPhysicalAddress() < 1 << 24
    with pytest.raises(IOBadArgumentError, match="no pool"):
        make(1, pool="none")


@pytest.mark.usefixtures("main")
def test_no_memory_says_numbers() -> None:
    with pytest.raises(IONoMemoryError) as caught:
        make(8 * MIB + 1)
    assert caught.value.code == IOReturn.kIOReturnNoMemory
    assert caught.value.largest == 8 * MIB
    assert str(8 * MIB + 1) in str(caught.value)
    assert str(8 * MIB) in caught.value.reason


@pytest.mark.parametrize("capacity", [100, 5000])
def test_release_refuses_while_views_live(main: MemoryPool, capacity: int) -> None:
    buffer = make(capacity)
    view = buffer.view()
    part = view[3:20]
    sizes = rf"{capacity}, 17|17, {capacity}"
    with pytest.raises(IOBusyError, match=rf"2 memoryview\(s\) of it \(of ({sizes}) bytes") as busy:
        buffer.release()
    assert busy.value.code == IOReturn.kIOReturnBusy
    assert busy.value.address == buffer.getPhysicalAddress()
    part[0] = 7
    assert buffer.view()[3] == 7, "nothing was lost"
    view.release()
    with pytest.raises(IOBusyError, match=r"1 memoryview"):
        buffer.release()
    del part
    buffer.release()
    assert main.free_size() == main.size


def test_an_error_in_the_block_is_not_hidden_by_its_views(main: MemoryPool) -> None:
    def fail() -> None:
        warnings.simplefilter("ignore", ResourceWarning)
        with make(5000) as buffer:
            view = buffer.view()
            raise KeyError(view[0])

    with warnings.catch_warnings(), pytest.raises(KeyError):
        fail()
    with pytest.raises(IOBusyError), make(5000) as buffer:
        view = buffer.view()
    view.release()
    buffer.release()
    gc.collect()
    assert pool_registry.known()["main"].free_size() == main.size


@pytest.mark.usefixtures("main")
@pytest.mark.parametrize(("count", "more"), [(4, ""), (5, "; and 1 more"), (7, "; and 3 more")])
def test_release_names_some_of_many_holders(count: int, more: str) -> None:
    with ExitStack() as stack:
        buffer = stack.enter_context(make(64))
        for _ in range(count):
            stack.enter_context(
                buffer.createMappingInTask(current_task(), 0, kIOMapAnywhere | kIOMapUnique)
            )
        with pytest.raises(IOBusyError) as caught:
            buffer.release()
        said = caught.value.reason
        assert said.count("<IOMemoryMap") == min(count, 4)
        assert f"{more}; unmap them first" in said
        assert f"{count} mapping(s)" in said


@pytest.mark.usefixtures("main")
def test_after_release() -> None:
    with make(10) as buffer:
        buffer.release()
    assert buffer.released
    for use in (buffer.release, buffer.view, buffer.getLength, lambda: buffer.address):
        with pytest.raises(IONotAttachedError, match="after its release"):
            use()
    assert "released" in repr(buffer)


@pytest.mark.parametrize("capacity", [100, 5000])
def test_dropped_buffer_warns_and_comes_back(main: MemoryPool, capacity: int) -> None:
    buffer = make(capacity)
    view = buffer.view()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del buffer
        view[0] = 1  # the view keeps the descriptor
    with pytest.warns(ResourceWarning, match="was not released"):
        del view
    assert pool_registry.known()["main"].free_size() == main.size


def test_dropped_in_a_cycle_with_its_view(main: MemoryPool) -> None:
    cycle: list[object] = [make(5000)]
    assert isinstance(cycle[0], IOBufferMemoryDescriptor)
    cycle.extend([cycle[0].view(), cycle])
    del cycle
    with pytest.warns(ResourceWarning):
        gc.collect()
    assert pool_registry.known()["main"].free_size() == main.size


@pytest.mark.usefixtures("main")
def test_repr_tells_all() -> None:
    with make(1025, 256, kIODirectionIn | kIOMapWriteCombineCache) as buffer:
        for part in ("1025 bytes", "0xc000000", "pool main", "kIODirectionIn", "alignment 256"):
            assert part in repr(buffer)


def test_a_failed_mapping_gives_the_memory_back(
    main: MemoryPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(extent: Extent, mode: CacheMode) -> Mapping:
        raise IOBusyError(f"{extent} {mode}")

    monkeypatch.setattr(main, "map", refuse)
    for capacity in (10, 10000):
        with pytest.raises(IOReturnError):
            make(capacity, 1, kIODirectionIn | kIOMapInhibitCache)
    assert main.free_size() == main.size


def test_forked_child_has_none_of_it(main: MemoryPool) -> None:
    buffer = make(5000)
    start = buffer.address
    buffer.view()[0] = 1
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            buffer.getLength()
        except IONotAttachedError:
            status = 0 if dma_platform.pools is None and "of process" in repr(buffer) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (buffer.address, buffer.view()[0]) == (start, 1)
    assert main.free_size() < main.size, "the child's end freed nothing here"
    buffer.release()


def test_child_covers_what_it_did_not_inherit() -> None:
    # A mapping that a fork does not hand down, as the driver's.
    fd = os.memfd_create("covered")
    os.ftruncate(fd, 2 * PAGE)
    mapping = Mapping(fd, 2 * PAGE, 0)
    pid = os.fork()
    if pid == 0:
        lines = Path("/proc/self/maps").read_text().splitlines()
        start = f"{mapping.address:x}-"
        covered = any(line.startswith(start) and " ---p " in line for line in lines)
        os._exit(0 if covered else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    mapping.close()
    os.close(fd)


def test_two_thousand_live_buffers_need_no_descriptors(main: MemoryPool) -> None:
    used = len(list(Path("/proc/self/fd").iterdir()))
    buffers = [make(100, 1, 3 | 0x400) for _ in range(900)] + [make(100) for _ in range(1100)]
    assert len(list(Path("/proc/self/fd").iterdir())) == used
    for buffer in buffers:
        buffer.release()
    assert main.free_size() == main.size
