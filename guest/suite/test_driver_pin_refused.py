# SPDX-License-Identifier: Apache-2.0
"""Memory that the module refuses to pin, and uses of a pin that it refuses."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
from pathlib import Path

import pytest

from dma_rehearsal.guest.iobuffer import IOCannotWireError, IOReturn
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.os.pin import KernelMap, Pin
from dma_rehearsal.guest.iobuffer.os.uapi import PIN_MAX
from dma_rehearsal.guest.testkit import Attest, DmaChecker, Patterns
from dma_rehearsal.guest.testkit.pinning import (
    PINNED,
    address_of,
    attest_soundness,
    device_sees,
    mapped,
    refusal,
)

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.unprotected,
    pytest.mark.any_device,
    pytest.mark.unlimited("addresses"),  # pages are wherever the kernel finds them
]


@pytest.mark.promise(PINNED)
def test_what_cannot_be_pinned(bench: DmaChecker, data: Patterns, attest: Attest) -> None:
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
    bench: DmaChecker, data: Patterns, attest: Attest, tmp_path: Path
) -> None:
    """ramfs is such memory in the guest: page-cache pages that are never swapped."""
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
            # A page copied on write is the process's own.
            bench.driver.pin(address_of(memory), 2 * PAGE).close()
    finally:
        libc.umount(where)
    attest_soundness(bench, data, attest, PINNED, "pages of a file with a backing store: refused")


@pytest.mark.promise(PINNED)
def test_read_only_pin(bench: DmaChecker, data: Patterns, attest: Attest) -> None:
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
def test_bytes_outside_of_a_pin_are_refused(
    bench: DmaChecker, data: Patterns, attest: Attest
) -> None:
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
    bench: DmaChecker, data: Patterns, attest: Attest
) -> None:
    for kind in Pin, KernelMap:
        fd = os.memfd_create("other")
        assert refusal(kind.from_fd, fd) == IOReturn.kIOReturnBadArgument
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    attest_soundness(bench, data, attest, PINNED, "a descriptor of another kind: refused")


@pytest.mark.promise(PINNED)
def test_pins_count_against_the_limit_of_locked_memory(
    bench: DmaChecker, data: Patterns, attest: Attest
) -> None:
    """In a process with a limit on locked memory: of another user, with 8 pages."""
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
