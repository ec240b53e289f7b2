"""The named faults: each breaks one promise on purpose, and the run must notice.

``make faults`` prints them. A check that no fault can make fail is not a check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from .errors import Status, UsageError


class Place(Enum):
    """Where a fault acts."""

    DEVICE = "device"
    GUEST = "guest"
    DRIVER = "driver"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. ``promises`` are the promises that the run's message must name.

    ``words`` must stand in the message of a run that has no verdict; ``parameter`` goes onto the
    kernel's command line; ``deadlines`` (seconds by phase) keep a fault that hangs short.
    """

    name: str
    place: Place
    status: Status
    promises: tuple[str, ...]
    description: str
    parameter: str = ""
    words: str = ""
    deadlines: Mapping[str, float] = field(default_factory=dict)


FAULTS = (
    Fault(
        "device-read-flip",
        Place.DEVICE,
        Status.FAILED,
        ("kIODirectionOut",),
        "the device flips one byte of what it reads from memory",
    ),
    Fault(
        "device-write-flip",
        Place.DEVICE,
        Status.FAILED,
        ("kIODirectionIn",),
        "the device flips one byte of what it writes to memory",
    ),
    Fault(
        "device-ignores-direction",
        Place.DEVICE,
        Status.FAILED,
        ("kIODirectionIn",),
        "the device ignores the direction bit and always reads memory",
    ),
    Fault(
        "device-false-success",
        Place.DEVICE,
        Status.FAILED,
        ("kIODirectionOut", "kIODirectionIn"),
        "the device reports success without moving data",
    ),
    Fault(
        "allocator-misaligned",
        Place.GUEST,
        Status.FAILED,
        ("alignment",),
        "the allocator returns an address off its alignment",
    ),
    Fault(
        "allocator-overlap",
        Place.GUEST,
        Status.FAILED,
        ("capacity",),
        "the allocator hands out two overlapping buffers",
    ),
    Fault(
        "driver-wrong-cache",
        Place.DRIVER,
        Status.FAILED,
        ("kIOMapWriteThruCache",),
        "the driver maps another cache mode than the one asked for",
        parameter="dma_rehearsal.fault=wrong_cache",
    ),
    Fault(
        "msix-dropped",
        Place.DEVICE,
        Status.FAILED,
        ("MSI-X",),
        "the device does not send the MSI-X messages of one vector",
    ),
    Fault(
        "msix-doubled",
        Place.DEVICE,
        Status.FAILED,
        ("MSI-X",),
        "the device sends each MSI-X message of one vector twice",
    ),
    Fault(
        "msix-misdirected",
        Place.DEVICE,
        Status.FAILED,
        ("MSI-X",),
        "the device sends the MSI-X messages of one vector to the last one",
    ),
    Fault(
        "intx-dropped",
        Place.DEVICE,
        Status.FAILED,
        ("INTx",),
        "the device sets Interrupt Status and does not take the INTx line up",
    ),
    Fault(
        "intx-doubled",
        Place.DEVICE,
        Status.FAILED,
        ("INTx",),
        "the device takes the INTx line up once more after it was taken down",
    ),
    Fault(
        "intx-misdirected",
        Place.DEVICE,
        Status.FAILED,
        ("INTx",),
        "the device sends an MSI-X message in place of the INTx line",
    ),
    Fault(
        "intx-storm",
        Place.DEVICE,
        Status.FAILED,
        ("INTx",),
        "the device clears Interrupt Status while the guest's INTx line is still up",
    ),
    Fault(
        "constraints-ignored",
        Place.DEVICE,
        Status.FAILED,
        ("constraints",),
        "the device does DMA that its constraints forbid",
    ),
    Fault(
        "mask-not-honoured",
        Place.DEVICE,
        Status.FAILED,
        ("constraints",),
        "the device does DMA beyond its address bits",
    ),
    Fault(
        "address-wrapped",
        Place.DEVICE,
        Status.FAILED,
        ("constraints",),
        "the device cuts an address to its address bits in place of refusing it",
    ),
    Fault(
        "boundary-crossed",
        Place.DEVICE,
        Status.FAILED,
        ("constraints",),
        "the device does DMA across the boundary that it must not cross",
    ),
    Fault(
        "held-outlives-bus-master",
        Place.DEVICE,
        Status.FAILED,
        ("DMA in flight",),
        "the device goes on with a DMA in flight when bus mastering is back",
    ),
    Fault(
        "held-outlives-reset",
        Place.DEVICE,
        Status.FAILED,
        ("DMA in flight",),
        "the device goes on with a DMA in flight after a reset",
    ),
    Fault(
        "ring-skips-last",
        Place.DEVICE,
        Status.FAILED,
        ("descriptor ring",),
        "the device leaves out the last segment of a transfer in several",
    ),
    Fault(
        "ring-double-fetch",
        Place.DEVICE,
        Status.FAILED,
        ("descriptor ring",),
        "the device reads a descriptor again after it was checked",
    ),
    Fault(
        "atc-uncovered",
        Place.DEVICE,
        Status.FAILED,
        ("ATS",),
        "the device uses a translation for addresses that it does not cover",
    ),
    Fault(
        "trace-of-words",
        Place.DEVICE,
        Status.FAILED,
        ("transaction trace",),
        "the device traces an access of 8 bytes as two of 4",
    ),
    Fault(
        "own-bar-reached",
        Place.DEVICE,
        Status.FAILED,
        ("own BAR",),
        "the device lets a DMA write its own registers",
    ),
    Fault(
        "witness-ignores-pat",
        Place.DEVICE,
        Status.FAILED,
        ("kIOMapWriteThruCache",),
        "the witness takes the PAT bit of every page-table entry as 0",
    ),
    Fault(
        "report-lost",
        Place.GUEST,
        Status.NO_VERDICT,
        (),
        "one test's report is lost on its way to the host",
        words="is missing",
    ),
    Fault(
        "report-corrupted",
        Place.GUEST,
        Status.NO_VERDICT,
        (),
        "one bit of a test's report changes on its way to the host",
        words="the checksum",
    ),
    Fault(
        "report-left-out",
        Place.GUEST,
        Status.NO_VERDICT,
        (),
        "the guest leaves out one report of a test",
        words="reports are missing",
    ),
    Fault(
        "report-misattributed",
        Place.GUEST,
        Status.NO_VERDICT,
        (),
        "the guest sends a report under another test's name",
        words="the guest reports",
    ),
    Fault(
        "test-never-ends",
        Place.GUEST,
        Status.NO_VERDICT,
        (),
        "a test of the guest never ends",
        words="no answer within its deadline of 20 s",
        deadlines={"test": 20.0},
    ),
    Fault(
        "tests-overcounted",
        Place.GUEST,
        Status.NO_VERDICT,
        (),
        "the guest claims more tests than it ran",
        words="the guest says that it ran",
    ),
)


def find(name: str) -> Fault:
    """Return the fault of that name; UsageError lists the names when there is none."""
    for fault in FAULTS:
        if fault.name == name:
            return fault
    names = ", ".join(fault.name for fault in FAULTS)
    raise UsageError(f"there is no fault {name!r}", f"choose one of: {names} (make faults)")


def listing() -> str:
    """Return one line for each fault: name, status, description."""
    width = max(len(fault.name) for fault in FAULTS)
    return "\n".join(f"{f.name:{width}}  {f.status.value}  {f.description}" for f in FAULTS)
