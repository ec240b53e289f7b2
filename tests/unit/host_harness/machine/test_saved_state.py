# SPDX-License-Identifier: Apache-2.0
"""A VM's saved state: what is kept, what makes it unusable, and that the guest goes on anyway."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.host_harness.machine import ram_file, saved_state
from dma_rehearsal.host_harness.machine.channel import Channel
from dma_rehearsal.host_harness.machine.console import Console
from dma_rehearsal.host_harness.machine.guest_memory import GuestMemory
from dma_rehearsal.host_harness.machine.saved_state import StateUnusable
from dma_rehearsal.host_harness.process.errors import NoVerdict
from tests.unit.host_harness.machine.fake_qemu import MACHINE_BYTES, FakeQemu
from tests.unit.host_harness.machine.staged_vm import Stage, staged

RAM_BYTES = b"the guest's RAM"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    folder = tmp_path / "vm"
    folder.mkdir()
    with staged(folder) as made:
        qemu: Any = FakeQemu(made.vm.monitor.panicked)
        made.vm.monitor = qemu
        os.pwrite(made.vm.memory.fileno(), RAM_BYTES, 123 * PAGE)
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for a state."""
    made = tmp_path / "state"
    made.mkdir()
    return made


@pytest.fixture
def qemu(stage: Stage) -> FakeQemu:
    """The VM's monitor."""
    found: Any = stage.vm.monitor
    assert isinstance(found, FakeQemu)
    return found


@pytest.fixture
def saved(stage: Stage, folder: Path) -> Path:
    """A sound state."""
    saved_state.save(stage.vm, folder, {"key": "value"})
    return folder


def restore(folder: Path, stage: Stage) -> None:
    """Restore a state into the stage's VM, in place of the RAM that it has."""
    fresh = GuestMemory.create()
    os.dup2(fresh.fileno(), stage.vm.memory.fileno(), inheritable=False)
    fresh.close()
    with saved_state.restoring(folder, stage.vm.memory) as restoring:
        restoring.finish(stage.vm)


def threads() -> set[str]:
    return {each.name for each in threading.enumerate() if "ram" in each.name.lower()}


def test_state_comes_back(stage: Stage, folder: Path, qemu: FakeQemu) -> None:
    vm = stage.vm
    for number in range(3):
        stage.guest.send({"type": "x", "number": number})
        vm.receive("test", "x")
    vm.send("test", {"type": "y"})
    told = saved_state.save(vm, folder, {"key": "value"})
    assert told == {"saved": {"machine": len(MACHINE_BYTES), "ram": PAGE}}
    assert (qemu.said[0], qemu.said[-1]) == ("stop", "cont")
    assert saved_state.facts(folder) == {"key": "value"}
    assert {path.name for path in folder.iterdir()} == {
        *("machine", "ram", "facts.json", "boot-console.log"),
    }

    qemu.said.clear()
    vm.channel.go_on_from(0, 0)
    restore(folder, stage)
    assert vm.memory.read(123 * PAGE, len(RAM_BYTES)) == RAM_BYTES
    assert vm.console.up
    vm.await_kernel()
    assert vm.channel.position == (1, 3)
    stage.guest.send({"type": "x", "number": 3})  # the fourth frame, to the guest
    assert vm.receive("test", "x")["number"] == 3
    assert (qemu.said[0], qemu.said[-1]) == ("migrate-set-capabilities", "cont")


def test_files_of_a_state_are_for_all_who_may_read_the_cache(saved: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in saved.iterdir()} == {0o666 & ~umask}


def test_guest_does_not_run_between_the_two_copies(
    stage: Stage, folder: Path, qemu: FakeQemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = ram_file.write

    def look(ram: int, path: Path, limit_s: float) -> list[ram_file.Extent]:
        assert qemu.said[0] == "stop"
        assert "migrate" in qemu.said
        assert "cont" not in qemu.said
        return write(ram, path, limit_s)

    monkeypatch.setattr(ram_file, "write", look)
    saved_state.save(stage.vm, folder, {})


def test_console_is_kept_from_save_to_save(stage: Stage, saved: Path, tmp_path: Path) -> None:
    log = stage.vm.folder / "console.log"
    first = (saved / saved_state.BOOT_CONSOLE).read_text()
    assert first == log.read_text()
    restore(saved, stage)
    assert (stage.vm.folder / saved_state.BOOT_CONSOLE).read_text() == first
    log.write_text("after the restore\n")
    again = tmp_path / "again"
    again.mkdir()
    saved_state.save(stage.vm, again, {})
    assert (again / saved_state.BOOT_CONSOLE).read_text() == f"{first}after the restore\n"


def test_console_is_kept_once_all_of_it_is_read(
    stage: Stage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def catch_up(_console: Console) -> None:
        (stage.vm.folder / "console.log").write_text("all of it")

    monkeypatch.setattr(Console, "catch_up", catch_up)
    saved_state.save(stage.vm, folder, {})
    assert (folder / saved_state.BOOT_CONSOLE).read_text() == "all of it"


def test_console_that_is_kept_has_a_bound(stage: Stage, folder: Path) -> None:
    (stage.vm.folder / "console.log").write_bytes(b"x" * (300 << 10) + b"last")
    saved_state.save(stage.vm, folder, {})
    kept = (folder / saved_state.BOOT_CONSOLE).read_bytes()
    assert len(kept) == 256 << 10
    assert kept.endswith(b"last")


# --- a save that fails


@pytest.mark.parametrize("name", ["stop", "migrate-set-capabilities", "migrate", "query-migrate"])
def test_qemu_that_refuses_to_save_goes_on(
    stage: Stage, folder: Path, qemu: FakeQemu, name: str
) -> None:
    qemu.fails[name] = "a device cannot be saved"
    with pytest.raises(StateUnusable, match="a device cannot be saved"):
        saved_state.save(stage.vm, folder, {})
    assert qemu.said[-1] == "cont"


def test_guest_that_says_something_meanwhile_is_not_saved(
    stage: Stage, folder: Path, qemu: FakeQemu
) -> None:
    """The state would hold that it was sent, and its message would be lost."""
    stage.guest.send({"type": "surprise"})
    with pytest.raises(StateUnusable, match="something that was not expected"):
        saved_state.save(stage.vm, folder, {})
    assert qemu.said[-1] == "cont"
    assert stage.vm.receive("test", "surprise")["type"] == "surprise"


def test_full_disk_is_an_os_error_and_the_guest_goes_on(
    stage: Stage, folder: Path, qemu: FakeQemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ram_file, "write", full)
    with pytest.raises(OSError, match="No space left"):
        saved_state.save(stage.vm, folder, {})
    assert qemu.said[-1] == "cont"


def test_machine_that_does_not_go_on_is_lost(stage: Stage, folder: Path, qemu: FakeQemu) -> None:
    qemu.fails["cont"] = "no answer"
    with pytest.raises(
        NoVerdict, match=r"saved state: the machine does not go on: cont: no answer"
    ):
        saved_state.save(stage.vm, folder, {})
    qemu.fails["stop"] = "no answer"
    with pytest.raises(NoVerdict, match=r"does not go on"):
        saved_state.save(stage.vm, folder, {})


# --- a state that is damaged, or does not fit


def _change(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    return change


def _rewrite(**changes: Any) -> Callable[[Path], object]:
    """Return a change of facts.json whose checksum is right."""

    def rewrite(folder: Path) -> None:
        path = folder / saved_state.FACTS
        state = json.loads(json.loads(path.read_text())["state"]) | changes
        text = json.dumps({key: value for key, value in state.items() if value is not None})
        path.write_text(json.dumps({"crc": zlib.crc32(text.encode()), "state": text}))

    return rewrite


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "other machine": (_change("machine"), "machine: its contents changed"),
    "other ram": (_change("ram"), "ram: its contents changed"),
    "other facts": (_change("facts.json"), "facts.json: "),
    "short machine": (lambda f: os.truncate(f / "machine", 5), "machine: its contents changed"),
    "short ram": (lambda f: os.truncate(f / "ram", 5), "ram: it is truncated"),
    "short facts": (lambda f: os.truncate(f / "facts.json", 50), "facts.json: malformed"),
    "no machine": (lambda f: (f / "machine").unlink(), "machine: No such file"),
    "no ram": (lambda f: (f / "ram").unlink(), r"ram: .*No such file"),
    "no facts": (lambda f: (f / "facts.json").unlink(), "facts.json: No such file"),
    "empty facts": (lambda f: os.truncate(f / "facts.json", 0), "facts.json: malformed"),
    "a list": (lambda f: (f / "facts.json").write_text("[]"), "facts.json: malformed"),
    "binary facts": (lambda f: (f / "facts.json").write_bytes(b"\xff\0"), "facts.json: malformed"),
    "other format": (_rewrite(format=99), "facts.json: format 99 is not 1"),
    "no extents": (_rewrite(ram={"size": 1 << 30}), "facts.json: malformed"),
    "other size": (_rewrite(ram={"size": 5, "extents": []}), "5 bytes where a guest has"),
    "text in extents": (
        _rewrite(ram={"size": 1 << 30, "extents": ["x"]}),
        "facts.json: malformed.*does not describe",
    ),
    "extent outside": (
        _rewrite(ram={"size": 1 << 30, "extents": [[1 << 30, 4096, 0, 0]]}),
        "facts.json: malformed.*is not within",
    ),
    "no channel": (_rewrite(channel=None), "facts.json: malformed"),
    "text for a number": (
        _rewrite(channel={"sent": "1", "received": 0}),
        "facts.json: malformed numbers",
    ),
    "text for a state": (_rewrite(machine="x"), "facts.json: malformed"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_state_is_unusable_and_nothing_goes_on(
    stage: Stage, saved: Path, qemu: FakeQemu, name: str
) -> None:
    damage, said = DAMAGES[name]
    damage(saved)
    qemu.said.clear()
    with pytest.raises(StateUnusable, match=said):
        restore(saved, stage)
    assert "cont" not in qemu.said
    assert not stage.vm.console.up
    assert not threads()


def test_facts_of_a_damaged_state_are_not_told(saved: Path) -> None:
    _rewrite(facts="no table")(saved)
    with pytest.raises(StateUnusable, match="there are no facts"):
        saved_state.facts(saved)
    _change("facts.json")(saved)
    with pytest.raises(StateUnusable):
        saved_state.facts(saved)


@pytest.mark.parametrize("name", ["migrate-set-capabilities", "migrate-incoming", "cont"])
def test_qemu_that_refuses_to_load(stage: Stage, saved: Path, qemu: FakeQemu, name: str) -> None:
    qemu.fails[name] = "not with these devices"
    (stage.vm.folder / "qemu.log").write_text("qemu: unknown section\n")
    with pytest.raises(StateUnusable, match=r"not with these devices; qemu: unknown section"):
        restore(saved, stage)


def test_qemu_that_fails_to_load_says_why(stage: Stage, saved: Path, qemu: FakeQemu) -> None:
    qemu.migration = {"status": "failed", "error-desc": "length mismatch: pc.bios"}
    with pytest.raises(StateUnusable, match=r"does not load the state: length mismatch: pc\.bios"):
        restore(saved, stage)


def test_qemu_that_does_not_come_to_an_end_has_a_limit(
    stage: Stage, saved: Path, qemu: FakeQemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu.migration = {"status": "active"}
    monkeypatch.setattr(saved_state, "_LOAD_LIMIT_S", 0.05)
    with pytest.raises(StateUnusable, match=r"not loaded within 0\.05 s"):
        restore(saved, stage)


def test_qemu_that_dies_of_a_state_is_named(stage: Stage, saved: Path, qemu: FakeQemu) -> None:
    qemu.fails["query-migrate"] = "EOFError"
    qemu.on_migrate = stage.vm.qemu.kill
    with pytest.raises(StateUnusable, match="EOFError; QEMU ended with killed by SIGKILL"):
        restore(saved, stage)


def test_restore_that_is_given_up_leaves_no_thread(stage: Stage, saved: Path) -> None:
    with saved_state.restoring(saved, stage.vm.memory):
        pass
    assert not threads()


def test_frames_of_a_restored_guest_follow_those_of_the_saved_one() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        host, guest = Channel(ours), Channel(theirs)
        assert host.position == (0, 0)
        assert host.is_empty
        host.send({"type": "a"})
        guest.go_on_from(5, 7)
        guest.send({"type": "b"})
        host.pull()
        assert not host.is_empty
        host.go_on_from(1, 5)
        assert host.take() == {"type": "b"}
        assert host.position == (1, 6)
