# SPDX-License-Identifier: Apache-2.0
"""Binds PCI functions to kernel drivers, with a limit on the time that probe and remove take.

Linux's Documentation/ABI/testing/sysfs-bus-pci describes the files.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dma_rehearsal.guest.drivers import pci_sysfs
from dma_rehearsal.guest.drivers.pci_bars import PciError

LIMIT_S: Final = 30.0
TASKS: Final = Path("/proc/self/task")
NOBODY: Final = "nobody"
"""A driver_override that no driver has: the function gets none by itself."""
_LOOK_S: Final = 0.25
_STACK_MAX: Final = 12  # lines

_BRIDGE: Final = 0x06  # the base class; PCI Code and ID Assignment Specification, 1.7
_VIRTIO: Final = 0x1AF4  # the vendor of virtio; Virtual I/O Device specification, 4.1.2
_NOT_UNDER_TEST: Final = {(0x1234, 0xDA7A), (0x1234, 0x11E8)}  # the platform, QEMU's edu


class KernelStuck(PciError):
    """A call into the kernel has not returned in time, or the kernel has killed it."""


@dataclass(frozen=True, slots=True)
class BoundFunction:
    """A PCI function, by its folder in sysfs, and the kernel driver that may have it."""

    folder: Path

    @property
    def address(self) -> str:
        """Domain, bus, device and function, as 0000:00:04.0."""
        return self.folder.name

    @property
    def driver(self) -> str | None:
        """The kernel driver that has the function."""
        link = self.folder / "driver"
        return link.readlink().name if link.is_symlink() else None

    def allow(self, driver: str | None) -> None:
        """Let only this driver have the function; None: whichever has its id."""
        _write(self.folder / "driver_override", driver or "\n")

    def bind(self, driver: str, limit_s: float = LIMIT_S) -> None:
        """Have a driver probe the function.

        OSError with the driver's error number when its probe fails, `KernelStuck` when that
        takes more than ``limit_s`` seconds.
        """
        self.allow(driver)
        path = pci_sysfs.DEVICES.parent / "drivers" / driver / "bind"
        within(limit_s, lambda: _write(path, self.address), f"the probe of {driver}")

    def unbind(self, limit_s: float = LIMIT_S) -> None:
        """Take the function from its driver, if it has one; errors as `bind`."""
        if (driver := self.driver) is not None:
            path = pci_sysfs.DEVICES.parent / "drivers" / driver / "unbind"
            within(limit_s, lambda: _write(path, self.address), f"the unbind of {driver}")


def endpoint_functions() -> list[BoundFunction]:
    """Return the functions of the endpoint, by address.

    They are those that are not bridges, the platform or QEMU's own devices, such as virtio.
    """
    folders = sorted(pci_sysfs.DEVICES.iterdir()) if pci_sysfs.DEVICES.is_dir() else []
    return [BoundFunction(each) for each in folders if _is_endpoint(each)]


def _is_endpoint(folder: Path) -> bool:
    ids = _number(folder, "vendor"), _number(folder, "device")
    return (
        _number(folder, "class") >> 16 != _BRIDGE
        and not _is_qemus_virtio(folder, ids[0])
        and ids not in _NOT_UNDER_TEST
    )


def _is_qemus_virtio(folder: Path, vendor: int) -> bool:
    """Return whether it is one of the guest's own consoles, and not a model of a virtio device.

    QEMU gives its virtio functions a subsystem of the same vendor.
    """
    return vendor == _VIRTIO == _number(folder, "subsystem_vendor")


def _number(folder: Path, name: str) -> int:
    return int((folder / name).read_text(), 0)


class _Call(threading.Thread):
    """One call into the kernel that may never return."""

    def __init__(self, action: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._action = action
        self.done = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._action()
        except Exception as error:
            self.error = error
        self.done.set()

    @property
    def task(self) -> Path:
        return TASKS / str(self.native_id)


def within(limit_s: float, action: Callable[[], None], what: str) -> None:
    """Do something in the kernel within a time limit, else raise `KernelStuck`.

    The message then has the kernel's stack of the call, which goes on. ``what`` names it.
    """
    call = _Call(action)
    call.start()
    deadline = time.monotonic() + limit_s
    while not call.done.wait(_LOOK_S):
        gone = not call.task.exists()
        # A call may end between the two looks. It is done before its task is gone.
        if call.done.is_set():
            break
        if gone:
            raise KernelStuck(f"{what} was killed by the kernel")
        if time.monotonic() > deadline:
            stack = "".join(f"\n    {line}" for line in _stack(call.task))
            raise KernelStuck(f"{what} has not returned within {limit_s:g} s; it is in{stack}")
    if call.error is not None:
        raise call.error


def _stack(task: Path) -> list[str]:
    try:
        lines = (task / "stack").read_text().splitlines()
    except OSError as error:
        return [f"a place that the kernel does not tell ({error.strerror})"]
    return [line.partition("] ")[2] or line for line in lines[:_STACK_MAX]]


def _write(path: Path, text: str) -> None:
    """Write once: a file object whose write fails tries again when it is closed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
