# SPDX-License-Identifier: Apache-2.0
"""A kernel with one PCI function, as folders: modules are loaded, drivers bound, and messages come.

A module's file is JSON: the name of its PCI driver.
"""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dma_rehearsal.device.layout import DmaReason, PlatformFeature
from dma_rehearsal.guest.drivers import driver_modules, kernel_binding, pci_sysfs
from dma_rehearsal.guest.drivers.platform.cache_unit import CacheModelMode
from dma_rehearsal.guest.linux import kernel_modules
from dma_rehearsal.guest.testkit import driver_rehearsal

ADDRESS = "0000:00:04.0"
OTHER = "0000:00:06.0"
OPS = "dma_rehearsal_ops"


class FakeKernel:
    """The kernel. ``log`` lists what was done to it, ``probe`` and ``remove`` are the driver's."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.log: list[str] = []
        self.messages: list[str] = []
        self.probe: Callable[[], None] = lambda: None
        self.remove: Callable[[], None] = lambda: None
        self.calls, self.failed = 0, 0
        self.due = 0  # fail_nth
        self.in_use: list[str] = []
        self.devices = root / "bus" / "devices"
        self.modules = root / "module"
        self.files = root / "modules"
        for folder in self.devices, self.modules, self.files, root / "bus" / "drivers":
            folder.mkdir(parents=True)
        for address in ADDRESS, OTHER:
            self.add_function(address, 0x1234, 0xC5C5)
        self.add_function("0000:00:05.0", 0x1234, 0xDA7A)
        self.add_function("0000:00:01.0", 0x1AF4, 0x1003)
        self.add_function("0000:00:00.0", 0x8086, 0x29C0, 0x060000)
        self.list_modules([{"name": "my_driver", "file": "my_driver.ko", "depends": []}])
        (self.files / "my_driver.ko").write_text('"my-driver"')
        patch.setattr(pci_sysfs, "DEVICES", self.devices)
        self.image = root / "image"
        self.image.mkdir()
        patch.setattr(kernel_modules, "MODULES", self.image)
        patch.setattr(driver_modules, "FOLDER", self.files)
        patch.setattr(driver_modules, "LOADED", self.modules)
        patch.setattr(driver_modules, "PCI_DRIVERS", root / "bus" / "drivers")
        patch.setattr(kernel_binding, "_write", self.write)
        patch.setattr(kernel_modules, "load", self.load_ours)
        patch.setattr(kernel_modules, "load_file", self.load_file)
        patch.setattr(kernel_modules, "unload", self.unload)
        patch.setattr(driver_rehearsal, "KernelMessages", self.kernel_messages)
        patch.setattr(driver_rehearsal, "KALLSYMS", root / "kallsyms")
        driver_rehearsal.kernel_start.cache_clear()

    def add_function(
        self,
        address: str,
        vendor: int,
        device: int,
        code: int = 0xFF0000,
        subsystem_vendor: int = 0,
    ) -> None:
        folder = self.devices / address
        folder.mkdir()
        for name, value in {
            "vendor": vendor,
            "device": device,
            "subsystem_vendor": subsystem_vendor or vendor,
            "class": code,
        }.items():
            (folder / name).write_text(f"{value:#x}\n")
        (folder / "driver_override").write_text("(null)\n")

    def list_modules(self, modules: list[dict[str, Any]]) -> None:
        (self.files / "modules.json").write_text(json.dumps({"modules": modules}))

    def build_in(self, module: str, driver: str) -> None:
        """Have a driver in the kernel."""
        self._register(module, driver)

    def bound(self, address: str = ADDRESS) -> str | None:
        link = self.devices / address / "driver"
        return link.readlink().name if link.is_symlink() else None

    @contextmanager
    def kernel_messages(self) -> Any:
        start = len(self.messages)
        yield SimpleNamespace(read=lambda: self.messages[start:])

    # What the kernel does.

    def load_ours(self, module: str, words: str) -> None:
        self.log.append(f"load {module} {words}")
        self._register(module, "")
        given = dict(word.split("=", 1) for word in words.split())
        self.calls = self.failed = 0
        self.due = int(given.get("fail_nth", 0))
        self._count()

    def load_file(self, file: Path, words: str) -> None:
        self.log.append(f"load {file.stem} {words}".rstrip())
        self._register(file.stem, json.loads(file.read_text()))

    def unload(self, module: str) -> None:
        if module in self.in_use:
            raise OSError(errno.EWOULDBLOCK, f"unloading {module}: in use")
        self.log.append(f"unload {module}")
        drivers = self.modules / module / "drivers"
        for link in drivers.iterdir() if drivers.is_dir() else ():
            (self.root / "bus" / "drivers" / link.name.removeprefix("pci:")).rmdir()
            link.unlink()
        for path in sorted((self.modules / module).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (self.modules / module).rmdir()

    def _register(self, module: str, driver: str) -> None:
        folder = self.modules / module
        for part in "parameters", "sections", "drivers":
            (folder / part).mkdir(parents=True)
        (folder / "sections" / ".text").write_text("0xffffffffc0100000\n")
        (folder / "sections" / ".data").write_text("0xffffffffc0200000\n")
        if driver:
            (self.root / "bus" / "drivers" / driver).mkdir()
            (folder / "drivers" / f"pci:{driver}").touch()

    def write(self, path: Path, text: str) -> None:
        if path.name == "driver_override":
            path.write_text(text)
            return
        link = self.devices / text / "driver"
        driver = path.parent.name
        if path.name == "bind":
            assert (self.devices / text / "driver_override").read_text() == driver
            assert not link.is_symlink()
            self.log.append(f"bind {driver} {text}")
            self.probe()
            link.symlink_to(path.parent)
        else:
            self.log.append(f"unbind {driver} {text}")
            self.remove()
            link.unlink()
        self._count()

    def call(self) -> None:
        """A call of the driver that can fail; OSError where it is its turn."""
        self.calls += 1
        self._count()
        if self.calls == self.due:
            self.failed += 1
            self._count()
            raise OSError(errno.ENOMEM, "the mapping failed")

    def _count(self) -> None:
        folder = self.modules / OPS / "parameters"
        if folder.is_dir():
            (folder / "calls").write_text(f"{self.calls}\n")
            (folder / "failed").write_text(f"{self.failed}\n")


class FakePlatform:
    """The platform's registers. ``held`` actions go when they are released."""

    def __init__(self) -> None:
        self.features = PlatformFeature(~0)
        self.pci = SimpleNamespace(address="0000:00:05.0")
        self.protection = SimpleNamespace(enabled=True)
        self.cache = FakeCache()
        self.board = FakeBoard()


class FakeCache:
    """The cache model's commands."""

    def __init__(self) -> None:
        self.mode = CacheModelMode.OFF
        self.taken = 0

    def configure(self, mode: CacheModelMode, _line: int, _seed: int = 0) -> None:
        self.mode = mode

    def take_reports(self) -> list[object]:
        self.taken += 1
        return []


class FakeBoard:
    """The board's switches. ``deaf``: a release does nothing."""

    def __init__(self) -> None:
        self.snooped, self.holding = True, False
        self.held = self.expired = self.releases = 0
        self.deaf = False
        self.went = threading.Event()

    def release(self) -> None:
        self.releases += 1
        if not self.deaf and self.held:
            self.held = 0
            self.went.set()


class FakeSession:
    """What a rehearsal needs of `SessionPlatform`."""

    def __init__(self) -> None:
        self.platform: Any = FakePlatform()
        self.stuck = ""
        self.said: list[tuple[str, Any]] = []
        self.announced: list[tuple[frozenset[DmaReason], int, int]] = []
        self.marks = 0

    def mark(self) -> int:
        self.marks += 1
        return self.marks

    def sequence(self) -> int:
        return 10 + self.marks

    def say(self, name: str, value: object) -> None:
        self.said.append((name, value))

    def announce(self, reasons: frozenset[DmaReason], first: int, last: int) -> None:
        self.announced.append((reasons, first, last))
