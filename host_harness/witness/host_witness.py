# SPDX-License-Identifier: Apache-2.0
"""Answers a guest test that asks how its memory is mapped: the host looks for itself.

    guest: witness (address, length, what it read of PAT and MTRRs)    host: armed (a number)
    guest: stops the machine, the number in RCX                        host: looks, lets it go on
                                                                       host: witnessed

The page-table root is that of the CPU which holds the number: no driver told it, and the process
that asked is the only one that knew it. A stop that nobody announced is a panic.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import asdict

from dma_rehearsal.host_harness.machine.channel import Message
from dma_rehearsal.host_harness.machine.guest_memory import NoMemory
from dma_rehearsal.host_harness.machine.qmp import MonitorError
from dma_rehearsal.host_harness.machine.vm import Vm
from dma_rehearsal.host_harness.session.guest_protocol import GuestWordsError
from dma_rehearsal.host_harness.witness import cpu_registers, page_walk
from dma_rehearsal.host_harness.witness.page_walk import Run, TypeRegisters, WalkFailed

LOG = "host-witness.jsonl"  # in the VM's folder: what was asked, and what was seen
LENGTH_MAX = 4 << 20  # bytes, each of whose pages costs four reads
_RANGES_MAX = 64  # pairs of registers
_FIXED_COUNT = 11
_NUMBER_BITS = 63  # so that it cannot look negative to anybody
_PHYSICAL_BITS = range(32, 53)


def answer(vm: Vm, message: Message, limit_s: float) -> None:
    """Serve one "witness" message within ``limit_s`` seconds.

    NoVerdict when the machine is lost meanwhile, GuestWordsError for a request that cannot be. What
    cannot be seen goes to the guest as "error".
    """
    address, length = _range(message)
    registers = _registers(message)
    number = secrets.randbits(_NUMBER_BITS)
    end = time.monotonic() + limit_s
    with vm.panic_announced():
        vm.send("test", {"type": "armed", "number": number})
        try:
            vm.await_panic("test", end - time.monotonic())
            reply = _look(vm, number, address, length, registers)
            vm.monitor.command("cont")
        except MonitorError as error:
            raise vm.lost("test", f"QEMU's monitor, about the stopped guest: {error}") from error
    with (vm.folder / LOG).open("a") as log:
        log.write(json.dumps({"asked": message, "seen": reply}) + "\n")
    vm.send("test", {"type": "witnessed", **reply})


def _look(vm: Vm, number: int, address: int, length: int, registers: TypeRegisters) -> Message:
    cpu = cpu_registers.holder(cpu_registers.read_all(vm.monitor), "RCX", number)
    reply: Message = {"root": cpu.root & page_walk.ROOT, "levels": cpu.levels}
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


def _edges(runs: list[Run]) -> list[int]:
    """Return the first and the last page of every run."""
    return sorted({va for run in runs for va in (run.va, run.va + run.length - page_walk.STEP)})


def _range(message: Message) -> tuple[int, int]:
    address = _number(message, "address")
    length = _number(message, "length")
    if not 0 < length <= LENGTH_MAX or address + length > 1 << 64:
        raise GuestWordsError(f"the guest asks for {length} bytes at {address:#x}")
    return address, length


def _registers(message: Message) -> TypeRegisters:
    ranges, fixed = message.get("ranges"), message.get("fixed")
    bits = _number(message, "physical_bits")
    if not isinstance(ranges, list) or len(ranges) > _RANGES_MAX or bits not in _PHYSICAL_BITS:
        raise GuestWordsError("the guest's MTRRs are none")
    if not isinstance(fixed, list) or len(fixed) != _FIXED_COUNT:
        raise GuestWordsError("the guest's fixed-range MTRRs are none")
    pairs = []
    for pair in ranges:
        if not isinstance(pair, list) or len(pair) != 2:
            raise GuestWordsError("a range of the guest's MTRRs is none")
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
        raise GuestWordsError(f"the guest's {name} is {value!r:.40}")
    return value
