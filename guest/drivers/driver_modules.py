# SPDX-License-Identifier: Apache-2.0
"""The drivers that a run was given: modules in the payload, and those built into the kernel.

``modules.json`` beside the modules lists them, each with what it depends on, dependencies first.
The host writes it.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from dma_rehearsal.guest.drivers.pci_bars import PciError
from dma_rehearsal.guest.linux import kernel_modules

FOLDER: Final = Path("/opt/dma-rehearsal/modules")
BEFORE: Final = "kernel"
"""The folder, below `FOLDER`, of the kernel's own modules that are loaded before the tests."""
LIST: Final = "modules.json"
LOADED: Final = Path("/sys/module")
PCI_DRIVERS: Final = Path("/sys/bus/pci/drivers")

Value = int | str | Sequence[int | str]
"""The value of a module's parameter; a list for an array."""


@dataclass(frozen=True, slots=True)
class DriverModule:
    """A module by its name in /sys/module. ``file`` is None when the kernel has it built in."""

    name: str
    file: Path | None
    depends: tuple[str, ...] = ()

    @property
    def loaded(self) -> bool:
        """Whether the kernel has it."""
        return (LOADED / self.name).is_dir()


def under_test() -> bool:
    """Whether the run was given a kernel driver."""
    return (FOLDER / LIST).exists()


def load_before_tests(folder: Path | None = None) -> None:
    """Load the kernel's own modules that the run was given (KERNEL_MODULES); `PciError`."""
    modules = DriverModules((FOLDER if folder is None else folder) / BEFORE)
    for module in modules.known:
        if module.file is not None and not module.loaded:
            _load(module.file, "")


class DriverModules:
    """Loads and unloads the modules of a run. What it finds loaded already, it leaves loaded.

    A module that the guest itself needs is used as one that is built in.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """`PciError` for a list that cannot be read; a run without MODULE has none."""
        self._known: dict[str, DriverModule] = {}
        folder = FOLDER if folder is None else folder
        path = folder / LIST
        if not path.exists():
            return
        try:
            listed = [_module(folder, each) for each in json.loads(path.read_text())["modules"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PciError(f"{path}: not a list of modules: {error!r}") from error
        self._known = {each.name: each for each in listed}

    @property
    def known(self) -> tuple[DriverModule, ...]:
        """The modules of the list, dependencies first."""
        return tuple(self._known.values())

    def find(self, name: str) -> DriverModule:
        """Return a driver's module by its name, in which - and _ are the same; `PciError`."""
        name = name.replace("-", "_")
        if (found := self._known.get(name)) is not None:
            return replace(found, file=None) if name in _of_the_start() else found
        if (LOADED / name).is_dir():
            return DriverModule(name, None)
        listed = ", ".join(self._known) or "none"
        raise PciError(
            f"there is no module {name}: this run has {listed}, and the kernel has no such driver "
            "built in; next: name it by MODULE=path or DRIVER=name (--vm-module, --vm-driver)"
        )

    def load(self, name: str, parameters: Mapping[str, Value]) -> DriverModule:
        """Load a module with these parameters, and before it what it depends on; `PciError`.

        A module with a file is loaded afresh, so that its parameters count. The parameters of
        one that is built in are set as far as the kernel lets them be set.
        """
        module = self.find(name)
        if module.file is None:
            self._set(module, parameters)
            return module
        if module.loaded:
            self.unload(module)
        for needed in self.needed(module):
            if needed.file is not None and not needed.loaded:
                _load(needed.file, "")
        _load(module.file, arguments(parameters))
        return module

    def unload(self, module: DriverModule) -> None:
        """Unload a module that has a file; what it depends on stays. `PciError` while in use."""
        if module.file is None or not module.loaded:
            return
        try:
            kernel_modules.unload(module.name)
        except OSError as error:
            users = ", ".join(sorted(_users(module.name)))
            why = f"modules use it: {users}" if users else "close what the test has opened of it"
            busy = error.errno in (errno.EWOULDBLOCK, errno.EBUSY)
            raise PciError(f"{error}{f'; {why}' if busy else ''}") from error

    def pci_driver(self, module: DriverModule) -> str:
        """Return the name of the PCI driver that a loaded module has registered; `PciError`."""
        folder = LOADED / module.name / "drivers"  # Linux, sysfs-module: links named bus:driver
        found = sorted(
            each.name.removeprefix("pci:")
            for each in (folder.iterdir() if folder.is_dir() else ())
            if each.name.startswith("pci:")
        )
        if not found and (PCI_DRIVERS / module.name).is_dir():
            return module.name
        if not found:
            raise PciError(f"{module.name} is loaded, and has registered no PCI driver")
        if len(found) > 1 and module.name in found:
            return module.name
        return found[0]

    def needed(self, module: DriverModule) -> list[DriverModule]:
        """Return what a module depends on, also indirectly, dependencies first."""
        found: dict[str, DriverModule] = {}

        def add(each: DriverModule) -> None:
            for name in each.depends:
                known = self._known.get(name)
                if known is not None and name not in found and name != module.name:
                    found[name] = known  # before the recursion: a list may have a circle
                    add(known)
                    found[name] = found.pop(name)

        add(module)
        return list(found.values())

    def _set(self, module: DriverModule, parameters: Mapping[str, Value]) -> None:
        for name, value in parameters.items():
            path = LOADED / module.name / "parameters" / name
            try:
                path.write_text(_text(value))
            except OSError as error:
                raise PciError(
                    f"{module.name} is built into this kernel, which does not let its parameter "
                    f"{name} be set now: {error.strerror}; next: APPEND={module.name}.{name}="
                    f"{_text(value)}"
                ) from error


def _of_the_start() -> set[str]:
    """Return the modules that the guest loaded at its start: it needs them, such as virtio_pci."""
    try:
        names = (kernel_modules.MODULES / "order").read_text().split()
    except OSError:
        return set()  # a board
    return {name.replace("-", "_") for name in names}


def sections(module: str) -> dict[str, int]:
    """Return where the sections of a loaded module are in memory, by their names.

    They name the callers in reports. It is empty where the kernel does not tell.
    """
    folder = LOADED / module / "sections"
    found = {}
    try:
        for each in folder.iterdir():
            found[each.name] = int(each.read_text(), 16)
    except (OSError, ValueError):
        return {}
    return found


def arguments(parameters: Mapping[str, Value]) -> str:
    """Return parameters as the kernel takes them: words of the form name=value."""
    return " ".join(f"{name}={_quoted(_text(value))}" for name, value in parameters.items())


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return "Y" if value else "N"
    if isinstance(value, int | str):
        return str(value)
    return ",".join(map(_text, value))


def _quoted(text: str) -> str:
    return f'"{text}"' if " " in text else text


def _module(folder: Path, value: Mapping[str, Any]) -> DriverModule:
    file = value["file"]
    name = str(value["name"])
    return DriverModule(
        name,
        None if file is None else folder / str(file),
        tuple(str(each) for each in value.get("depends", ())),
    )


def _load(file: Path, words: str) -> None:
    try:
        kernel_modules.load_file(file, words)
    except OSError as error:
        hint = {
            errno.ENOENT: "a parameter or a symbol is unknown",
            errno.EINVAL: "a parameter's value is wrong",
            errno.ENOEXEC: "it was built for another kernel",
        }.get(error.errno or 0, "its init function failed")
        raise PciError(f"{error} ({hint}; the kernel's messages say more)") from error


def _users(name: str) -> list[str]:
    folder = LOADED / name / "holders"
    return [each.name for each in folder.iterdir()] if folder.is_dir() else []
