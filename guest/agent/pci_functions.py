# SPDX-License-Identifier: Apache-2.0
"""The PCI functions under test: removed before a machine state is saved, found again after it.

A saved state has nothing of a device that is outside QEMU. So the guest forgets these functions
first, and scans the bus when it goes on. Linux's Documentation/ABI/testing/sysfs-bus-pci describes
the files. Bridges and QEMU's virtio functions stay: their state is QEMU's. A model of a virtio
device has a subsystem of another vendor.

It is loaded into each saved guest before the tests, so it imports the standard library only.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

PCI: Final = Path("/sys/bus/pci")
CHARACTER_DEVICES: Final = Path("/sys/dev/char")
PROCESSES: Final = Path("/proc")
DETACHED: Final = Path("/run/dma-rehearsal/detached")
"""The removed functions, from `detach` to `attach`: JSON of their `fingerprint` and INTx line."""

_BRIDGE: Final = 0x06  # the base class; PCI Code and ID Assignment Specification, 1.7
_VIRTIO: Final = 0x1AF4  # the vendor of virtio; Virtual I/O Device specification, 4.1.2
# The driver's own files hold memory that the devices have rights to; VFIO's hold a function.
_OWN_FILES: Final = ("/dev/dma-rehearsal", "/dev/vfio/", "anon_inode:[vfio-device]")
_ATTACH_LIMIT_S: Final = 10.0
_LOOK_S: Final = 0.01

# PCI Local Bus Specification 3.0, 6.2.2: the command register. At a boot the firmware sets these
# bits in each function (SeaBIOS, src/fw/pciinit.c): it responds to I/O and memory accesses, and
# reports errors. Linux sets them when a driver enables the function, and not for a user of sysfs.
_COMMAND: Final = 0x04
_SET_BY_FIRMWARE: Final = 0x0001 | 0x0002 | 0x0100
_UNSET: Final = 0x2000_0000  # Linux, IORESOURCE_UNSET: the BAR has no address
# 6.1 and 6.7: the header, and the list of capabilities
_STATUS: Final = 0x06
_STATUS_CAPABILITIES: Final = 1 << 4
_CAPABILITIES: Final = 0x34
_INTERRUPT_LINE, _INTERRUPT_PIN = 0x3C, 0x3D  # the firmware writes the line; no hardware reads it
_CAPABILITIES_MAX: Final = 48  # a broken list may be a ring
# 6.8: the capabilities of MSI and MSI-X, and the numbers of vectors in their Message Control
_MSI, _MSI_VECTORS = 0x05, 0x000E
_MSIX, _MSIX_VECTORS = 0x11, 0x07FF


class AttachFailed(Exception):
    """A function that was removed has not come back as it was."""


def functions() -> list[Path]:
    """Return the folders of the functions that are not bridges or QEMU's virtio, by address."""
    return [folder for folder in sorted((PCI / "devices").iterdir()) if _is_under_test(folder)]


def _is_under_test(folder: Path) -> bool:
    ids = _number(folder, "vendor"), _number(folder, "subsystem_vendor")
    return _number(folder, "class") >> 16 != _BRIDGE and ids != (_VIRTIO, _VIRTIO)


def _number(folder: Path, name: str) -> int:
    return int((folder / name).read_text(), 0)


def fingerprint() -> list[dict[str, Any]]:
    """Return what identifies each function: address, ids, class, BARs, interrupts, driver.

    Equal fingerprints mean that code which looked at the functions need not look again.
    """
    return [_describe(folder) for folder in functions()]


def _describe(folder: Path) -> dict[str, Any]:
    names = "vendor", "device", "subsystem_vendor", "subsystem_device", "revision", "class"
    driver = folder / "driver"
    return {
        "address": folder.name,
        **{name: _number(folder, name) for name in names},
        # Linux, pci_dev_resources: the first, the last address and the flags; unused ones are 0.
        "resources": [
            [int(word, 0) for word in line.split()]
            for line in (folder / "resource").read_text().splitlines()
        ],
        "interrupts": _interrupts(folder / "config"),
        "driver": driver.resolve().name if driver.exists() else None,
    }


def _interrupts(config: Path) -> dict[str, int]:
    """Return the number of the INTx pin, and the Message Control words that count vectors."""
    with config.open("rb", buffering=0) as file:

        def read(place: int, size: int) -> int:
            return int.from_bytes(os.pread(file.fileno(), size, place), "little")

        found = {"pin": read(_INTERRUPT_PIN, 1), "msi": 0, "msix": 0}
        place = read(_CAPABILITIES, 1) if read(_STATUS, 2) & _STATUS_CAPABILITIES else 0
        for _ in range(_CAPABILITIES_MAX):
            if not (place := place & ~3):
                break
            identity, following = read(place, 1), read(place + 1, 1)
            if identity == _MSI:
                found["msi"] = 1 << ((read(place + 2, 2) & _MSI_VECTORS) >> 1)
            elif identity == _MSIX:
                found["msix"] = (read(place + 2, 2) & _MSIX_VECTORS) + 1
            place = following
        return found


def detach() -> str | None:
    """Remove the functions; return None, or why nothing was removed: a process holds one of them.

    `DETACHED` then has what they were. OSError when the kernel refuses.
    """
    found = functions()
    if holder := _holder([folder.resolve() for folder in found]):
        return holder
    if found:  # else they may be detached already, and `attach` is to find those
        DETACHED.parent.mkdir(parents=True, exist_ok=True)
        lines = [_line(folder / "config") for folder in found]
        removed = [{**each, "line": line} for each, line in zip(fingerprint(), lines, strict=True)]
        DETACHED.write_text(json.dumps(removed))
    for folder in reversed(found):
        (folder / "remove").write_text("1")
    return None


def attach(limit_s: float = _ATTACH_LIMIT_S) -> list[dict[str, Any]]:
    """Scan the buses, wait until what was removed is back, and return the `fingerprint`.

    The functions respond to accesses, and have their INTx lines, as the firmware leaves them at a
    boot. A function may come
    back as another device, and then needs no driver; one with the same ids has a driver again if it
    had one. AttachFailed when that takes more than ``limit_s`` seconds.
    """
    removed = json.loads(DETACHED.read_text()) if DETACHED.exists() else []
    (PCI / "rescan").write_text("1")
    deadline = time.monotonic() + limit_s
    while missing := _missing(removed, found := fingerprint()):
        if time.monotonic() > deadline:
            raise AttachFailed(
                f"{limit_s:g} s after a scan of the PCI buses {missing}; the functions there are "
                f"{', '.join(each['address'] for each in found) or 'none'}"
            )
        time.sleep(_LOOK_S)
    lines = {(each["address"], each["interrupts"]["pin"]): each["line"] for each in removed}
    for each in found:
        config = PCI / "devices" / each["address"] / "config"
        if not any(flags & _UNSET for _, _, flags in each["resources"]):
            _enable(config)
        if line := lines.get((each["address"], each["interrupts"]["pin"])):
            _set_line(config, line)
    DETACHED.unlink(missing_ok=True)
    return found


def _enable(config: Path) -> None:
    """Set the bits of the command register that the firmware sets at a boot."""
    with config.open("r+b", buffering=0) as file:
        command = int.from_bytes(os.pread(file.fileno(), 2, _COMMAND), "little")
        if command != (enabled := command | _SET_BY_FIRMWARE):
            os.pwrite(file.fileno(), enabled.to_bytes(2, "little"), _COMMAND)


def _line(config: Path) -> int:
    with config.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), 1, _INTERRUPT_LINE)[0]


def _set_line(config: Path, line: int) -> None:
    if _line(config) != line:
        with config.open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), bytes([line]), _INTERRUPT_LINE)


def _missing(removed: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> str:
    by_address = {each["address"]: each for each in found}
    for before in removed:
        now = by_address.get(before["address"])
        if now is None:
            return f"{before['address']} is missing"
        same = all(now[key] == before[key] for key in ("vendor", "device"))
        if same and before["driver"] and not now["driver"]:
            return f"{before['address']} has no driver, and had {before['driver']}"
    return ""


def _holder(found: Sequence[Path]) -> str | None:
    """Return which process has a file of these functions, or of the driver, open or mapped."""
    for process in PROCESSES.iterdir():
        if process.name.isdecimal():
            for name in _held_by(process, found):
                return f"process {process.name} ({_command(process)}) has {name} open or mapped"
    return None


def _held_by(process: Path, found: Sequence[Path]) -> Iterator[str]:
    for name in {*_open_files(process), *_mapped_files(process)}:
        if name.startswith(_OWN_FILES) or _belongs(Path(name), found):
            yield name


def _belongs(path: Path, found: Iterable[Path]) -> bool:
    """Whether a path is in a function's folder, or is a device file whose folder is in there."""
    try:
        if path.is_absolute() and path.parts[1] == "dev":
            status = path.stat()
            if stat.S_ISCHR(status.st_mode):
                number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
                path = (CHARACTER_DEVICES / number).resolve()
    except (OSError, IndexError):  # gone, or a name that is not a file's
        return False
    return any(path.is_relative_to(folder) for folder in found)


def _open_files(process: Path) -> Iterator[str]:
    try:
        for link in (process / "fd").iterdir():
            yield str(link.readlink())
    except OSError:  # the process has ended, or closed the file
        return


def _mapped_files(process: Path) -> Iterator[str]:
    try:
        lines = (process / "maps").read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:  # Linux, proc_pid_maps(5): five columns, then the path
        if len(columns := line.split(maxsplit=5)) == 6:
            yield columns[5]


def _command(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "ended"
