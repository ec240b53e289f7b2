# SPDX-License-Identifier: Apache-2.0
"""Reads the registers of a stopped machine's CPUs, and QEMU's own translations, over QMP."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from dma_rehearsal.host_harness.machine.qmp import Monitor, MonitorError

_REGISTER = re.compile(r"\b(R[A-Z0-9]{1,2}|CR[0-4]|EFER)\s*=\s*([0-9a-f]+)")
_GPA = re.compile(r"gpa: (0x[0-9a-f]+)")
_PAGING, _LA57, _LONG_MODE = 1 << 31, 1 << 12, 1 << 10  # of CR0, CR4 and EFER


@dataclass(frozen=True, slots=True)
class Processor:
    """One CPU: ``root`` is its CR3, ``levels`` 4 or 5 by CR4.LA57."""

    index: int
    root: int
    levels: int
    general: dict[str, int]


def read_all(monitor: Monitor) -> list[Processor]:
    """Read all CPUs; the machine should be stopped. MonitorError, too, for one not in long mode."""
    cpus = monitor.command("query-cpus-fast")
    return [parse(cpu["cpu-index"], _ask(monitor, cpu, "info registers")) for cpu in cpus]


def parse(index: int, text: str) -> Processor:
    """Read what "info registers" prints of a CPU; MonitorError when it cannot be."""
    values = {name: int(value, 16) for name, value in _REGISTER.findall(text)}
    try:
        long_mode = values["EFER"] & _LONG_MODE and values["CR0"] & _PAGING
        levels = 5 if values["CR4"] & _LA57 else 4
        root = values["CR3"]
    except KeyError as error:
        raise MonitorError(f"info registers: CPU {index} shows no {error}") from error
    if not long_mode:
        raise MonitorError(f"info registers: CPU {index} is not in 64-bit mode with paging")
    return Processor(index, root, levels, values)


def holder(processors: Iterable[Processor], register: str, value: int) -> Processor:
    """Return the one CPU whose ``register`` holds ``value``; MonitorError when it is not one."""
    found = [each for each in processors if each.general.get(register) == value]
    if len(found) != 1:
        raise MonitorError(f"{len(found)} CPUs have {value:#x} in {register}, instead of one")
    return found[0]


def translator(monitor: Monitor, processor: Processor) -> Callable[[int], int | None]:
    """Return QEMU's own translation, by what is loaded in ``processor``: physical, or None."""

    def translate(address: int) -> int | None:
        said = _ask(monitor, {"cpu-index": processor.index}, f"gva2gpa {address:#x}")
        found = _GPA.search(said)
        return int(found[1], 16) if found else None

    return translate


def _ask(monitor: Monitor, cpu: dict[str, int], line: str) -> str:
    arguments: dict[str, Any] = {"command-line": line, "cpu-index": cpu["cpu-index"]}
    return str(monitor.command("human-monitor-command", **arguments))
