# SPDX-License-Identifier: Apache-2.0
"""The tutorial's blocks, put together, are the files of examples/checksum."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from dma_rehearsal.device.testing import FakeHost
from dma_rehearsal.device.trace import Trace
from examples.checksum import checksum_device
from examples.checksum.checksum_device import Checksum, Reg, Result
from tests.unit.device.fakes import BASE, FakeClient, read32, start, write32
from tests.unit.docs.tutorial import EXAMPLE, TITLES, files, messages, unit_test, wrong_device


def code(text: str) -> list[str]:
    """Return its lines without empty ones and without the line of the licence."""
    return [line for line in text.splitlines() if line and "SPDX-License-Identifier" not in line]


def test_titles_are_the_files_of_the_example() -> None:
    found = {
        str(path.relative_to(EXAMPLE))
        for path in EXAMPLE.rglob("*")
        if path.is_file() and not {"build", "__pycache__"} & set(path.parts)
    }
    assert found == set(TITLES)


@pytest.mark.parametrize("title", TITLES)
def test_blocks_are_the_file(title: str) -> None:
    assert code(files()[title]) == code((EXAMPLE / title).read_text())


@pytest.mark.parametrize("title", [title for title in TITLES if title.endswith(".py")])
def test_blocks_compile(title: str) -> None:
    compile(files()[title], title, "exec")


@pytest.mark.parametrize(("wrong", "interrupts"), [(False, [(2, 0)]), (True, [])])
def test_wrong_device_drops_its_interrupt_alone(
    monkeypatch: pytest.MonkeyPatch, wrong: bool, interrupts: list[tuple[int, int]]
) -> None:
    monkeypatch.setitem(sys.modules, "checksum_device", checksum_device)
    names: dict[str, type[Checksum]] = {}
    exec(wrong_device(), names)
    device = (names["DropsInterrupts"] if wrong else Checksum)(Trace())
    client = FakeClient()
    device.attach(client)
    start(device)
    write32(device, 0, Reg.ADDRESS, BASE)
    write32(device, 0, Reg.LENGTH, 4)
    write32(device, 0, Reg.DOORBELL, 1)
    assert read32(device, 0, Reg.STATUS) == Result.DONE
    assert client.interrupts == interrupts


def test_the_test_without_a_vm_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "checksum_device", checksum_device)
    names: dict[str, Callable[[], None]] = {}
    exec(unit_test(), names)
    names["test_sums_up_and_interrupts"]()


def test_the_model_that_waits_reaches_memory_by_messages() -> None:
    names: dict[str, Any] = {**vars(checksum_device)}
    exec(messages(), names)
    with FakeHost(names["Waiting"](Trace())) as host:
        host.message_memory[:4] = b"data"
        for base, done in ((host.base, True), (host.message_base, False), (0, True)):
            host.write(0, Reg.ADDRESS, base, 8)
            host.write(0, Reg.LENGTH, 4)
            host.write(0, Reg.DOORBELL, 1)
            assert bool(host.read(0, Reg.STATUS)) == done
            host.run()
            result = Result.REFUSED if base == 0 else Result.DONE
            assert checksum_device.Status(host.read(0, Reg.STATUS)).result == result
        assert len(host.interrupts) == 3
