# SPDX-License-Identifier: Apache-2.0
"""Saved machine states made by hand, as QEMU 11 lays them out."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dma_rehearsal.host_harness.machine.machine_state import MemoryTypeRegisters
from dma_rehearsal.host_harness.machine.qmp import MonitorError

PAT = 0x0407_0506_0007_0106
REGISTERS = MemoryTypeRegisters(
    PAT,
    0xC06,
    (0x0606060606060606, 0x0606060606060606, 0, *((0x0505050505050505,) * 8)),
    ((0xC000_0000, 0xFF_C000_0800), *(((0, 0),) * 7)),
)
"""Those of the CPUs of a guest as the harness starts it."""

PHYSICAL_BITS = 40

Field = tuple[dict[str, Any], bytes]  # its description, its bytes


def word(name: str, value: int) -> Field:
    return {"name": name, "type": "uint64", "size": 8}, value.to_bytes(8, "big")


def words(name: str, values: Sequence[int]) -> Field:
    described = {"name": name, "array_len": len(values), "type": "uint64", "size": 8}
    return described, struct.pack(f">{len(values)}Q", *values)


def pairs(name: str, values: Sequence[tuple[int, int]]) -> Field:
    parts = [{"name": part, "type": "uint64", "size": 8} for part in ("base", "mask")]
    inner = {"vmsd_name": "mtrr_var", "version": 1, "fields": parts}
    described = {"name": name, "array_len": len(values), "type": "struct", "struct": inner}
    return {**described, "size": 16}, b"".join(struct.pack(">QQ", *pair) for pair in values)


def cpu_fields(registers: MemoryTypeRegisters) -> list[Field]:
    """Return the fields that matter, between some that do not."""
    return [
        words("env.regs", range(16)),
        word("env.pat", registers.pat),
        words("env.mtrr_fixed", registers.fixed),
        word("env.mtrr_deftype", registers.def_type),
        ({"name": "env.mcg_cap", "type": "uint32", "size": 4}, b"\1\2\3\4"),
        pairs("env.mtrr_var", registers.ranges),
        word("env.tsc_aux", 5),
    ]


class Section:
    """The section of one device."""

    def __init__(
        self,
        name: str,
        instance: int,
        fields: Sequence[Field],
        version: int | None = 12,
        subsections: Sequence[tuple[str, Sequence[Field]]] = (),
    ) -> None:
        self.described: dict[str, Any] = {"name": name, "instance_id": instance}
        if version is not None:
            self.described |= {"vmsd_name": name, "version": version}
        self.described["fields"] = [described for described, _ in fields]
        self.name = bytes([len(name)]) + name.encode()
        self.header = self.name + struct.pack(">II", instance, version or 7)
        self.data = b"".join(data for _, data in fields)
        if subsections:
            self.described["subsections"] = [
                {"vmsd_name": title, "version": 1, "fields": [each for each, _ in inner]}
                for title, inner in subsections
            ]
        for title, inner in subsections:
            head = bytes([5, len(title)]) + title.encode() + (1).to_bytes(4, "big")
            self.data += head + b"".join(data for _, data in inner)

    def bytes(self, number: int) -> bytes:
        section = number.to_bytes(4, "big")
        return b"\x04" + section + self.header + self.data + b"\x7e" + section


def cpu(index: int, registers: MemoryTypeRegisters = REGISTERS) -> Section:
    more = [("cpu/smi_count", [word("env.msr_smi_count", 0)])] if index else []
    return Section("cpu", index, cpu_fields(registers), subsections=more)


def other(data: bytes = b"\x7e\0\0\0\4" * 3) -> Section:
    """Return the section of a device of the old kind, whose bytes are the guest's."""
    described = {"name": "data", "type": "buffer", "size": len(data)}
    return Section("serial", 0, [(described, data)], None)


def described(sections: Sequence[Section]) -> dict[str, Any]:
    return {
        "configuration": {"vmsd_name": "configuration", "version": 1, "fields": []},
        "page_size": 4096,
        "devices": [each.described for each in sections],
    }


def stream(
    sections: Sequence[Section] | None = None, *, description: object = None, ram: bytes = b"\1ram"
) -> bytes:
    """Return a saved state; without ``sections`` that of a usual machine of two CPUs."""
    if sections is None:
        sections = [cpu(0), other(), cpu(1), other(b"")]
    text = json.dumps(description or described(sections)).encode()
    devices = b"".join(each.bytes(number) for number, each in enumerate(sections, 3))
    end = b"\0\6" + len(text).to_bytes(4, "big") + text
    return b"QEVM\0\0\0\3\7\0\0\0\1q" + ram + devices + end


class SavingQemu:
    """A monitor of a QEMU that saves its state, with these registers by CPU index.

    ``refuses`` is a command that fails, ``physical_bits`` what each CPU's phys-bits is.
    """

    def __init__(self, cpus: Mapping[int, MemoryTypeRegisters]) -> None:
        self.cpus = dict(cpus)
        self.commands: list[str] = []
        self.refuses = ""
        self.physical_bits: object = PHYSICAL_BITS

    def command(self, name: str, **arguments: Any) -> Any:
        """Answer a command of QMP."""
        self.commands.append(name)
        if name == self.refuses:
            raise MonitorError(f"{name}: refused")
        if name == "migrate":
            (channel,) = arguments["channels"]
            sections = [cpu(index, registers) for index, registers in self.cpus.items()]
            Path(channel["addr"]["filename"]).write_bytes(stream(sections))
        return {
            "query-migrate": {"status": "completed"},
            "query-cpus-fast": [
                {"cpu-index": index, "qom-path": f"/machine/cpu{index}"} for index in (0, 1)
            ][: max(1, len(self.cpus))],
            "qom-get": self.physical_bits,
        }.get(name, {})
