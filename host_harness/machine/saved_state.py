# SPDX-License-Identifier: Apache-2.0
"""A VM's saved state: a folder with all that a guest needs to go on in another QEMU.

    machine           QEMU's machine state, without RAM (machine_state)
    ram               the pages of RAM that are not all zeros (ram_file)
    boot-console.log  the last of what the guest has said on its console
    facts.json        checksums and sizes of both, the result channel's numbers, the caller's facts

The guest does not run between the two copies, so they fit each other. Functions of the device
process have no state in QEMU: the guest has given them up before (`Vm.detach`), and finds them
again by a rescan (`Vm.resume`). Nothing here depends on the accelerator.

Nothing is flushed to the disk. A host that crashes may leave files that are not whole, and those
have other checksums: such a state is not used.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dma_rehearsal.host_harness.machine import exit_reasons, machine_state, ram_file
from dma_rehearsal.host_harness.machine.guest_memory import RAM_SIZE, GuestMemory
from dma_rehearsal.host_harness.machine.qmp import MonitorError
from dma_rehearsal.host_harness.machine.ram_file import Extent, RamFileError
from dma_rehearsal.host_harness.machine.vm import Vm
from dma_rehearsal.host_harness.process.plain_text import tail

MACHINE, RAM, FACTS = "machine", "ram", "facts.json"
BOOT_CONSOLE = "boot-console.log"
"""The console's text from before the save, in the state and in the folder of a restored VM."""

_FORMAT = 1
_CONSOLE_MAX = 256 << 10  # bytes
_FACTS_MAX = 64 << 20
# A save takes some tenths of a second. A disk on which it takes this long is not worth it.
_WRITE_LIMIT_S = 10.0
_STOP_LIMIT_S = 30.0
_FILL_LIMIT_S = 30.0
_LOAD_LIMIT_S = 20.0
_LAST_WORDS_S = 0.2


class StateUnusable(Exception):
    """A state cannot be saved, or does not fit, or is damaged: the message says why.

    It is about the state alone. The run can go on without it.
    """


def save(vm: Vm, folder: Path, kept: Mapping[str, Any]) -> dict[str, Any]:
    """Save the VM's state into the empty ``folder``; return facts for a manifest.

    The guest stops meanwhile (some tenths of a second) and then goes on; it can be saved again. It
    has given up the device process's functions, and nothing is on its way in the channel. ``kept``
    (JSON) is kept with the state, see `facts`.

    StateUnusable when QEMU refuses, or the guest has said something that the host has not taken;
    OSError when the folder cannot be written, or is too slow. NoVerdict when the VM is lost.
    """
    try:
        vm.monitor.command("stop", timeout_s=_STOP_LIMIT_S)
        return _save_stopped(vm, folder, kept)
    except MonitorError as error:
        raise StateUnusable(str(error)) from error
    finally:
        _go_on(vm)


def _go_on(vm: Vm) -> None:
    try:
        vm.monitor.command("cont", timeout_s=_STOP_LIMIT_S)
    except MonitorError as error:
        raise vm.lost("saved state", f"the machine does not go on: {error}") from error


def _save_stopped(vm: Vm, folder: Path, kept: Mapping[str, Any]) -> dict[str, Any]:
    vm.channel.pull()
    if not vm.channel.is_empty:
        raise StateUnusable("the guest has said something that was not expected")
    machine, ram = folder / MACHINE, folder / RAM
    machine.touch()  # QEMU's own would be for its owner alone, and a cache is for all who read it
    machine_state.save(vm.monitor, machine)
    extents = ram_file.write(vm.memory.fileno(), ram, _WRITE_LIMIT_S)
    vm.console.catch_up()
    (folder / BOOT_CONSOLE).write_bytes(_console(vm.folder))
    saved = machine.read_bytes()
    sent, received = vm.channel.position
    own = {
        "format": _FORMAT,
        "machine": {"size": len(saved), "crc": zlib.crc32(saved)},
        "ram": {"size": RAM_SIZE, "extents": [each.as_json() for each in extents]},
        "channel": {"sent": sent, "received": received},
        "facts": kept,
    }
    text = json.dumps(own, sort_keys=True)
    sealed = {"crc": zlib.crc32(text.encode()), "state": text}
    (folder / FACTS).write_text(json.dumps(sealed) + "\n")
    return {"saved": {"machine": len(saved), "ram": sum(each.length for each in extents)}}


def _console(folder: Path) -> bytes:
    """Return the last of the console's text, from before an earlier save on."""
    said = b""
    for name in (BOOT_CONSOLE, "console.log"):
        with contextlib.suppress(FileNotFoundError):
            said += (folder / name).read_bytes()
    return said[-_CONSOLE_MAX:]


def facts(folder: Path) -> dict[str, Any]:
    """Return the facts that the caller of `save` had kept; StateUnusable for a damaged state."""
    found = _read(folder)["facts"]
    if not isinstance(found, dict):
        raise StateUnusable(f"{FACTS}: there are no facts")
    return found


@contextlib.contextmanager
def restoring(folder: Path, memory: GuestMemory) -> Iterator[Restoring]:
    """Begin to fill a new VM's memory from a state, beside the start of its QEMU.

    The end of the block stops that. StateUnusable for a damaged state.
    """
    state = _read(folder)
    try:
        ram, machine, channel = state["ram"], state["machine"], state["channel"]
        if ram["size"] != RAM_SIZE:
            raise StateUnusable(f"{RAM}: {ram['size']} bytes where a guest has {RAM_SIZE}")
        extents = [Extent.from_json(each, RAM_SIZE) for each in ram["extents"]]
        numbers = machine["size"], machine["crc"], channel["sent"], channel["received"]
        if not all(type(each) is int and each >= 0 for each in numbers):
            raise StateUnusable(f"{FACTS}: malformed numbers")
    except (KeyError, TypeError, RamFileError) as error:
        raise StateUnusable(f"{FACTS}: malformed ({error!r:.80})") from error
    filling = ram_file.Filling(folder / RAM, extents, memory.fileno())
    try:
        filling.start()
        yield Restoring(folder, filling, *numbers)
    finally:
        filling.close()


@dataclass(frozen=True, slots=True)
class Restoring:
    """A guest that is on its way out of the state in ``folder``; made by `restoring`."""

    folder: Path
    filling: ram_file.Filling
    machine_size: int
    machine_crc: int
    sent: int
    received: int

    def finish(self, vm: Vm) -> None:
        """Load the state into the VM's QEMU, which waits for one, and have the guest go on.

        StateUnusable when the state is damaged, or QEMU does not take it: end the VM then.
        """
        try:
            self._check_machine()
            self.filling.finish(_FILL_LIMIT_S)
            machine_state.load(vm.monitor, self.folder / MACHINE, _LOAD_LIMIT_S)
            vm.channel.go_on_from(self.sent, self.received)
            vm.console.up = True
            with contextlib.suppress(OSError):  # for people alone
                shutil.copyfile(self.folder / BOOT_CONSOLE, vm.folder / BOOT_CONSOLE)
            vm.monitor.command("cont")
        except RamFileError as error:
            raise StateUnusable(str(error)) from error
        except MonitorError as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                vm.qemu.wait(_LAST_WORDS_S)
            ended = exit_reasons.of_both(vm.device, vm.qemu, vm.folder)
            said = tail(vm.folder / "qemu.log", 3)
            raise StateUnusable("; ".join([str(error), *filter(None, (ended,)), *said])) from error

    def _check_machine(self) -> None:
        try:
            with (self.folder / MACHINE).open("rb") as file:
                saved = file.read(self.machine_size + 1)
        except OSError as error:
            raise StateUnusable(f"{MACHINE}: {error.strerror}") from error
        if len(saved) != self.machine_size or zlib.crc32(saved) != self.machine_crc:
            raise StateUnusable(f"{MACHINE}: its contents changed")


def _read(folder: Path) -> dict[str, Any]:
    try:
        with (folder / FACTS).open("rb") as file:
            sealed = json.loads(file.read(_FACTS_MAX))
        text = sealed["state"]
        if zlib.crc32(text.encode()) != sealed["crc"]:
            raise StateUnusable(f"{FACTS}: its contents changed")
        found: dict[str, Any] = json.loads(text)
    except OSError as error:
        raise StateUnusable(f"{FACTS}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StateUnusable(f"{FACTS}: malformed ({error!r:.80})") from error
    if found.get("format") != _FORMAT:
        raise StateUnusable(f"{FACTS}: format {found.get('format')!r:.40} is not {_FORMAT}")
    return found
