# SPDX-License-Identifier: Apache-2.0
"""The doctor: it makes nothing, works where nothing is there yet, and each shortcoming fires."""

from __future__ import annotations

import io
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.host_harness.cli import doctor
from dma_rehearsal.host_harness.cli.doctor import Mark
from dma_rehearsal.host_harness.environment import (
    accelerator,
    build_cache,
    disk_space,
    driver_build,
    guest_image,
    host_tools,
    qemu,
)
from dma_rehearsal.host_harness.machine import guest_memory
from dma_rehearsal.host_harness.process import advice
from dma_rehearsal.host_harness.process.errors import Status, UsageError
from dma_rehearsal.host_harness.session import outlook
from dma_rehearsal.host_harness.session.guest_states import Start, StartKind
from tests.unit.host_harness import images
from tests.unit.host_harness.environment.programs import fake_qemu, program
from tests.unit.host_harness.wrapped import run_within


@pytest.fixture(autouse=True)
def _plain(cache_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Start from a machine that has everything: each test takes one thing away."""
    assert not cache_root.exists()
    for name in ("QEMU", "ACCEL", "DMA_REHEARSAL_BUILD"):
        monkeypatch.delenv(name, raising=False)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in host_tools.PACKAGES:
        if shutil.which(name) is None:
            (programs / name).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    keys = tmp_path / "keys.gpg"
    keys.write_text("")
    monkeypatch.setattr(host_tools, "KEYRING", keys)
    monkeypatch.setattr(driver_build, "unavailable_reason", lambda _way: None)


def table() -> tuple[Status, str]:
    stream = io.StringIO()
    status = doctor.run(stream)
    return status, stream.getvalue()


def test_fresh_machine_can_run_and_nothing_is_made(cache_root: Path) -> None:
    status, said = table()
    assert status is Status.PASSED, said
    assert said.endswith("\na run works here\n")
    for subject in ("architecture", "Python", "venv", "tools", "QEMU", "accelerator"):
        assert f"\n{subject} " in f"\n{said}"
    for subject in ("namespaces", "driver", "guest image", "cache", "memory", "saved states"):
        assert f"\n{subject} " in f"\n{said}"
    assert "private one will be made" in said
    assert "to be made: userland, kernel, driver, image; kernel of (bookworm)" in said
    assert f"{cache_root}: 0 entries" in said
    assert "next run      note     boots cold, when everything is made" in said
    assert "saved states  ok       0 booted, 0 with collected tests\n" in said
    assert not cache_root.exists()


def test_packages_that_are_to_be_fetched_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_image, "_made", lambda *_: guest_image.Made("6.1", "3.11", "9"))
    assert "pytest 9" in table()[1]
    monkeypatch.setenv("PACKAGES", "fio")
    said = table()[1]
    assert "to be made: packages; kernel 6.1 (bookworm), Python 3.11" in said
    assert "the first run makes it (needs the network)" in said


def _low_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_memory, "available", lambda: guest_memory.GIB)


def _no_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_space, "free", lambda _folder: 5_000_000)


def _little_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_space, "free", lambda _folder: 1_299_000_000)


def _cache_is_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    build_cache.cache_root().write_text("")
    assert monkeypatch


def _cache_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and real(path, mode))


def _other_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")


def _no_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "xz" else real(name))


def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_tools, "KEYRING", Path("/nonexistent/keys.gpg"))


def _no_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_build, "unavailable_reason", lambda way: f"no {way} here")


def _unknown_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMA_REHEARSAL_BUILD", "magic")


def _foreign_qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_qemu(build_cache.cache_root().parent / "qemu", "echo 'name \"e1000\", bus PCI'")
    monkeypatch.setenv("QEMU", str(fake))


def _hanging_qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "_PROBE_TIMEOUT_S", 0.5)
    fake = fake_qemu(build_cache.cache_root().parent / "qemu", "exec sleep 1000")
    monkeypatch.setenv("QEMU", str(fake))


def _kvm_insisted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCEL", "kvm")
    monkeypatch.setattr(accelerator, "why_kvm_cannot_be_opened", lambda: "/dev/kvm: not there")


def _no_venv_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SOURCE", build_cache.cache_root().parent)
    fake = build_cache.cache_root().parent / "programs" / "python3"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)


@pytest.mark.parametrize(
    ("take_away", "row", "hint"),
    [
        (_low_memory, "memory        MISSING  1.1 GB available, a run needs 1.4 GB", "end other"),
        (_no_space, "5 MB free, where 1.4 GB are needed", "DMA_REHEARSAL_CACHE="),
        (_cache_is_a_file, "is not a folder", "DMA_REHEARSAL_CACHE="),
        (_cache_cannot_be_written, "it cannot be written", "DMA_REHEARSAL_CACHE="),
        (_other_machine, "architecture  MISSING  aarch64, Linux", "run on x86-64"),
        (_no_tool, "tools         MISSING  lacking: xz (xz-utils)", "apt-get install -y xz-utils"),
        (_no_keys, "(debian-archive-keyring)", "apt-get install -y debian-archive-keyring"),
        (_no_way, "driver        MISSING  a kernel module cannot be built", "install -y gcc"),
        (_unknown_way, "driver        MISSING  DMA_REHEARSAL_BUILD=magic", "chroot, userns, host"),
        (_foreign_qemu, "QEMU 7.2.0 has no vfio-user-pci device", "name a QEMU >= 10.1"),
        (_hanging_qemu, "it hangs: no answer within 0.5 s", "name a QEMU >= 10.1"),
        (_kvm_insisted_on, "ACCEL=kvm, but /dev/kvm: not there", "unset ACCEL"),
        (_no_venv_module, "cannot make virtual environments", "apt-get install -y python3-venv"),
    ],
)
def test_each_shortcoming_fires_with_its_hint(
    take_away: Callable[[pytest.MonkeyPatch], None],
    row: str,
    hint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take_away(monkeypatch)
    status, said = table()
    assert status is Status.ENVIRONMENT
    assert row in said
    wanted = said[said.index(row) :].partition("next: ")[2]
    assert hint in wanted.partition("\n")[0]
    assert "a run does not work here: 1 missing" in said


def ready(monkeypatch: pytest.MonkeyPatch, start: Start, chosen: str = "tcg") -> None:
    """Have a QEMU and an image, an accelerator, and a start of the next run."""
    folder = Path("/cache/image")
    found = qemu.Qemu(("true",), "11.1.2", "PATH")
    monkeypatch.setattr(qemu, "given", lambda _note: found)
    monkeypatch.setattr(qemu, "why_no_states", lambda _found: "")
    monkeypatch.setattr(guest_image, "in_cache", lambda _kernel, _packages: images.image(folder))
    monkeypatch.setattr(guest_image, "kernel_in_cache", lambda: folder)
    monkeypatch.setattr(accelerator, "choose", lambda *_: (chosen, chosen))
    monkeypatch.setattr(outlook, "next_start", lambda *_: start)


@pytest.mark.parametrize(
    ("start", "row"),
    [
        (Start(StartKind.COLLECTED), "starts with its tests collected\n"),
        (Start(StartKind.BOOTED, "an edit"), "starts from a booted guest: an edit\n"),
        (Start(StartKind.COLD, "STATE=no"), "boots cold: STATE=no\n"),
    ],
)
def test_start_of_the_next_run(monkeypatch: pytest.MonkeyPatch, start: Start, row: str) -> None:
    ready(monkeypatch, start)
    assert f"next run      ok       {row}" in table()[1]
    assert "untried" not in table()[1]


def test_kvm_is_said_to_be_untried(monkeypatch: pytest.MonkeyPatch) -> None:
    ready(monkeypatch, Start(StartKind.COLLECTED), "kvm")
    status, said = table()
    assert status is Status.PASSED
    assert "saved states under KVM are untried" in said
    assert "next: STATE=no" in said


def test_an_endpoint_that_cannot_be_served_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    ready(monkeypatch, Start(StartKind.COLLECTED))

    def refuse(*_: object) -> Start:
        raise UsageError("ENDPOINT=nic:Card: nic has no class Card", "name another class")

    monkeypatch.setattr(outlook, "next_start", refuse)
    status, said = table()
    assert status is Status.ENVIRONMENT
    assert "next run      MISSING  ENDPOINT=nic:Card: nic has no class Card\n" in said
    assert "next: name another class\n" in said
    assert "saved states  " in said


def test_option_that_is_wrong_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE", "maybe")
    status, said = table()
    assert status is Status.ENVIRONMENT
    assert "saved states  MISSING  STATE=maybe" in said


def test_states_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    there = outlook.SavedStates(2, 3, 1_100_000_000, 7_300.0)
    monkeypatch.setattr(outlook, "saved_states", lambda: there)
    words = "saved states  ok       2 booted, 3 with collected tests; 1.1 GB, the last was used "
    assert f"{words}2 hours ago\n" in table()[1]


@pytest.mark.parametrize(
    ("take_away", "why"),
    [
        (_cache_cannot_be_written, "cannot be written"),
        (_little_space, "1.3 GB are free, and 1.3 GB must be"),
    ],
)
def test_states_that_cannot_be_saved_are_a_note(
    monkeypatch: pytest.MonkeyPatch, take_away: Callable[[pytest.MonkeyPatch], None], why: str
) -> None:
    take_away(monkeypatch)
    said = table()[1]
    row = said[said.index("saved states  note ") :]
    assert "no new one is saved: " in row
    assert why in row
    assert "boot cold where no state fits; DMA_REHEARSAL_CACHE=" in row


def test_qemu_that_saves_nothing_is_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    can = qemu.why_no_states
    ready(monkeypatch, Start(StartKind.COLD))
    for script, why in (
        ('echo \'{"capability": "x-ignore-shared"}\'', ""),
        ("cat >/dev/null", "it has no x-ignore-shared"),
        ("exec sleep 1000", "it gives no answer within 0.5 s"),
    ):
        monkeypatch.setattr(qemu, "_PROBE_TIMEOUT_S", 0.5)
        fake = program(tmp_path / "qemu", script)
        assert can(qemu.Qemu((str(fake),), "11.1.2", "PATH")) == why
    assert "does not start" in can(qemu.Qemu(("/nonexistent/qemu",), "11.1.2", "PATH"))
    monkeypatch.setattr(qemu, "why_no_states", lambda _found: "it has no x-ignore-shared")
    assert "this QEMU saves none: it has no x-ignore-shared" in table()[1]


def test_broken_entries_are_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(staging: Path) -> dict[str, Any]:
        (staging / "file").write_text("x")
        return {}

    entry = build_cache.entry(build_cache.PAYLOAD, {"a": 1}, build)
    (entry / "file").unlink()
    status, said = table()
    assert status is Status.PASSED
    assert f"1 entries are broken, the first is payload/{entry.name}: file: No such file" in said
    assert monkeypatch


def test_look_that_fails_is_a_row_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: Path) -> int:
        raise PermissionError(13, "Permission denied", "/x")

    monkeypatch.setattr(disk_space, "free", fail)
    rows = [row for row in doctor.rows() if row.mark is Mark.MISSING]
    assert [row.subject for row in rows] == ["cache"]
    assert "cannot be checked" in rows[0].found


def test_memory_is_read_as_the_kernel_tells_it(tmp_path: Path) -> None:
    told = tmp_path / "meminfo"
    told.write_text("MemTotal: 9 kB\nMemAvailable:   2048 kB\n")
    assert guest_memory.available(told, tmp_path) == 2 << 20
    for limit, left in (
        ("max", 2 << 20),
        ("1048576", (1 << 20) - 4096),
        ("4095", 0),
        ("", 2 << 20),
    ):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text("4096\n")
        assert guest_memory.available(told, tmp_path) == left
    told.write_text("MemTotal: 9 kB\n")
    assert guest_memory.available(told, tmp_path) == 0


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "dma_rehearsal.host_harness.cli.doctor"],
        ["-S", "-m", "dma_rehearsal.host_harness.cli.doctor"],
    ],
)
def test_it_needs_the_standard_library_alone(command: list[str], cache_root: Path) -> None:
    done = run_within([], [sys.executable, *command], DMA_REHEARSAL_CACHE=str(cache_root))
    assert "Traceback" not in done.stderr
    assert done.stdout.rstrip().splitlines()[-1].startswith("a run ")
    assert done.returncode in (0, 3)
    assert not cache_root.exists()


def test_clean_cache_reports_what_it_freed(cache_root: Path) -> None:
    def build(staging: Path) -> dict[str, Any]:
        (staging / "file").write_bytes(bytes(1_000_000))
        return {}

    build_cache.entry(build_cache.PAYLOAD, {"a": 1}, build)
    build_cache.release()
    done = run_within(
        [], [sys.executable, "-m", "dma_rehearsal.host_harness.cli.doctor", "clean-cache"]
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"freed 1 MB in {cache_root}\n"
    assert not cache_root.exists()


def test_unknown_word_is_a_usage_error() -> None:
    assert (
        run_within(
            [], [sys.executable, "-m", "dma_rehearsal.host_harness.cli.doctor", "x"]
        ).returncode
        == 2
    )


def test_reader_that_has_seen_enough() -> None:
    """The status is that of the machine, whoever reads."""
    command = f"{sys.executable} -m dma_rehearsal.host_harness.cli.doctor"
    whole = run_within([], command.split())
    cut = run_within([], ["bash", "-c", f"{command} | head -n 1; exit ${{PIPESTATUS[0]}}"])
    assert (cut.returncode, cut.stderr) == (whole.returncode, "")
    assert cut.stdout.count("\n") == 1


def test_an_installed_package_looks_at_its_own_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "_MAKEFILE", Path("/nonexistent"))
    status, said = table()
    assert status is Status.PASSED
    assert f"packages      ok       pytest {pytest.__version__}, " in said
    assert "make " not in said.replace("make anything", "")
    monkeypatch.setattr(doctor, "_PACKAGES", ("pytest", "not-there"))
    status, said = table()
    assert status is Status.ENVIRONMENT
    assert "packages      MISSING  lacking: not-there\n" in said
    assert "-m pip install --force-reinstall dma-rehearsal" in said
