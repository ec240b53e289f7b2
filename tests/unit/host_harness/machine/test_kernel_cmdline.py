# SPDX-License-Identifier: Apache-2.0
"""The guest kernel's command line."""

from __future__ import annotations

from dma_rehearsal.host_harness.machine import guest_memory, kernel_cmdline
from dma_rehearsal.host_harness.options import run_options


def test_kernel_words_come_last_so_that_they_win() -> None:
    line = kernel_cmdline.command_line(["a.word=1"]).split()
    assert line[-1] == "a.word=1"
    assert "memmap=0x4000000$0xc000000" in line
    assert "dma_debug=off" in line


def test_no_bar_is_placed_between_ram_and_the_configuration_space() -> None:
    words = kernel_cmdline.command_line([]).split()
    sizes = [word.removeprefix("memmap=").split("$") for word in words if word.startswith("memmap")]
    ranges = {int(base, 16): int(base, 16) + int(size, 16) for size, base in sizes}
    assert ranges[guest_memory.RAM_BELOW_4G] == 0xB000_0000


def test_only_behind_an_iommu_the_kernel_uses_one() -> None:
    for given in {"iommu": "intel"}, {}:
        words = kernel_cmdline.boot_parameters(run_options.parse(given), isolated=False)
        assert ("intel_iommu=on" in words) is bool(given)


def test_only_a_guest_that_places_its_own_processes_has_an_isolated_cpu() -> None:
    given = run_options.parse({"append": "a.word=1"})
    for isolated in False, True:
        words = kernel_cmdline.boot_parameters(given, isolated=isolated)
        assert ("isolcpus=domain,1" in words) is isolated
        assert words[-1] == "a.word=1"


def test_words_of_the_run_go_to_the_agent_alone() -> None:
    given = run_options.parse({"append": "rehearsal.soak=1 a.word=1 rehearsal.device=1022:2000"})
    assert kernel_cmdline.boot_parameters(given, isolated=False) == ["a.word=1"]
    words = kernel_cmdline.agent_parameters(given)
    assert words[0] == "rehearsal.device=13b5:ed01"
    assert words[-2:] == ["rehearsal.soak=1", "rehearsal.device=1022:2000"]


def test_of_an_endpoint_the_agent_gets_the_kinds_of_its_limits() -> None:
    given = {"endpoint": "a:B"}
    assert kernel_cmdline.agent_parameters(run_options.parse(given)) == []
    given["profile"] = "nic-32"
    assert kernel_cmdline.agent_parameters(run_options.parse(given)) == [
        "rehearsal.limits=addresses,segments"
    ]
