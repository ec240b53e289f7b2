# SPDX-License-Identifier: Apache-2.0
"""QEMU's command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.host_harness.environment import qemu
from dma_rehearsal.host_harness.machine import guest_memory, qemu_command
from dma_rehearsal.host_harness.machine.plugged_functions import PluggedFunction

WIRING = qemu_command.Wiring(
    console_fd=10,
    results_fd=11,
    qmp_fd=12,
    initramfs_fd=13,
    memory_fd=14,
    functions=(PluggedFunction(0, 0, Path("/run/x/exerciser")),),
    platform_socket=Path("/run/x/platform"),
)
PEER = (*WIRING.functions, PluggedFunction(1, 0, Path("/run/x/endpoint1")))
CARD = (
    *(PluggedFunction(0, number, Path(f"/run/x/exerciser.{number}")) for number in (0, 1, 7)),
    PluggedFunction(1, 0, Path("/run/x/endpoint1")),
    *(PluggedFunction(2, number, Path(f"/run/x/endpoint2.{number}")) for number in (0, 3)),
)


def argv(
    accelerator: str = "tcg",
    *,
    iommu: bool = False,
    posted_writes: bool = True,
    hotplug: bool = False,
    **wiring: Any,
) -> list[str]:
    return qemu_command.command(
        qemu.Qemu(("qemu",), "11.1", "test"),
        accelerator,
        Path("/vmlinux"),
        Path("/runs/1,5"),
        replace(WIRING, **wiring),
        "a.word=1",
        iommu=iommu,
        posted_writes=posted_writes,
        hotplug=hotplug,
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
    words = argv(functions=PEER)
    devices = [json.loads(word)["id"] for word in words if word.startswith("{")]
    assert devices == ["platform", "exerciser", "endpoint1"]


def test_a_second_opinion_is_plugged_in_as_it_comes_and_with_a_wide_mask() -> None:
    assert [word for word in argv() if word.startswith("edu")] == [
        "edu,bus=pcie.0,addr=0x2",
        "edu,bus=pcie.0,addr=0x3,dma_mask=1099511627775",
    ]


def test_with_an_iommu_the_exerciser_is_behind_it_and_the_platform_is_not() -> None:
    words = argv(iommu=True)
    assert "intel-iommu,intremap=on,caching-mode=on" in words
    assert "kernel-irqchip=split" in words[words.index("-machine") + 1]
    buses = {each["id"]: each["bus"] for each in map(json.loads, filter(_is_json, words))}
    assert buses == {"exerciser": "pcie.0", "platform": "soc"}
    outside = [word for word in words if "bypass_iommu=on" in word]
    assert outside == ["pxb-pcie,id=outside,bus_nr=8,bypass_iommu=on,addr=0x2"]
    assert "pcie-root-port,id=soc,bus=outside,chassis=1,addr=0x0" in words
    # A device that is plugged in before the IOMMU would not be behind it.
    positions = [words.index("intel-iommu,intremap=on,caching-mode=on"), words.index(outside[0])]
    assert max(positions) < min(words.index(word) for word in words if _is_json(word))
    assert not any("intel" in word for word in argv())


def slots(words: list[str]) -> dict[str, int]:
    """Return the slot of each function on the root bus, by its id or driver."""
    found: dict[str, int] = {}
    for word in (words[at + 1] for at, each in enumerate(words) if each == "-device"):
        if word.startswith("{"):
            device = json.loads(word)
        else:
            device = dict(pair.split("=") for pair in f"driver={word}".split(","))
        if device.get("bus") == "pcie.0" or device["driver"] == "pxb-pcie":
            slot = int(device["addr"], 16)
            assert slot not in found.values()
            found[device.get("id", f"{device['driver']} {slot}")] = slot
    return found


def test_each_function_has_its_slot_whatever_else_is_plugged_in() -> None:
    """A saved state has them there; so a run's options must not move any."""
    always = {"virtio-serial-pci 1": 1, "edu 2": 2, "edu 3": 3, "exerciser": 4, "platform": 5}
    assert slots(argv()) == always
    assert slots(argv(functions=PEER)) == always | {"endpoint1": 6}
    behind = {"virtio-serial-pci 1": 1, "outside": 2, "exerciser": 3}
    assert slots(argv(iommu=True)) == behind


@pytest.mark.parametrize(("iommu", "first"), [(False, 4), (True, 3)])
def test_functions_of_one_device_share_its_slot(iommu: bool, first: int) -> None:
    """Those of other devices are where they are without an IOMMU, too."""
    devices = {
        each["id"]: (each["addr"], each.get("multifunction", False))
        for each in map(json.loads, filter(_is_json, argv(iommu=iommu, functions=CARD)))
        if each["bus"] == "pcie.0"
    }
    devices.pop("platform", None)
    assert devices == {
        "exerciser": (f"{first:#x}.0", True),
        "exerciser.1": (f"{first:#x}.1", True),
        "exerciser.7": (f"{first:#x}.7", True),
        "endpoint1": ("0x6", False),
        "endpoint2": ("0x7.0", True),
        "endpoint2.3": ("0x7.3", True),
    }


def test_consoles_of_shells_are_there_without_shells_too() -> None:
    sockets = tuple(Path(f"/run/x/shell{number}") for number in range(qemu_command.SHELLS))
    without, with_shells = argv(), argv(shell_sockets=sockets)
    consoles = [f"virtconsole,chardev=shell{number}" for number in range(qemu_command.SHELLS)]
    for words in without, with_shells:
        assert [word for word in words if word.startswith("virtconsole")] == consoles
    assert "null,id=shell3" in without
    assert "socket,path=/run/x/shell3,server=on,wait=off,id=shell3" in with_shells
    with pytest.raises(ValueError, match="5 sockets for 4 shells"):
        argv(shell_sockets=(*sockets, Path("/run/x/one-more")))


def _is_json(word: str) -> bool:
    return word.startswith("{")


def test_guest_boots_from_its_initramfs_or_waits_for_a_state() -> None:
    boots, restored = argv(), argv(initramfs_fd=None)
    assert boots[boots.index("-initrd") + 1] == "/proc/self/fd/13"
    assert "-incoming" not in boots
    assert restored[restored.index("-incoming") + 1] == "defer"
    assert "-initrd" not in restored
    start = boots.index("-initrd")
    assert restored == [*boots[:start], "-incoming", "defer", "-S", *boots[start + 2 :]]


def test_the_kernels_command_line_is_handed_over() -> None:
    words = argv()
    assert words[words.index("-append") + 1] == "a.word=1"


def test_qemu_keeps_no_log_of_the_console() -> None:
    """It has characters twice in it when the socket was full (`host_harness.console`)."""
    assert not any("logfile" in word for word in argv())
    assert argv()[argv().index("-name") + 1] == "dma-rehearsal /runs/1,,5"


def test_writes_to_the_endpoint_can_be_waited_for() -> None:
    posted, waited = (
        [
            json.loads(word)
            for word in argv(functions=PEER, posted_writes=each)
            if word.startswith("{")
        ]
        for each in (True, False)
    )
    assert not any("x-no-posted-writes" in each for each in posted)
    assert {each["id"]: each.get("x-no-posted-writes") for each in waited} == {
        "exerciser": True,
        "platform": None,
        "endpoint1": True,
    }


def test_for_hotplug_each_device_is_in_the_slot_of_a_root_port() -> None:
    """The ports are where the devices would be, so nothing else moves."""
    words = argv(functions=CARD, hotplug=True)
    assert slots(words) == slots(argv(functions=())) | {"slot1": 4, "slot2": 6, "slot3": 7}
    ports = [word for word in words if word.startswith("pcie-root-port")]
    assert len({word.split("chassis=")[1] for word in ports}) == len(ports)
    devices = {each["id"]: each for each in map(json.loads, filter(_is_json, words))}
    assert {name: (each["bus"], each["addr"]) for name, each in devices.items()} == {
        "platform": ("pcie.0", "0x5"),
        "exerciser": ("slot1", "0x0.0"),
        "exerciser.1": ("slot1", "0x0.1"),
        "exerciser.7": ("slot1", "0x0.7"),
        "endpoint1": ("slot2", "0x0"),
        "endpoint2": ("slot3", "0x0.0"),
        "endpoint2.3": ("slot3", "0x0.3"),
    }
    assert "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off" in words
    assert not any("acpi-pci-hotplug" in word or "root-port" in word for word in argv())


def test_a_device_is_plugged_again_with_the_words_of_its_first_start() -> None:
    words = argv(functions=CARD, hotplug=True, posted_writes=False)
    first = [each for each in map(json.loads, filter(_is_json, words)) if each["id"] != "platform"]
    assert qemu_command.endpoint_devices(CARD, posted_writes=False, hotplug=True) == first
