# SPDX-License-Identifier: Apache-2.0
"""The test kit of guest tests: fixtures, and the types that fixtures return.

Tests take fixtures by name (docs/fixtures.md lists them) and import types from here.
"""

from dma_rehearsal.guest.drivers.platform.refusals import Announce
from dma_rehearsal.guest.linux.kernel_cmdline import repeat_count
from dma_rehearsal.guest.testkit.agreement import Agreement, HostWitness
from dma_rehearsal.guest.testkit.attestation import Attest, CheckFailed
from dma_rehearsal.guest.testkit.board import Board
from dma_rehearsal.guest.testkit.buffers import MakeBuffer
from dma_rehearsal.guest.testkit.denial import Denial
from dma_rehearsal.guest.testkit.dma_checker import DmaChecker, Transferred
from dma_rehearsal.guest.testkit.driver_rehearsal import (
    Bound,
    DriverRehearsal,
    ProbeFailed,
    RehearsalFailed,
)
from dma_rehearsal.guest.testkit.endpoint_slot import EndpointSlot
from dma_rehearsal.guest.testkit.guarded import Guarded
from dma_rehearsal.guest.testkit.iommu import KernelLog, Mapper
from dma_rehearsal.guest.testkit.noncoherent import NonCoherent
from dma_rehearsal.guest.testkit.other_process import OtherProcess, OtherProcessError
from dma_rehearsal.guest.testkit.patterns import Patterns, difference, inverted

__all__ = [
    "Agreement",
    "Announce",
    "Attest",
    "Board",
    "Bound",
    "CheckFailed",
    "Denial",
    "DmaChecker",
    "DriverRehearsal",
    "EndpointSlot",
    "Guarded",
    "HostWitness",
    "KernelLog",
    "MakeBuffer",
    "Mapper",
    "NonCoherent",
    "OtherProcess",
    "OtherProcessError",
    "Patterns",
    "ProbeFailed",
    "RehearsalFailed",
    "Transferred",
    "difference",
    "inverted",
    "repeat_count",
]
