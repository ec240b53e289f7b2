# SPDX-License-Identifier: Apache-2.0
"""The faults of the device, its requests, its interrupts, and the platform beside it."""

from __future__ import annotations

from dma_rehearsal.device.layout.faults.fault import Component, Fault
from dma_rehearsal.device.layout.run_status import Status

_EXERCISER = (
    Fault(
        "device-read-flip",
        Component.EXERCISER,
        "the device flips one byte of what it reads from memory",
        ("kIODirectionOut",),
        tests=("test_direction.py",),
    ),
    Fault(
        "device-write-flip",
        Component.EXERCISER,
        "the device flips one byte of what it writes to memory",
        ("kIODirectionIn", "kIODirectionInOut"),
        tests=("test_direction.py",),
    ),
    Fault(
        "device-ignores-direction",
        Component.EXERCISER,
        "the device ignores the direction bit and always reads memory",
        ("kIODirectionIn",),
        tests=("test_direction.py",),
    ),
    Fault(
        "device-false-success",
        Component.EXERCISER,
        "the device reports success without moving data",
        ("kIODirectionOut", "kIODirectionIn"),
        tests=("test_direction.py",),
    ),
    Fault(
        "device-record-lost",
        Component.EXERCISER,
        "the device keeps no record of every other DMA that reads memory",
        ("kIODirectionOut",),
        tests=("test_direction.py",),
    ),
    Fault(
        "device-reads-stale",
        Component.EXERCISER,
        "the device reads what it wrote there itself, whoever wrote there since",
        ("second opinion",),
        tests=("test_second_opinion.py",),
    ),
    Fault(
        "device-capability-hidden",
        Component.EXERCISER,
        "the device leaves Power Management out of its list of capabilities",
        ("capabilities",),
        message="not in the list: Power Management",
        tests=("test_device.py",),
        at_boot=True,
    ),
    Fault(
        "constraints-ignored",
        Component.EXERCISER,
        "the device does DMA that its constraints forbid",
        ("constraints",),
        tests=("test_constraints.py",),
    ),
    Fault(
        "mask-not-honoured",
        Component.EXERCISER,
        "the device does DMA beyond its address bits",
        ("constraints",),
        tests=("test_constraints.py",),
    ),
    Fault(
        "address-wrapped",
        Component.EXERCISER,
        "the device cuts an address to its address bits instead of refusing it",
        ("constraints",),
        tests=("test_constraints.py",),
    ),
    Fault(
        "boundary-crossed",
        Component.EXERCISER,
        "the device does DMA across the boundary that it must not cross",
        ("constraints",),
        tests=("test_constraints.py",),
    ),
    Fault(
        "coherence-forgotten",
        Component.EXERCISER,
        "a device whose profile is not coherent does DMA as a coherent one",
        ("coherence",),
        tests=("test_profile.py",),
        options={"coherent": "no"},
    ),
    Fault(
        "non-coherent-snooped",
        Component.EXERCISER,
        "a device whose profile is not coherent is snooped, and records say that it was not",
        ("coherence",),
        tests=("test_profile.py",),
        options={"coherent": "no"},
    ),
    Fault(
        "held-outlives-bus-master",
        Component.EXERCISER,
        "a DMA in flight goes on when bus mastering is turned on again",
        ("DMA in flight",),
        tests=("test_held.py",),
    ),
    Fault(
        "held-outlives-reset",
        Component.EXERCISER,
        "a DMA in flight goes on after a reset",
        ("DMA in flight",),
        tests=("test_held.py",),
    ),
    Fault(
        "ring-skips-last",
        Component.EXERCISER,
        "the device leaves out the last segment of a transfer with several",
        ("descriptor ring",),
        tests=("test_ring.py",),
    ),
    Fault(
        "ring-double-fetch",
        Component.EXERCISER,
        "the device reads a descriptor again after it was checked",
        ("descriptor ring",),
        message="a transfer that was never asked for",
        tests=("test_ring.py",),
    ),
    Fault(
        "ring-refusal-lost",
        Component.EXERCISER,
        "the device completes a refused ring transfer as if it were done",
        ("descriptor ring",),
        tests=("test_ring.py",),
    ),
    Fault(
        "message-not-sent",
        Component.EXERCISER,
        "the device invents the data that it should ask QEMU for",
        ("DMA by message",),
        tests=("test_by_message.py",),
    ),
    Fault(
        "atc-uncovered",
        Component.EXERCISER,
        "the device uses a translation for addresses that it does not cover",
        ("ATS",),
        tests=("test_arm_registers.py",),
    ),
    Fault(
        "trace-of-words",
        Component.EXERCISER,
        "the device traces an access of 8 bytes as two of 4",
        ("transaction trace",),
        tests=("test_arm_registers.py",),
    ),
    Fault(
        "own-bar-reached",
        Component.EXERCISER,
        "the device lets a DMA write its own registers",
        ("own BAR",),
        tests=("test_hostile.py",),
    ),
    Fault(
        "peer-write-lost",
        Component.EXERCISER,
        "a write to a peer's buffer succeeds, but the buffer does not change",
        ("peer memory",),
        tests=("test_peers.py",),
    ),
)

_REQUESTS = (
    Fault(
        "trace-refusals-lost",
        Component.EXERCISER,
        "the device's trace leaves out refused requests",
        ("what the host saw",),
        message="the device's trace has no such refusal",
        tests=("test_protection.py",),
    ),
    Fault(
        "trace-transfers-lost",
        Component.EXERCISER,
        "the device's trace leaves out requests that moved bytes",
        ("kIODirectionOut", "kIODirectionIn"),
        verdict="unattested",
        message="no DMA moved a byte",
        tests=("test_direction.py",),
    ),
    Fault(
        "platform-refusals-uncounted",
        Component.REQUEST_LOG,
        "the platform does not count refused requests",
        ("protection unit",),
        message="nothing was refused",
        tests=("test_protection.py",),
    ),
    Fault(
        "device-reads-ahead",
        Component.EXERCISER,
        "the device reads one byte behind each DMA without an announcement",
        ("kIODirectionOut",),
        message="was refused: PROTECTION_OUTSIDE, and the test did not announce it",
        tests=("test_direction.py",),
    ),
    Fault(
        "device-reads-ahead-untraced",
        Component.EXERCISER,
        "the device reads one byte behind each DMA, and its trace leaves that out",
        ("kIODirectionOut",),
        message="the platform counted a refused request that the test did not announce",
        tests=("test_direction.py",),
    ),
    Fault(
        "device-hangs",
        Component.EXERCISER,
        "the device never ends a write to DMACTL",
        status=Status.NO_VERDICT,
        message="exerciser does not answer: a write of 0x1 to BAR0 0x8 (DMACTL)",
        tests=("test_direction.py",),
    ),
)

_INTERRUPTS = (
    Fault(
        "msix-dropped",
        Component.EXERCISER,
        "the device does not send the MSI-X messages of one vector",
        ("MSI-X",),
        tests=("test_interrupts.py",),
    ),
    Fault(
        "msix-doubled",
        Component.EXERCISER,
        "the device sends each MSI-X message of one vector twice",
        ("MSI-X",),
        tests=("test_interrupts.py",),
    ),
    Fault(
        "msix-misdirected",
        Component.EXERCISER,
        "the device sends the MSI-X messages of one vector to the last one",
        ("MSI-X",),
        tests=("test_interrupts.py",),
    ),
    Fault(
        "msix-mask-ignored",
        Component.EXERCISER,
        "the device sends masked MSI-X messages, and none is pending",
        ("MSI-X",),
        tests=("test_interrupts.py",),
    ),
    Fault(
        "intx-dropped",
        Component.EXERCISER,
        "the device sets Interrupt Status but does not raise the INTx line",
        ("INTx",),
        tests=("test_interrupts.py",),
    ),
    Fault(
        "intx-doubled",
        Component.EXERCISER,
        "the device raises the INTx line once more after lowering it",
        ("INTx",),
        tests=("test_interrupts.py",),
    ),
    Fault(
        "intx-misdirected",
        Component.EXERCISER,
        "the device sends an MSI-X message instead of raising the INTx line",
        ("INTx",),
        tests=("test_interrupts.py",),
    ),
    Fault(
        "intx-storm",
        Component.EXERCISER,
        "the device clears Interrupt Status while the guest's INTx line is still up",
        ("INTx",),
        tests=("test_interrupts.py",),
    ),
)

_WITNESS = (
    Fault(
        "witness-ignores-pat",
        Component.WITNESS,
        "the witness takes the PAT bit of every page-table entry as 0",
        ("kIOMapWriteThruCache",),
        message="PAT 3 = UC",
        tests=("test_cache_modes.py",),
    ),
    Fault(
        "witness-misplaces-pat",
        Component.WITNESS,
        "the witness takes the PAT bit of a large page from where a small one has it",
        ("page size",),
        message="PAT 4 = WB",
        tests=("test_witnessed.py",),
    ),
    Fault(
        "witness-ignores-rights",
        Component.WITNESS,
        "the witness takes every page for one that users may write and execute",
        ("kIOMapWriteThruCache",),
        tests=("test_witnessed.py",),
    ),
    Fault(
        "witness-ignores-mtrrs",
        Component.WITNESS,
        "the witness takes all memory for write-back by the MTRRs",
        ("MTRR",),
        tests=("test_witnessed.py",),
    ),
)

_PROTECTION = (
    Fault(
        "protection-end-off-by-one",
        Component.PROTECTION_UNIT,
        "the protection unit opens one byte more than each grant says",
        ("protection unit",),
        tests=("test_protection.py",),
    ),
    Fault(
        "protection-direction-swapped",
        Component.PROTECTION_UNIT,
        "the protection unit opens each grant for the other direction",
        ("kIODirectionOut denial", "kIODirectionIn denial"),
        tests=("test_direction.py",),
    ),
    Fault(
        "protection-moves-prefix",
        Component.EXERCISER,
        "the device moves the granted part of a DMA that is denied",
        ("protection unit",),
        tests=("test_protection.py",),
    ),
    Fault(
        "protection-record-lost",
        Component.PROTECTION_UNIT,
        "the protection unit keeps no record of every eighth denied DMA",
        ("protection unit",),
        tests=("test_protection.py",),
    ),
)

_HOLD = (
    Fault(
        "hold-ignored",
        Component.BOARD,
        "an action does not wait, though the board holds",
        ("held device",),
        message="before the release",
        tests=("test_board_hold.py",),
    ),
    Fault(
        "hold-release-lost",
        Component.BOARD,
        "a held action waits on after its release, until its time is over",
        ("held device",),
        tests=("test_board_hold.py",),
    ),
    Fault(
        "hold-overtaken",
        Component.BOARD,
        "an action overtakes one that waits",
        ("held device",),
        tests=("test_board_hold.py",),
    ),
    Fault(
        "hold-poll-ignored",
        Component.BOARD,
        "a held action waits on though its driver polls, until its time is over",
        ("held device",),
        tests=("test_board_hold.py",),
    ),
)

_MAILBOX = (
    Fault(
        "mail-withdraw-ignored",
        Component.MAILBOX,
        "the mailbox takes back no grant",
        ("mailbox",),
        tests=("test_mailbox.py",),
    ),
    Fault(
        "mail-track-dropped",
        Component.MAILBOX,
        "the mailbox has the cache model track nothing",
        ("mailbox",),
        message="SYNC_FOR_DEVICE: NO_SUCH_TAG",
        tests=("test_mailbox.py",),
    ),
    Fault(
        "mail-report-dropped",
        Component.MAILBOX,
        "the mailbox hands on no report of a driver's mistake",
        ("mailbox",),
        message="MASK_NEVER_SET",
        tests=("test_mailbox.py",),
    ),
    Fault(
        "board-snoop-ignored",
        Component.BOARD,
        "the board snoops, though BOARD_SNOOP says that it does not",
        ("board snoop",),
        message="the device reads new bytes",
        tests=("test_mailbox.py",),
    ),
)

DEVICE = (*_EXERCISER, *_REQUESTS, *_INTERRUPTS, *_WITNESS, *_PROTECTION, *_HOLD, *_MAILBOX)
