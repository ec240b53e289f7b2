# SPDX-License-Identifier: Apache-2.0
"""The host's answer to a guest that asks how its memory is mapped, on stand-ins for QEMU."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.host_harness.machine.channel import GuestProtocolError
from dma_rehearsal.host_harness.machine.guest_memory import NoMemory
from dma_rehearsal.host_harness.machine.qmp import MonitorError
from dma_rehearsal.host_harness.process.errors import NoVerdict
from dma_rehearsal.host_harness.witness import cpu_registers, host_witness, saved_registers
from dma_rehearsal.host_harness.witness.saved_registers import SavedRegisters
from tests.unit.device.platform.tables import PAGE, TABLE, Tables
from tests.unit.host_harness.machine.saved_states import PHYSICAL_BITS, REGISTERS, SavingQemu

VA = 0x7F12_3456_7000
ASKED: dict[str, Any] = {
    "type": "witness",
    "address": VA,
    "length": 2 * PAGE,
    "pat": REGISTERS.pat,
    "def_type": REGISTERS.def_type,
    "physical_bits": PHYSICAL_BITS,
    "ranges": [list(pair) for pair in REGISTERS.ranges],
    "fixed": list(REGISTERS.fixed),
}
# Makes the pages that are mapped here uncached.
UNCACHED = replace(REGISTERS, fixed=(0, *REGISTERS.fixed[1:]))
TOLD = {"pat", "def_type", "physical_bits", "ranges", "fixed"}


def with_bit(
    ranges: Sequence[tuple[int, int]], number: int, part: int, bit: int
) -> list[tuple[int, ...]]:
    """Return variable ranges with one bit of PHYSBASE (0) or PHYSMASK (1) changed."""
    found = [list(pair) for pair in ranges]
    found[number][part] ^= bit
    return [tuple(pair) for pair in found]


# The parts of what QEMU 10.1 prints that are looked at, and some that look like them.
PRINTED = """
CPU#{index}
RAX=0000000000000001 RBX=00007ffc0a1b2c30 RCX={rcx:016x} RDX=0000000000000505
RSI=0000000000000505 RDI=0000000000000001 RBP=00007ffc0a1b2b90 RSP=00007ffc0a1b2b58
R8 =0000000000000000 R9 =0000000000000000 R10=00007f0000000000 R11=0000000000000246
RIP=00007f9062b40005 RFL=00000246 [---Z-P-] CPL=3 II=0 A20=1 SMM=0 HLT=0
CR0=80050033 CR2=00007f9062af0000 CR3={cr3:016x} CR4={cr4:08x}
DR0=0000000000000000 DR1=0000000000000000 DR2=0000000000000000 DR3=0000000000000000
EFER=0000000000000d01
"""


class Stopped:
    """A VM whose guest stops when it is armed. Subclasses lie."""

    place: Path
    saves = True

    def __init__(self, levels: int = 4) -> None:
        self.tables = Tables(levels)
        for offset in (0, PAGE):
            self.tables.map(VA + offset, 0x5000 + offset)
        self.sent: list[dict[str, Any]] = []
        self.commands: list[str] = []
        self.qemu = SavingQemu({0: REGISTERS, 1: REGISTERS})
        self.folder = self.sockets = Stopped.place
        self.monitor: Any = self
        self.memory: Any = self

    def panic_announced(self) -> AbstractContextManager[None]:
        assert not self.sent, "announced before the guest can stop"
        return nullcontext()

    def send(self, phase: str, message: dict[str, Any]) -> None:  # noqa: ARG002
        self.sent.append(message)

    def lost(self, phase: str, message: str) -> NoVerdict:
        return NoVerdict(phase, message)

    def await_panic(self, phase: str, limit_s: float) -> None:  # noqa: ARG002
        assert 0 < limit_s <= 5

    def read(self, address: int, length: int) -> bytes:
        return self.tables.read(address & -PAGE, PAGE)[address % PAGE :][:length]

    def rcx(self, cpu: int) -> int:
        number: int = self.sent[0]["number"]
        return number if cpu == 1 else 7

    def command(self, name: str, **arguments: Any) -> Any:
        line = arguments.get("command-line", name)
        self.commands.append(line)
        if line == "info registers":
            index = arguments["cpu-index"]
            root = self.tables.root | 0x801 if index == 1 else 0x77000
            cr4 = 0x3006F0 | (1 << 12 if self.tables.levels == 5 else 0)
            return PRINTED.format(index=index, rcx=self.rcx(index), cr3=root, cr4=cr4)
        if line.startswith("gva2gpa"):
            assert arguments["cpu-index"] == 1
            return f"gpa: {int(line.split()[1], 16) - VA + 0x5000:#x}\r\n"
        return self.qemu.command(name, **arguments)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> None:
    Stopped.place = tmp_path


def answer(vm: Any, **changed: Any) -> list[str]:
    """Return the objections."""
    registers = SavedRegisters(vm.monitor, vm.sockets)
    found = host_witness.answer(vm, {**ASKED, **changed}, 5, registers)
    assert list(vm.sockets.glob(saved_registers.FILE)) == []
    return found


def ask(vm: Any, **changed: Any) -> dict[str, Any]:
    """Return the reply to the guest, which told the truth, unless the test says otherwise."""
    objections = answer(vm, **changed)
    assert bool(objections) == bool(set(changed) & TOLD and vm.saves)
    assert vm.commands[-1] == "cont"
    reply: dict[str, Any] = vm.sent[-1]
    assert reply["type"] == "witnessed"
    return reply


@pytest.mark.parametrize("levels", [4, 5])
def test_root_of_the_cpu_that_holds_the_number(levels: int) -> None:
    vm = Stopped(levels)
    reply = ask(vm)
    assert (reply["root"], reply["levels"]) == (vm.tables.root, levels)
    assert reply["runs"] == [
        {
            "va": VA,
            "physical": 0x5000,
            "length": 2 * PAGE,
            "page_size": PAGE,
            "pat_index": 0,
            "pat": "WB",
            "mtrr": "WB",
            "effective": "WB",
            "writable": True,
            "user": True,
            "no_execute": False,
        }
    ]
    assert reply["translations"] == [[VA, 0x5000], [VA + PAGE, 0x6000]]
    (line,) = (vm.folder / host_witness.LOG).read_text().splitlines()
    kept = json.loads(line)
    assert (kept["asked"], {"type": "witnessed", **kept["seen"]}) == (ASKED, reply)
    assert (kept["objections"], kept["registers"]["pat"]) == ([], REGISTERS.pat)


def test_numbers_are_never_the_same() -> None:
    numbers = {ask_of.sent[0]["number"] for ask_of in map(_asked, range(3))}
    assert len(numbers) == 3


def _asked(_: int) -> Stopped:
    vm = Stopped()
    ask(vm)
    return vm


def test_registers_are_those_of_the_cpu_that_asked() -> None:
    vm = Stopped()
    vm.qemu.cpus = {0: REGISTERS, 1: UNCACHED}
    assert "CPU 1 has IA32_MTRR_FIX64K_00000 0x0, and CPU 0 has 0x60606" in answer(vm)[0]
    (run,) = vm.sent[-1]["runs"]
    assert (run["mtrr"], run["effective"]) == ("UC", "UC")
    assert vm.sent[-1]["by"] == host_witness.QEMU


LIES: dict[str, tuple[dict[str, Any], str]] = {
    **{
        f"entry {entry} of PAT": (
            {"pat": REGISTERS.pat ^ 1 << 8 * entry},
            f"IA32_PAT as {REGISTERS.pat ^ 1 << 8 * entry:#x}, and CPU 1 has {REGISTERS.pat:#x}",
        )
        for entry in range(8)
    },
    **{
        f"bit {bit} of the default type": ({"def_type": REGISTERS.def_type ^ 1 << bit}, "DEF_TYPE")
        for bit in (0, 1, 2, 10, 11)
    },
    **{
        f"{name} {number} as {changed[number][name == 'PHYSMASK']:#x}": (
            {"ranges": [list(pair) for pair in changed]},
            f"IA32_MTRR_{name}{number} as",
        )
        for number in range(8)
        for name, changed in (
            ("PHYSBASE", with_bit(REGISTERS.ranges, number, 0, 1 << 30)),
            ("PHYSBASE", with_bit(REGISTERS.ranges, number, 0, 1)),
            ("PHYSMASK", with_bit(REGISTERS.ranges, number, 1, 1 << 11)),
            ("PHYSMASK", with_bit(REGISTERS.ranges, number, 1, 1 << 39)),
        )
    },
    **{
        name: (
            {"fixed": [value ^ (place == number) for place, value in enumerate(REGISTERS.fixed)]},
            f"IA32_MTRR_{name} as",
        )
        for number, name in enumerate(
            [
                *("FIX64K_00000", "FIX16K_80000", "FIX16K_A0000"),
                *(f"FIX4K_{address:X}" for address in range(0xC0000, 0x100000, 0x8000)),
            ]
        )
    },
    "fixed ranges in another order": (
        {"fixed": [*REGISTERS.fixed[:1], *REGISTERS.fixed[2:], REGISTERS.fixed[1]]},
        "FIX16K_80000 as",
    ),
    "ranges in another order": (
        {"ranges": [list(pair) for pair in reversed(REGISTERS.ranges)]},
        "PHYSBASE7 as",
    ),
    "one range less": (
        {"ranges": [list(pair) for pair in REGISTERS.ranges[1:]]},
        "PHYSBASE0 as 0x0",
    ),
    "one range more": (
        {"ranges": [*map(list, REGISTERS.ranges), [0x1000, 0x800]]},
        "PHYSBASE8 as 0x1000",
    ),
    "the width of addresses": (
        {"physical_bits": 39},
        "physical address bits as 0x27, and CPU 1 has 0x28",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_register_that_the_guest_tells_wrongly_is_an_objection(lie: str) -> None:
    """The host goes by QEMU's value, whatever was told."""
    told, words = LIES[lie]
    vm = Stopped()
    objections = answer(vm, **told)
    assert any(words in each and "the guest told" in each for each in objections)
    assert [run["effective"] for run in vm.sent[-1]["runs"]] == ["WB"]
    assert json.loads((vm.folder / host_witness.LOG).read_text())["objections"] == objections


def test_bits_of_a_mask_above_the_width_of_addresses_do_not_matter() -> None:
    """QEMU with KVM saves them as ones."""
    vm = Stopped()
    filled = tuple((base, mask | 0xFFF << PHYSICAL_BITS) for base, mask in REGISTERS.ranges)
    vm.qemu.cpus = dict.fromkeys((0, 1), replace(REGISTERS, ranges=filled))
    assert answer(vm) == []


@pytest.mark.parametrize("command", ["migrate-set-capabilities", "migrate", "qom-get"])
def test_guests_word_where_qemu_refuses_to_save(command: str) -> None:
    vm = Stopped()
    vm.qemu.refuses, vm.saves = command, False
    reply = ask(vm, fixed=[0] * 11)
    (run,) = reply["runs"]
    assert (run["mtrr"], run["effective"]) == ("UC", "UC")
    assert reply["by"] == host_witness.GUEST


def test_hole_is_told_and_the_guest_goes_on() -> None:
    reply = ask(Stopped(), length=3 * PAGE)
    assert f"{VA + 2 * PAGE:#x}: entry 0x0" in reply["error"]


def test_table_outside_of_ram_is_told() -> None:
    class Elsewhere(Stopped):
        def read(self, address: int, length: int) -> bytes:
            raise NoMemory(f"no RAM for {length} bytes at {address:#x}")

    assert "no RAM for 8 bytes" in ask(Elsewhere())["error"]


@pytest.mark.parametrize("holders", [(), (0, 1)])
def test_number_that_no_single_cpu_holds_takes_the_verdict(holders: tuple[int, ...]) -> None:
    """Somebody else stopped the machine, or a stop of another time is seen."""

    class Lies(Stopped):
        def rcx(self, cpu: int) -> int:
            return super().rcx(1) if cpu in holders else 0

    with pytest.raises(NoVerdict, match=f"{len(holders)} CPUs have"):
        answer(Lies())


def test_monitor_that_fails_takes_the_verdict() -> None:
    class Silent(Stopped):
        def command(self, name: str, **_: Any) -> Any:
            raise MonitorError(f"{name}: no answer")

    with pytest.raises(NoVerdict, match="no answer"):
        answer(Silent())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *itertools.product(("address", "length", "pat", "def_type"), (None, -1, 1.5, True, "1")),
        ("length", 0),
        ("length", host_witness.LENGTH_MAX + 1),
        ("address", (1 << 64) - PAGE),
        ("pat", 1 << 64),
        *itertools.product(("physical_bits",), (0, 31, 53, 1 << 40)),
        *itertools.product(("ranges",), (None, [[0]] * 2, [[0, -1]], [5], [[0, 0]] * 65)),
        *itertools.product(("fixed",), (None, [0] * 10, [0] * 12, ["0"] * 11)),
    ],
)
def test_request_that_cannot_be(name: str, value: object) -> None:
    vm: Any = Stopped()
    with pytest.raises(GuestProtocolError):
        answer(vm, **{name: value})
    assert vm.sent == [], "refused before the guest is told to stop"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("CR3=", "CRX=", "CPU 1 shows no 'CR3'"),
        ("EFER=0000000000000d01", "EFER=0000000000000800", "not in 64-bit mode"),
        ("CR0=8", "CR0=0", "not in 64-bit mode"),
    ],
)
def test_cpu_without_page_tables(old: str, new: str, words: str) -> None:
    text = PRINTED.format(index=1, rcx=1, cr3=0x1000, cr4=0x6F0).replace(old, new)
    with pytest.raises(MonitorError, match=words):
        cpu_registers.parse(1, text)


def test_address_that_qemu_cannot_translate() -> None:
    class Blind(Stopped):
        def command(self, name: str, **arguments: Any) -> Any:
            if arguments.get("command-line", "").startswith("gva2gpa"):
                return "Unmapped\r\n"
            return super().command(name, **arguments)

    assert ask(Blind())["translations"] == [[VA, None], [VA + PAGE, None]]


def test_upper_half_is_walked_to_its_last_byte() -> None:
    vm = Stopped()
    last = (1 << 64) - PAGE
    vm.tables.map(last, 0x9000, TABLE)
    vm.command = _without_gva2gpa(vm)  # type: ignore[method-assign]
    (run,) = ask(vm, address=last, length=PAGE)["runs"]
    assert run["physical"] == 0x9000


def _without_gva2gpa(vm: Stopped) -> Any:
    command = vm.command

    def answered(name: str, **arguments: Any) -> Any:
        if arguments.get("command-line", "").startswith("gva2gpa"):
            return "gpa: 0x9000\r\n"
        return command(name, **arguments)

    return answered
