# SPDX-License-Identifier: Apache-2.0
"""The harness's side of the rig: it looks at the rig's page tables as it looks at a guest's."""

from __future__ import annotations

from dataclasses import asdict
from typing import Protocol

from dma_rehearsal.guest.iobuffer.os.driver import PageTableEntry
from dma_rehearsal.guest.linux.memory_types import Mtrrs
from dma_rehearsal.guest.testkit.host_witness import HostError, HostReport, run_from
from dma_rehearsal.host_harness.witness import host_witness, page_walk
from dma_rehearsal.host_harness.witness.page_walk import TypeRegisters, WalkFailed
from tests.inprocess.rig.registers import REGISTERS
from tests.unit.device.platform.tables import PAGE, Tables


class Mapped(Protocol):
    """The part of a machine that is used. ``witnessed``: a test had the host look at its tables.

    ``objections`` are those of the host's looks.
    """

    tables: Tables
    witnessed: bool
    objections: list[str]

    def query(self, address: int) -> PageTableEntry:
        """Make the page tables of the mapping that holds ``address``."""


class RigHost:
    """Stands for `suite.host.Host`, without a channel and without a stop. Subclasses err."""

    def __init__(self, machine: Mapped) -> None:
        self._machine = machine

    def witness(
        self,
        nodeid: str,  # noqa: ARG002
        address: int,
        length: int,
        pat: int,
        mtrrs: Mtrrs,
    ) -> HostReport:
        """Walk by the harness's own decoder; what QEMU would translate is taken from there, too."""
        self._machine.witnessed = True
        self._machine.query(address)
        tables = self._machine.tables
        told = TypeRegisters(pat, mtrrs.def_type, mtrrs.physical_bits, mtrrs.ranges, mtrrs.fixed)
        self._machine.objections += host_witness.compare(told, REGISTERS, 0)

        def read(place: int, size: int) -> bytes:
            return tables.read(place & -PAGE, PAGE)[place % PAGE :][:size]

        try:
            runs = page_walk.walk(read, tables.root, tables.levels, address, length, REGISTERS)
        except WalkFailed as error:
            raise HostError(str(error)) from error
        edges = [
            (run.va + offset, run.physical + offset)
            for run in runs
            for offset in sorted({0, run.length - PAGE})
        ]
        found = tuple(run_from(**asdict(run)) for run in runs)
        by = host_witness.QEMU
        return self.says(
            HostReport(tables.root, tables.levels, found, tuple(edges), REGISTERS.pat, by)
        )

    def says(self, report: HostReport) -> HostReport:
        """Return what the tests are told."""
        return report
