# SPDX-License-Identifier: Apache-2.0
"""The host's own look at how a guest test's memory is mapped, for a test that asks.

    guest: witness (address, length, what it read of PAT and MTRRs)    host: armed (a number)
    guest: stops the machine, the number in RCX                        host: looks, lets it go on
                                                                       host: witnessed

The page-table root is that of the CPU which holds the number: no driver reports it, and only the
process that asked knew the number. PAT and MTRRs are those of the same CPU, as QEMU saves them;
what the guest read is only compared with them. A stop that was not announced is a panic.
"""

from __future__ import annotations

import json
import secrets
import time
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from dma_rehearsal.device.layout.result_frames import Message
from dma_rehearsal.host_harness.machine.channel import GuestProtocolError
from dma_rehearsal.host_harness.machine.guest_memory import GuestMemory, NoMemory
from dma_rehearsal.host_harness.machine.qmp import Monitor, MonitorError
from dma_rehearsal.host_harness.process.errors import NoVerdict
from dma_rehearsal.host_harness.witness import cpu_registers, page_walk
from dma_rehearsal.host_harness.witness.cpu_registers import Processor
from dma_rehearsal.host_harness.witness.page_walk import PageRange, TypeRegisters, WalkFailed
from dma_rehearsal.host_harness.witness.saved_registers import SavedRegisters, differences

LOG = "host-witness.jsonl"  # in the VM's folder: what was asked, and what was seen
QEMU, GUEST = "QEMU", "the guest"  # by whose word PAT and MTRRs are what they are
LENGTH_MAX = 4 << 20  # bytes, each of whose pages costs four reads
_RANGES_MAX = 64  # pairs of registers
_FIXED_COUNT = 11
_NUMBER_BITS = 63  # positive as a signed number, too
_PHYSICAL_BITS = range(32, 53)


class Machine(Protocol):
    """The part of a `machine.vm.Vm` that is used here. Its module would import the device's."""

    @property
    def folder(self) -> Path:
        """The folder of its artefacts."""

    @property
    def monitor(self) -> Monitor:
        """Its QMP connection."""

    @property
    def memory(self) -> GuestMemory:
        """The guest's RAM."""

    def send(self, phase: str, message: Message) -> None:
        """Send a message to the guest."""

    def panic_announced(self) -> AbstractContextManager[None]:
        """Expect a panic, which stops the machine, in the block."""

    def await_panic(self, phase: str, limit_s: float) -> None:
        """Wait until the machine has stopped."""

    def lost(self, phase: str, message: str) -> NoVerdict:
        """Return the error of a lost run."""


def answer(vm: Machine, message: Message, limit_s: float, registers: SavedRegisters) -> list[str]:
    """Serve one "witness" message within ``limit_s`` seconds; return objections to the test.

    It is an objection that the guest told another PAT or MTRR than the CPU has; more are those of
    `SavedRegisters.read`. NoVerdict when the machine is lost meanwhile, GuestProtocolError for a
    malformed request. A failed walk is reported to the guest as "error".
    """
    address, length = _range(message)
    told = _registers(message)
    number = secrets.randbits(_NUMBER_BITS)
    end = time.monotonic() + limit_s
    with vm.panic_announced():
        vm.send("test", {"type": "armed", "number": number})
        try:
            vm.await_panic("test", end - time.monotonic())
            cpu = cpu_registers.holder(cpu_registers.read_all(vm.monitor), "RCX", number)
            objections = registers.read()
            seen = registers.by_cpu.get(cpu.index)
            if seen is not None:
                objections += compare(told, seen, cpu.index)
            reply = _look(vm, cpu, address, length, seen or told)
            vm.monitor.command("cont")
        except MonitorError as error:
            raise vm.lost("test", f"QEMU's monitor, about the stopped guest: {error}") from error
    reply["by"] = GUEST if seen is None else QEMU
    with (vm.folder / LOG).open("a") as log:
        line = {"asked": message, "seen": reply, "objections": objections}
        log.write(json.dumps(line | ({"registers": asdict(seen)} if seen else {})) + "\n")
    vm.send("test", {"type": "witnessed", **reply})
    return objections


def compare(told: TypeRegisters, seen: TypeRegisters, cpu: int) -> list[str]:
    """Return an objection for each register that the guest told wrongly of a CPU."""
    return [
        f"the guest told {name} as {said:#x}, and CPU {cpu} has {value:#x} by QEMU's saved state"
        for name, said, value in differences(told, seen)
    ]


def _look(
    vm: Machine, cpu: Processor, address: int, length: int, registers: TypeRegisters
) -> Message:
    reply: Message = {
        "root": cpu.root & page_walk.ROOT,
        "levels": cpu.levels,
        "pat": registers.pat,
    }
    try:
        runs = page_walk.walk(vm.memory.read, cpu.root, cpu.levels, address, length, registers)
    except (WalkFailed, NoMemory) as error:
        return {**reply, "error": str(error)}
    translate = cpu_registers.translator(vm.monitor, cpu)
    return {
        **reply,
        "runs": [asdict(run) for run in runs],
        "translations": [[va, translate(va)] for va in _edges(runs)],
    }


def _edges(runs: list[PageRange]) -> list[int]:
    """Return the first and the last page of every run."""
    return sorted({va for run in runs for va in (run.va, run.va + run.length - page_walk.STEP)})


def _range(message: Message) -> tuple[int, int]:
    address = _number(message, "address")
    length = _number(message, "length")
    if not 0 < length <= LENGTH_MAX or address + length > 1 << 64:
        raise GuestProtocolError(f"the guest asks for {length} bytes at {address:#x}")
    return address, length


def _registers(message: Message) -> TypeRegisters:
    ranges, fixed = message.get("ranges"), message.get("fixed")
    bits = _number(message, "physical_bits")
    if not isinstance(ranges, list) or len(ranges) > _RANGES_MAX or bits not in _PHYSICAL_BITS:
        raise GuestProtocolError("the guest's MTRRs are malformed")
    if not isinstance(fixed, list) or len(fixed) != _FIXED_COUNT:
        raise GuestProtocolError("the guest's fixed-range MTRRs are malformed")
    pairs = []
    for pair in ranges:
        if not isinstance(pair, list) or len(pair) != 2:
            raise GuestProtocolError("a range of the guest's MTRRs is malformed")
        pairs.append((_word(pair[0], "PHYSBASE"), _word(pair[1], "PHYSMASK")))
    return TypeRegisters(
        _number(message, "pat"),
        _number(message, "def_type"),
        bits,
        tuple(pairs),
        tuple(_word(each, "a fixed-range MTRR") for each in fixed),
    )


def _number(message: Message, name: str) -> int:
    return _word(message.get(name), name)


def _word(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 64:
        raise GuestProtocolError(f"the guest's {name} is {value!r:.40}")
    return value
