# SPDX-License-Identifier: Apache-2.0
"""Return addresses are named by function and line, whatever the debug information is like."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.debug_info.driver_callers import DebugModule, DriverCallers
from dma_rehearsal.host_harness.debug_info.kernel_symbols import KernelSymbols
from tests.unit.host_harness.debug_info import compiled

KALLSYMS = """\
ffffffff81000000 T _stext
ffffffff81001000 T dma_map_page_attrs
ffffffff81002000 t nvme_map_data
ffffffff81003000 T dma_pool_alloc.part.0
ffffffff81004000 T blk_mq_dispatch_rq_list
ffffffffc0000000 t other_module_function	[other]
"""
SECTIONS = {".text": 0xFFFFFFFFC1000000, ".init.text": 0xFFFFFFFFC2000000}
LOADED = {"my": SECTIONS, "": {"_stext": 0xFFFFFFFF81000000}}
MAP, NVME = 0xFFFFFFFF8100105E, 0xFFFFFFFF81002140


@pytest.fixture(
    scope="module", params=["-gdwarf-5", "-gdwarf-4"], ids=lambda flag: str(flag).removeprefix("-g")
)
def driver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DebugModule:
    """A driver with debug information of a version."""
    folder = tmp_path_factory.mktemp("build")
    return DebugModule(compiled.module(folder, request.param), str(folder / "project"), "drv")


def callers(module: DebugModule) -> DriverCallers:
    return DriverCallers({"my": module}, lambda: KernelSymbols(KALLSYMS))


def after(module: DebugModule, label: str) -> int:
    """Return the address of the code behind a call, as it is loaded."""
    section, offset = compiled.label(module.data, label)
    return SECTIONS[section] + offset


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("after_map", "my_map at my.c:6"),  # not dma_map_single of the kernel's header
        ("after_tell", "ring_tell at ../common/ring.h:4"),
        ("after_init", "my_init at my.c:18"),  # another section with the same offsets
    ],
)
def test_innermost_place_in_the_drivers_own_files(
    driver: DebugModule, label: str, words: str
) -> None:
    assert callers(driver).name([MAP, after(driver, label), NVME], LOADED) == words


def test_return_address_is_behind_the_call(driver: DebugModule) -> None:
    # Nothing returns there, so the next function begins at the address, or none at all.
    assert callers(driver).name([after(driver, "my_stop")], LOADED) == "my_stop at my.c:26"


def test_innermost_of_two_places(driver: DebugModule) -> None:
    found = callers(driver)
    tell, init = after(driver, "after_tell"), after(driver, "after_init")
    assert found.name([tell, init], LOADED).startswith("ring_tell")
    assert found.name([init, tell], LOADED).startswith("my_init")


def test_module_built_elsewhere_has_the_names_of_its_files(driver: DebugModule) -> None:
    found = callers(DebugModule(driver.data))
    assert found.name([after(driver, "after_map")], LOADED) == "my_map at my.c:6"
    assert found.name([after(driver, "after_tell")], LOADED) == "ring_tell at ring.h:4"


def test_module_without_debug_information_has_its_symbols(tmp_path: Path) -> None:
    module = DebugModule(compiled.module(tmp_path, "-g0"))
    section, offset = compiled.label(module.data, "after_init")
    words = callers(module).name([SECTIONS[section] + offset], LOADED)
    assert words == f"my_init+{offset:#x} [my]"


def test_drivers_own_module_comes_before_one_without_lines(
    driver: DebugModule, tmp_path: Path
) -> None:
    library = DebugModule(compiled.module(tmp_path, "-g0"))
    found = DriverCallers({"my": driver, "lib": library}, lambda: KernelSymbols(""))
    loaded = {"lib": {".text": 0xFFFFFFFFC9000000}, **LOADED}
    section, offset = compiled.label(library.data, "after_map")
    inner = 0xFFFFFFFFC9000000 + offset
    assert section == ".text"
    assert found.name([inner, after(driver, "after_map")], loaded) == "my_map at my.c:6"
    assert found.name([inner], loaded).endswith("[lib]")


@pytest.mark.parametrize(
    ("addresses", "words"),
    [
        ([MAP, NVME], "nvme_map_data+0x140"),
        ([0xFFFFFFFF81003008, MAP, NVME], "nvme_map_data+0x140"),
        ([MAP], "dma_map_page_attrs+0x5e"),
        ([0x1000, NVME], "nvme_map_data+0x140"),
        ([0xFFFFFFFF81004001], "blk_mq_dispatch_rq_list+0x1"),
        ([0xFFFFFFFF81004000], "dma_pool_alloc.part.0+0x1000"),
        ([0xFFFFFFFFFFFFFFFF], "0xffffffffffffffff"),
        ([0x1000], "0x1000"),
        ([0, -5], "an unknown place"),
        ([], "an unknown place"),
    ],
)
def test_driver_in_the_kernel_itself(addresses: Sequence[int], words: str) -> None:
    assert DriverCallers({}, lambda: KernelSymbols(KALLSYMS)).name(addresses, LOADED) == words


def test_symbols_of_the_kernel_are_asked_for_once_and_when_they_are_needed(
    driver: DebugModule,
) -> None:
    asked: list[int] = []

    def symbols() -> KernelSymbols:
        asked.append(1)
        return KernelSymbols(KALLSYMS)

    found = DriverCallers({"my": driver}, symbols)
    found.name([MAP, after(driver, "after_map")], LOADED)
    assert not asked
    for _ in range(2):
        found.name([NVME], LOADED)
    assert len(asked) == 1


@pytest.mark.parametrize(
    "loaded",
    [
        {},
        {"my": {}},
        {"my": {".text": 0}},
        {"my": {".bss": SECTIONS[".text"], ".gone": SECTIONS[".text"]}},
        {"my": {".text": 2**64 - 1}},
        {"other": SECTIONS},
    ],
)
def test_guests_word_about_sections_is_not_trusted(
    driver: DebugModule, loaded: Mapping[str, Mapping[str, int]]
) -> None:
    address = after(driver, "after_map")
    assert callers(driver).name([address], loaded) == hex(address)


def test_damaged_files_cost_names_alone(driver: DebugModule) -> None:
    draw = random.Random(18)
    address = after(driver, "after_map")
    for cut in (0, 10, 64, len(driver.data) // 2, len(driver.data) - 1):
        assert callers(DebugModule(driver.data[:cut])).name([address], LOADED)
    for _ in range(60):
        data = bytearray(driver.data)
        for _ in range(draw.choice((1, 8, 200))):
            data[draw.randrange(len(data))] = draw.randrange(256)
        assert callers(DebugModule(bytes(data))).name([address], LOADED)


def test_file_that_is_too_large(driver: DebugModule, monkeypatch: pytest.MonkeyPatch) -> None:
    from dma_rehearsal.host_harness.debug_info import module_elf

    address = after(driver, "after_map")
    monkeypatch.setattr(module_elf, "_LINES_MAX", 10)
    assert callers(driver).name([address], LOADED).startswith("my_xmit+")
    monkeypatch.setattr(module_elf, "_SIZE_MAX", 10)
    assert callers(driver).name([address], LOADED) == hex(address)
