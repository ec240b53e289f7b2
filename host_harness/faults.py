"""The named faults: each breaks one promise on purpose, and the run must notice.

``make faults`` prints them. A check that no fault can make fail is not a check.
"""

from __future__ import annotations

from .errors import Status, UsageError
from .fault import Fault, Place
from .faults_cache import CACHE

__all__ = ["FAULTS", "Fault", "Place", "find", "listing"]


_IOMMU = {"iommu": "intel"}


def _allocator(name: str, promise: str, tests: str, description: str) -> Fault:
    return Fault(
        f"allocator-{name}", Place.GUEST, Status.FAILED, (promise,), description, tests=tests
    )


def _driver(name: str, tests: str, description: str, *promises: str) -> Fault:
    return Fault(
        f"driver-{name}",
        Place.DRIVER,
        Status.FAILED,
        promises,
        description,
        parameter=f"dma_rehearsal.fault={name.replace('-', '_')}",
        tests=tests,
    )


_DRIVER = (
    _driver(
        "wrong-cache",
        "test_cache_modes.py",
        "the driver maps another cache mode than the one asked for",
        "kIOMapWriteThruCache",
    ),
    _driver(
        "pin-does-not-pin",
        "test_driver_pin.py",
        "the driver lets go of pinned pages at once, and tells their addresses all the same",
        "pinned pages",
    ),
    _driver(
        "pin-never-ends",
        "test_driver_pin.py",
        "the driver keeps pages pinned after the last close of their file",
        "unpinned pages",
    ),
    _driver(
        "wrong-entry",
        "test_witnessed.py",
        "the driver tells page-table entries with another cache mode than the CPU finds",
        "kIOMapWriteThruCache",
        "page size",
    ),
    _driver(
        "aliases",
        "test_cache_modes.py",
        "the driver maps memory again with another cache mode, which is then a second one",
        "kIOMapInhibitCache",
        "kIOMapWriteThruCache",
    ),
)

_ALLOCATOR = (
    _allocator(
        *("segments-shuffled", "kIOMemoryPageable", "test_prepare.py"),
        "pinned memory tells its segments in the wrong order",
    ),
    _allocator(
        *("purge-undetected", "kIOMemoryPurgeable", "test_purgeable.py"),
        "purged memory is handed back as what was left there",
    ),
    _allocator(
        *("double-release", "release", "test_release.py"), "a second release passes in silence"
    ),
    _allocator(*("stale-mapping", "release", "test_mappings.py"), "what is unmapped stays mapped"),
    _allocator(
        *("view-without-mapping", "release", "test_release.py"),
        "memory is given to others while a mapping's view looks at it",
    ),
    _allocator(
        *("freed-before-withdrawn", "release", "test_release.py"),
        "memory is given to others while devices can still reach it",
    ),
    _allocator(
        *("lost-reclaim", "release", "test_release.py"),
        "the memory of a buffer that was dropped never comes back",
    ),
    _allocator(
        *("release-in-flight", "release", "test_release.py"),
        "a buffer is released while a DMA on it is in flight",
    ),
    _allocator(
        *("grants-both-ways", "kIODirectionOut denial", "test_prepare.py"),
        "prepare() lets the device read and write, whatever the direction",
    ),
    _allocator(
        *("grants-outlive", "kIOMemoryPageable", "test_prepare.py"),
        "what prepare() granted is never withdrawn",
    ),
    _allocator(
        *("grants-of-the-dead", "processes", "test_processes.py"),
        "a killed process's grants stay when its memory goes to another one",
    ),
    _allocator(
        *("writable-after-out", "prepare", "test_prepare.py"),
        "memory prepared for reading is prepared for writing as well",
    ),
    _allocator(
        *("blocks-anywhere", "may block", "test_release.py"),
        "an allocation in a signal handler is not refused",
    ),
    _allocator(
        *("bounce-not-copied-back", "IODMACommand", "test_dma_command.py"),
        "what the device wrote into a bounce buffer stays there",
    ),
    _allocator(
        *("bounce-wrong-direction", "IODMACommand", "test_dma_command.py"),
        "before the device reads, the empty bounce buffer goes over the memory",
    ),
    _allocator(
        *("mask-ignored", "IODMACommand", "test_dma_command.py"),
        "memory above the device's address limit is given to it",
    ),
    _allocator(
        *("boundary-crossed", "IODMACommand", "test_dma_command.py"),
        "segments cross the boundary that the device cannot cross",
    ),
    _allocator(
        *("non-coherent-ignored", "cache maintenance", "test_cache_calls.py"),
        "a DMA command takes every device for a coherent one",
    ),
    _allocator(
        *("part-grants-all", "IOSubMemoryDescriptor", "test_dma_command.py"),
        "to prepare a part lets the device reach all that it is a part of",
    ),
)


def _mapper(name: str, promise: str, description: str) -> Fault:
    return Fault(
        f"mapper-{name}",
        Place.GUEST,
        Status.FAILED,
        (promise,),
        description,
        options=_IOMMU,
        tests="test_mapper.py",
    )


_MAPPER = (
    _mapper(
        *("grants-both-ways", "mapper denial"),
        "the mapper lets the device read and write a buffer, whatever its direction",
    ),
    _mapper(
        *("rights-kept", "mapper denial"),
        "what the device may do with a buffer behind the mapper never changes",
    ),
    _mapper(
        *("stale-after-unmap", "mapper denial"),
        "a buffer stays mapped for the device after complete() and release()",
    ),
    _mapper(
        *("segments-unmerged", "kIOMemoryPhysicallyContiguous"),
        "behind the mapper each page of a buffer is a segment",
    ),
    _mapper(
        *("none-ignored", "kIOMemoryMapperNone"),
        "a buffer that is to go around the mapper gets bus addresses of the mapper's",
    ),
    _mapper(
        *("host-contiguous-ignored", "kIOMemoryHostPhysicallyContiguous"),
        "memory is contiguous to the device alone, where it is to be so in the host",
    ),
)


FAULTS = (
    Fault(
        "device-read-flip",
        Place.DEVICE,
        Status.FAILED,
        ("kIODirectionOut",),
        "the device flips one byte of what it reads from memory",
        tests="test_direction.py",
    ),
    Fault(
        "device-write-flip",
        Place.DEVICE,
        Status.FAILED,
        ("kIODirectionIn",),
        "the device flips one byte of what it writes to memory",
        tests="test_direction.py",
    ),
    Fault(
        "device-ignores-direction",
        Place.DEVICE,
        Status.FAILED,
        ("kIODirectionIn",),
        "the device ignores the direction bit and always reads memory",
        tests="test_direction.py",
    ),
    Fault(
        "device-false-success",
        Place.DEVICE,
        Status.FAILED,
        ("kIODirectionOut", "kIODirectionIn"),
        "the device reports success without moving data",
        tests="test_direction.py",
    ),
    Fault(
        "device-record-lost",
        Place.DEVICE,
        Status.FAILED,
        ("kIODirectionOut",),
        "the device keeps no record of every other DMA that reads memory",
        tests="test_direction.py",
    ),
    Fault(
        "device-reads-stale",
        Place.DEVICE,
        Status.FAILED,
        ("second opinion",),
        "the device reads what it wrote there itself, whoever wrote there since",
        tests="test_second_opinion.py",
    ),
    Fault(
        "device-capability-hidden",
        Place.DEVICE,
        Status.FAILED,
        ("capabilities",),
        "the device leaves Power Management out of its list of capabilities",
        words="not in the list: Power Management",
        tests="test_device.py",
        at_boot=True,
    ),
    Fault(
        "allocator-misaligned",
        Place.GUEST,
        Status.FAILED,
        ("alignment",),
        "the allocator returns an address off its alignment",
        tests="test_properties.py",
    ),
    Fault(
        "allocator-overlap",
        Place.GUEST,
        Status.FAILED,
        ("capacity",),
        "the allocator hands out two overlapping buffers",
        tests="test_properties.py",
    ),
    Fault(
        "msix-dropped",
        Place.DEVICE,
        Status.FAILED,
        ("MSI-X",),
        "the device does not send the MSI-X messages of one vector",
        tests="test_interrupts.py",
    ),
    Fault(
        "msix-doubled",
        Place.DEVICE,
        Status.FAILED,
        ("MSI-X",),
        "the device sends each MSI-X message of one vector twice",
        tests="test_interrupts.py",
    ),
    Fault(
        "msix-misdirected",
        Place.DEVICE,
        Status.FAILED,
        ("MSI-X",),
        "the device sends the MSI-X messages of one vector to the last one",
        tests="test_interrupts.py",
    ),
    Fault(
        "intx-dropped",
        Place.DEVICE,
        Status.FAILED,
        ("INTx",),
        "the device sets Interrupt Status and does not take the INTx line up",
        tests="test_interrupts.py",
    ),
    Fault(
        "intx-doubled",
        Place.DEVICE,
        Status.FAILED,
        ("INTx",),
        "the device takes the INTx line up once more after it was taken down",
        tests="test_interrupts.py",
    ),
    Fault(
        "intx-misdirected",
        Place.DEVICE,
        Status.FAILED,
        ("INTx",),
        "the device sends an MSI-X message in place of the INTx line",
        tests="test_interrupts.py",
    ),
    Fault(
        "intx-storm",
        Place.DEVICE,
        Status.FAILED,
        ("INTx",),
        "the device clears Interrupt Status while the guest's INTx line is still up",
        tests="test_interrupts.py",
    ),
    Fault(
        "constraints-ignored",
        Place.DEVICE,
        Status.FAILED,
        ("constraints",),
        "the device does DMA that its constraints forbid",
        tests="test_constraints.py",
    ),
    Fault(
        "mask-not-honoured",
        Place.DEVICE,
        Status.FAILED,
        ("constraints",),
        "the device does DMA beyond its address bits",
        tests="test_constraints.py",
    ),
    Fault(
        "address-wrapped",
        Place.DEVICE,
        Status.FAILED,
        ("constraints",),
        "the device cuts an address to its address bits in place of refusing it",
        tests="test_constraints.py",
    ),
    Fault(
        "boundary-crossed",
        Place.DEVICE,
        Status.FAILED,
        ("constraints",),
        "the device does DMA across the boundary that it must not cross",
        tests="test_constraints.py",
    ),
    Fault(
        "coherence-forgotten",
        Place.DEVICE,
        Status.FAILED,
        ("coherence",),
        "the device of a profile that is not coherent does DMA as a coherent one",
        tests="test_profile.py",
        options={"coherent": "no"},
    ),
    Fault(
        "non-coherent-snooped",
        Place.DEVICE,
        Status.FAILED,
        ("coherence",),
        "the device of a profile that is not coherent says so, and is snooped",
        tests="test_profile.py",
        options={"coherent": "no"},
    ),
    Fault(
        "held-outlives-bus-master",
        Place.DEVICE,
        Status.FAILED,
        ("DMA in flight",),
        "the device goes on with a DMA in flight when bus mastering is back",
        tests="test_held.py",
    ),
    Fault(
        "held-outlives-reset",
        Place.DEVICE,
        Status.FAILED,
        ("DMA in flight",),
        "the device goes on with a DMA in flight after a reset",
        tests="test_held.py",
    ),
    Fault(
        "ring-skips-last",
        Place.DEVICE,
        Status.FAILED,
        ("descriptor ring",),
        "the device leaves out the last segment of a transfer in several",
        tests="test_ring.py",
    ),
    Fault(
        "ring-double-fetch",
        Place.DEVICE,
        Status.FAILED,
        ("descriptor ring",),
        "the device reads a descriptor again after it was checked",
        tests="test_ring.py",
    ),
    Fault(
        "message-not-sent",
        Place.DEVICE,
        Status.FAILED,
        ("DMA by message",),
        "the device makes up the data for which it should ask QEMU",
        tests="test_by_message.py",
    ),
    Fault(
        "atc-uncovered",
        Place.DEVICE,
        Status.FAILED,
        ("ATS",),
        "the device uses a translation for addresses that it does not cover",
        tests="test_arm_registers.py",
    ),
    Fault(
        "trace-of-words",
        Place.DEVICE,
        Status.FAILED,
        ("transaction trace",),
        "the device traces an access of 8 bytes as two of 4",
        tests="test_arm_registers.py",
    ),
    Fault(
        "own-bar-reached",
        Place.DEVICE,
        Status.FAILED,
        ("own BAR",),
        "the device lets a DMA write its own registers",
        tests="test_hostile.py",
    ),
    Fault(
        "witness-ignores-pat",
        Place.DEVICE,
        Status.FAILED,
        ("kIOMapWriteThruCache",),
        "the witness takes the PAT bit of every page-table entry as 0",
        words="PAT 3 = UC",
        tests="test_cache_modes.py",
    ),
    Fault(
        "witness-misplaces-pat",
        Place.DEVICE,
        Status.FAILED,
        ("page size",),
        "the witness takes the PAT bit of a large page from where a small one has it",
        words="PAT 4 = WB",
        tests="test_witnessed.py",
    ),
    Fault(
        "witness-ignores-rights",
        Place.DEVICE,
        Status.FAILED,
        ("kIOMapWriteThruCache",),
        "the witness takes every page for one that users may write and execute",
        tests="test_witnessed.py",
    ),
    Fault(
        "witness-ignores-mtrrs",
        Place.DEVICE,
        Status.FAILED,
        ("MTRR",),
        "the witness takes all memory for write-back by the MTRRs",
        tests="test_witnessed.py",
    ),
    Fault(
        "protection-end-off-by-one",
        Place.DEVICE,
        Status.FAILED,
        ("protection unit",),
        "the protection unit opens one byte more than each grant says",
        tests="test_protection.py",
    ),
    Fault(
        "protection-direction-swapped",
        Place.DEVICE,
        Status.FAILED,
        ("kIODirectionOut denial", "kIODirectionIn denial"),
        "the protection unit opens each grant for the other direction",
        tests="test_direction.py",
    ),
    Fault(
        "protection-moves-prefix",
        Place.DEVICE,
        Status.FAILED,
        ("protection unit",),
        "the device moves the granted part of a DMA that is denied",
        tests="test_protection.py",
    ),
    Fault(
        "protection-record-lost",
        Place.DEVICE,
        Status.FAILED,
        ("protection unit",),
        "the protection unit keeps no record of every eighth denied DMA",
        tests="test_protection.py",
    ),
    Fault(
        "peer-write-lost",
        Place.DEVICE,
        Status.FAILED,
        ("peer memory",),
        "a write to a peer's buffer succeeds, and the peer has nothing of it",
        tests="test_peers.py",
    ),
    Fault(
        "iommu-wrong-permission",
        Place.GUEST,
        Status.FAILED,
        ("IOMMU denial",),
        "memory is mapped for reads and writes of the device, whatever was asked",
        options=_IOMMU,
        tests="test_iommu.py",
    ),
    Fault(
        "iommu-mask-ignored",
        Place.GUEST,
        Status.FAILED,
        ("IOMMU mask",),
        "memory is mapped at bus addresses that the device does not drive",
        options={**_IOMMU, "profile": "soc-30"},
        tests="test_iommu.py",
    ),
    Fault(
        "iommu-stale-translation",
        Place.DEVICE,
        Status.FAILED,
        ("IOMMU denial",),
        "the device goes on using a translation after its unmap",
        options=_IOMMU,
        tests="test_iommu.py",
    ),
    Fault(
        "iommu-record-lost",
        Place.GUEST,
        Status.FAILED,
        ("IOMMU denial",),
        "the guest's kernel does not print the IOMMU's faults",
        parameter="loglevel=1",
        options=_IOMMU,
        tests="test_iommu.py",
    ),
    Fault(
        "report-lost",
        Place.GUEST,
        Status.NO_VERDICT,
        (),
        "one test's report is lost on its way to the host",
        words="is missing",
        tests="test_device.py",
    ),
    Fault(
        "report-corrupted",
        Place.GUEST,
        Status.NO_VERDICT,
        (),
        "one bit of a test's report changes on its way to the host",
        words="the checksum",
        tests="test_device.py",
    ),
    Fault(
        "report-left-out",
        Place.GUEST,
        Status.NO_VERDICT,
        (),
        "the guest leaves out one report of a test",
        words="reports are missing",
        tests="test_device.py",
    ),
    Fault(
        "report-misattributed",
        Place.GUEST,
        Status.NO_VERDICT,
        (),
        "the guest sends a report under another test's name",
        words="the guest reports",
        tests="test_device.py",
    ),
    Fault(
        "test-never-ends",
        Place.GUEST,
        Status.NO_VERDICT,
        (),
        "a test of the guest never ends",
        words="no answer within its deadline of 20 s",
        deadlines={"test": 20.0},
        tests="test_device.py",
    ),
    Fault(
        "tests-overcounted",
        Place.GUEST,
        Status.NO_VERDICT,
        (),
        "the guest claims more tests than it ran",
        words="the guest says that it ran",
        tests="test_device.py",
    ),
    *_DRIVER,
    *CACHE,
    *_MAPPER,
    *_ALLOCATOR,
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
