# SPDX-License-Identifier: Apache-2.0
"""QEMU's command line, the memory layout, run folders and faults: what other parts rely on."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment import accelerator, qemu
from dma_rehearsal.host_harness.machine import guest_memory, kernel_cmdline, launch, qemu_command
from dma_rehearsal.host_harness.options import run_options
from dma_rehearsal.host_harness.process import plain_text
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure, Status
from dma_rehearsal.host_harness.session import run_folder

WIRING = qemu_command.Wiring(
    console_fd=10,
    results_fd=11,
    qmp_fd=12,
    initramfs_fd=13,
    memory_fd=14,
    exerciser_socket=Path("/run/x/exerciser"),
    platform_socket=Path("/run/x/platform"),
)


def argv(accelerator: str = "tcg", *, iommu: bool = False) -> list[str]:
    return qemu_command.command(
        qemu.Qemu(("qemu",), "11.1", "test"),
        accelerator,
        Path("/vmlinux"),
        Path("/runs/1,5"),
        WIRING,
        "a.word=1",
        iommu=iommu,
    )


def test_memory_is_shared_with_the_device() -> None:
    words = argv()
    backend = words[words.index("-object") + 1]
    assert backend == (
        f"memory-backend-file,id=ram,size={guest_memory.RAM_SIZE},mem-path=/proc/self/fd/14,share=on"
    )
    assert "memory-backend=ram" in words[words.index("-machine") + 1]


def test_only_emulation_hides_byte_wise_string_instructions_from_the_guest() -> None:
    tcg, kvm = argv("tcg"), argv("kvm")
    assert tcg[tcg.index("-cpu") + 1] == "max,erms=off,fsrm=off"
    assert kvm[kvm.index("-cpu") + 1] == "max"


def test_both_functions_are_plugged_in() -> None:
    devices = [json.loads(word) for word in argv() if word.startswith("{")]
    assert {(each["id"], each["socket"]["path"]) for each in devices} == {
        ("exerciser", "/run/x/exerciser"),
        ("platform", "/run/x/platform"),
    }


def test_a_peer_comes_behind_the_exerciser() -> None:
    """The guest finds the exerciser as the first function of its id, in the order of addresses."""
    words = qemu_command.command(
        qemu.Qemu(("qemu",), "11.1", "test"),
        "tcg",
        Path("/vmlinux"),
        Path("/runs/1,5"),
        replace(WIRING, peer_socket=Path("/run/x/peer")),
        "",
    )
    devices = [json.loads(word)["id"] for word in words if word.startswith("{")]
    assert devices == ["exerciser", "platform", "peer"]


def test_a_second_opinion_is_plugged_in_as_it_comes_and_with_a_wide_mask() -> None:
    assert [word for word in argv() if word.startswith("edu")] == [
        "edu,bus=pcie.0",
        "edu,bus=pcie.0,dma_mask=1099511627775",
    ]


def test_with_an_iommu_the_exerciser_is_behind_it_and_the_platform_is_not() -> None:
    words = argv(iommu=True)
    assert "intel-iommu,intremap=on,caching-mode=on" in words
    assert "kernel-irqchip=split" in words[words.index("-machine") + 1]
    given = run_options.parse({"iommu": "intel"})
    cmdline = kernel_cmdline.run_parameters(given, isolated=False, shells=0)
    assert "intel_iommu=on" in cmdline
    buses = {each["id"]: each["bus"] for each in map(json.loads, filter(_is_json, words))}
    assert buses == {"exerciser": "pcie.0", "platform": "soc"}
    outside = [word for word in words if "bypass_iommu=on" in word]
    assert outside == ["pxb-pcie,id=outside,bus_nr=8,bypass_iommu=on"]
    assert "pcie-root-port,id=soc,bus=outside,chassis=1" in words
    # What is plugged in before the IOMMU would not be behind it.
    positions = [words.index("intel-iommu,intremap=on,caching-mode=on"), words.index(outside[0])]
    assert max(positions) < min(words.index(word) for word in words if _is_json(word))
    assert not any("intel" in word for word in argv())


def _is_json(word: str) -> bool:
    return word.startswith("{")


def test_kernel_words_come_last_so_that_they_win() -> None:
    words = argv()
    assert words[words.index("-append") + 1] == "a.word=1"
    line = kernel_cmdline.command_line(["a.word=1"]).split()
    assert line[-1] == "a.word=1"
    assert "memmap=0x4000000$0xc000000" in line


def test_only_a_guest_that_places_its_own_processes_has_an_isolated_cpu() -> None:
    given = run_options.parse({"append": "a.word=1"})
    for isolated in False, True:
        words = kernel_cmdline.run_parameters(given, isolated=isolated, shells=0)
        assert ("isolcpus=domain,1" in words) is isolated
        assert words[-1] == "a.word=1"


def test_carve_outs_lie_in_ram_where_devices_need_them() -> None:
    low, main, high = guest_memory.CARVE_OUTS
    above = guest_memory.RAM_SIZE - guest_memory.RAM_BELOW_4G
    assert low.base + low.size <= 1 << 24
    assert main.base + main.size <= 1 << 28 <= guest_memory.RAM_BELOW_4G
    assert high.base >= 1 << 32
    assert high.base + high.size <= (1 << 32) + above
    for each in guest_memory.CARVE_OUTS:
        assert each.base % 4096 == each.size % 4096 == 0
    ranges = sorted((each.base, each.base + each.size) for each in guest_memory.CARVE_OUTS)
    assert all(first[1] <= second[0] for first, second in pairwise(ranges))


def test_latest_names_the_newest_run(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        run_folder.publish(folder)
        assert (tmp_path / "latest").resolve() == folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "latest", "second"]


def test_tail_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\n".join(b"line %d\xff" % i for i in range(50)) + b"\n\n")
    assert plain_text.tail(tmp_path / "log", 2) == ["line 48\ufffd", "line 49\ufffd"]
    assert plain_text.tail(tmp_path / "absent") == []


def test_escapes_of_a_guest_do_not_reach_the_terminal(tmp_path: Path) -> None:
    said = b"\x1b[31;1mred\x1b[0m \x1b]0;title\x07end\r\n\x1b[0m\n a\x08b\n"
    (tmp_path / "log").write_bytes(said)
    assert plain_text.tail(tmp_path / "log") == ["red end", " a b"]
    (tmp_path / "log").write_bytes(b"x" * (1 << 20) + b"\nlast\n")
    assert plain_text.tail(tmp_path / "log")[-1] == "last"


def test_qemu_that_lacks_vfio_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "qemu"
    fake.write_text("#!/bin/sh\necho 'name \"e1000\", bus PCI'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("QEMU", str(fake))
    with pytest.raises(EnvironmentFailure, match="no vfio-user-pci"):
        qemu.find(lambda _text: None)


def test_qemu_with_vfio_user_on_the_path_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "qemu-system-x86_64"
    fake.write_text(
        "#!/bin/sh\ncase $1 in --version) echo 'QEMU emulator version 10.1.0 (x)';; "
        "*) echo 'name \"vfio-user-pci\", bus PCI'; echo 'name \"edu\", bus PCI';; esac\n"
    )
    fake.chmod(0o755)
    monkeypatch.delenv("QEMU", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = qemu.find(lambda _text: None)
    assert (found.command, found.version) == ((str(fake),), "10.1.0")


def test_kvm_that_is_insisted_on_and_fails_is_status_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMA_REHEARSAL_CACHE", str(tmp_path))
    with pytest.raises(EnvironmentFailure, match="ACCEL=kvm") as failure:
        accelerator.choose(qemu.Qemu(("false",), "", ""), Path("/none"), "kvm")
    assert failure.value.status is Status.ENVIRONMENT


def test_sockets_go_where_their_names_have_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with ExitStack() as stack:
        folder = launch._sockets_folder(stack)
        assert folder.parent == Path("/tmp")
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()
    monkeypatch.setattr("os.access", lambda *_: False)
    with (
        ExitStack() as stack,
        pytest.raises(EnvironmentFailure, match="no folder can hold the sockets"),
    ):
        launch._sockets_folder(stack)


def test_qemu_keeps_no_log_of_the_console() -> None:
    """It has characters twice in it when the socket was full (`host_harness.console`)."""
    assert not any("logfile" in word for word in argv())
    assert argv()[argv().index("-name") + 1] == "dma-rehearsal /runs/1,,5"
