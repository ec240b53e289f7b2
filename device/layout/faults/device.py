# SPDX-License-Identifier: Apache-2.0
"""The named faults of the device models; the cache model has a file of its own. See `faults`."""

from __future__ import annotations

from typing import Any

from dma_rehearsal.device.layout.faults.fault import Fault, Place
from dma_rehearsal.host_harness.process.errors import Status


def _device(name: str, tests: str, description: str, *promises: str, **others: Any) -> Fault:
    return Fault(name, Place.DEVICE, Status.FAILED, promises, description, tests=tests, **others)


_EXERCISER = (
    _device(
        "device-read-flip",
        "test_direction.py",
        "the device flips one byte of what it reads from memory",
        "kIODirectionOut",
    ),
    _device(
        "device-write-flip",
        "test_direction.py",
        "the device flips one byte of what it writes to memory",
        "kIODirectionIn",
    ),
    _device(
        "device-ignores-direction",
        "test_direction.py",
        "the device ignores the direction bit and always reads memory",
        "kIODirectionIn",
    ),
    _device(
        "device-false-success",
        "test_direction.py",
        "the device reports success without moving data",
        "kIODirectionOut",
        "kIODirectionIn",
    ),
    _device(
        "device-record-lost",
        "test_direction.py",
        "the device keeps no record of every other DMA that reads memory",
        "kIODirectionOut",
    ),
    _device(
        "device-reads-stale",
        "test_second_opinion.py",
        "the device reads what it wrote there itself, whoever wrote there since",
        "second opinion",
    ),
    _device(
        "device-capability-hidden",
        "test_device.py",
        "the device leaves Power Management out of its list of capabilities",
        "capabilities",
        words="not in the list: Power Management",
        at_boot=True,
    ),
    _device(
        "constraints-ignored",
        "test_constraints.py",
        "the device does DMA that its constraints forbid",
        "constraints",
    ),
    _device(
        "mask-not-honoured",
        "test_constraints.py",
        "the device does DMA beyond its address bits",
        "constraints",
    ),
    _device(
        "address-wrapped",
        "test_constraints.py",
        "the device cuts an address to its address bits in place of refusing it",
        "constraints",
    ),
    _device(
        "boundary-crossed",
        "test_constraints.py",
        "the device does DMA across the boundary that it must not cross",
        "constraints",
    ),
    _device(
        "coherence-forgotten",
        "test_profile.py",
        "the device of a profile that is not coherent does DMA as a coherent one",
        "coherence",
        options={"coherent": "no"},
    ),
    _device(
        "non-coherent-snooped",
        "test_profile.py",
        "the device of a profile that is not coherent says so, and is snooped",
        "coherence",
        options={"coherent": "no"},
    ),
    _device(
        "held-outlives-bus-master",
        "test_held.py",
        "the device goes on with a DMA in flight when bus mastering is back",
        "DMA in flight",
    ),
    _device(
        "held-outlives-reset",
        "test_held.py",
        "the device goes on with a DMA in flight after a reset",
        "DMA in flight",
    ),
    _device(
        "ring-skips-last",
        "test_ring.py",
        "the device leaves out the last segment of a transfer in several",
        "descriptor ring",
    ),
    _device(
        "ring-double-fetch",
        "test_ring.py",
        "the device reads a descriptor again after it was checked",
        "descriptor ring",
        words="a transfer that was never asked for",
    ),
    _device(
        "ring-refusal-lost",
        "test_ring.py",
        "the device completes a ring transfer that was refused as if it were done",
        "descriptor ring",
    ),
    _device(
        "message-not-sent",
        "test_by_message.py",
        "the device makes up the data for which it should ask QEMU",
        "DMA by message",
    ),
    _device(
        "atc-uncovered",
        "test_arm_registers.py",
        "the device uses a translation for addresses that it does not cover",
        "ATS",
    ),
    _device(
        "trace-of-words",
        "test_arm_registers.py",
        "the device traces an access of 8 bytes as two of 4",
        "transaction trace",
    ),
    _device(
        "own-bar-reached",
        "test_hostile.py",
        "the device lets a DMA write its own registers",
        "own BAR",
    ),
    _device(
        "peer-write-lost",
        "test_peers.py",
        "a write to a peer's buffer succeeds, and the peer has nothing of it",
        "peer memory",
    ),
)

_REQUESTS = (
    _device(
        "trace-refusals-lost",
        "test_protection.py",
        "the device's trace has no refused requests",
        "what the host saw",
        words="the device's trace has no such refusal",
    ),
    _device(
        "trace-transfers-lost",
        "test_direction.py",
        "the device's trace has no requests that moved bytes",
        "kIODirectionOut",
        "kIODirectionIn",
        verdict="unattested",
        words="no DMA moved a byte",
    ),
    _device(
        "platform-refusals-uncounted",
        "test_protection.py",
        "the platform counts no refused requests",
        "protection unit",
        words="nothing was refused",
    ),
    _device(
        "device-reads-ahead",
        "test_direction.py",
        "the device reads one byte behind each DMA, which nobody announced",
        "kIODirectionOut",
        words="was refused: PROTECTION_OUTSIDE, and the test did not announce it",
    ),
    _device(
        "device-reads-ahead-untraced",
        "test_direction.py",
        "the device reads one byte behind each DMA, and its trace does not say so",
        "kIODirectionOut",
        words="the platform counted a refused request that the test did not announce",
    ),
    Fault(
        "device-hangs",
        Place.DEVICE,
        Status.NO_VERDICT,
        (),
        "the device never ends a write to DMACTL",
        words="exerciser does not answer: a write of 0x1 to BAR0 0x8 (DMACTL)",
        tests="test_direction.py",
    ),
)

_INTERRUPTS = (
    _device(
        "msix-dropped",
        "test_interrupts.py",
        "the device does not send the MSI-X messages of one vector",
        "MSI-X",
    ),
    _device(
        "msix-doubled",
        "test_interrupts.py",
        "the device sends each MSI-X message of one vector twice",
        "MSI-X",
    ),
    _device(
        "msix-misdirected",
        "test_interrupts.py",
        "the device sends the MSI-X messages of one vector to the last one",
        "MSI-X",
    ),
    _device(
        "msix-mask-ignored",
        "test_interrupts.py",
        "the device sends MSI-X messages while they are masked, and has none pending",
        "MSI-X",
    ),
    _device(
        "intx-dropped",
        "test_interrupts.py",
        "the device sets Interrupt Status and does not take the INTx line up",
        "INTx",
    ),
    _device(
        "intx-doubled",
        "test_interrupts.py",
        "the device takes the INTx line up once more after it was taken down",
        "INTx",
    ),
    _device(
        "intx-misdirected",
        "test_interrupts.py",
        "the device sends an MSI-X message in place of the INTx line",
        "INTx",
    ),
    _device(
        "intx-storm",
        "test_interrupts.py",
        "the device clears Interrupt Status while the guest's INTx line is still up",
        "INTx",
    ),
)

_WITNESS = (
    _device(
        "witness-ignores-pat",
        "test_cache_modes.py",
        "the witness takes the PAT bit of every page-table entry as 0",
        "kIOMapWriteThruCache",
        words="PAT 3 = UC",
    ),
    _device(
        "witness-misplaces-pat",
        "test_witnessed.py",
        "the witness takes the PAT bit of a large page from where a small one has it",
        "page size",
        words="PAT 4 = WB",
    ),
    _device(
        "witness-ignores-rights",
        "test_witnessed.py",
        "the witness takes every page for one that users may write and execute",
        "kIOMapWriteThruCache",
    ),
    _device(
        "witness-ignores-mtrrs",
        "test_witnessed.py",
        "the witness takes all memory for write-back by the MTRRs",
        "MTRR",
    ),
)

_PROTECTION = (
    _device(
        "protection-end-off-by-one",
        "test_protection.py",
        "the protection unit opens one byte more than each grant says",
        "protection unit",
    ),
    _device(
        "protection-direction-swapped",
        "test_direction.py",
        "the protection unit opens each grant for the other direction",
        "kIODirectionOut denial",
        "kIODirectionIn denial",
    ),
    _device(
        "protection-moves-prefix",
        "test_protection.py",
        "the device moves the granted part of a DMA that is denied",
        "protection unit",
    ),
    _device(
        "protection-record-lost",
        "test_protection.py",
        "the protection unit keeps no record of every eighth denied DMA",
        "protection unit",
    ),
)

DEVICE = (*_EXERCISER, *_REQUESTS, *_INTERRUPTS, *_WITNESS, *_PROTECTION)
