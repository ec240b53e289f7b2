# SPDX-License-Identifier: Apache-2.0
"""The faults behind an IOMMU: of the mapper, and of the kernel's record."""

from __future__ import annotations

from dma_rehearsal.device.layout.faults.fault import BEHIND_IOMMU, Component, Fault

IOMMU = (
    Fault(
        "iommu-wrong-permission",
        Component.MAPPER,
        "memory is mapped for device reads and writes, whatever was asked",
        ("IOMMU denial",),
        tests=("test_iommu.py",),
        options=BEHIND_IOMMU,
    ),
    Fault(
        "iommu-mask-ignored",
        Component.MAPPER,
        "memory is mapped at bus addresses that the device cannot drive",
        ("IOMMU mask",),
        tests=("test_iommu.py",),
        options={**BEHIND_IOMMU, "profile": "soc-30"},
    ),
    Fault(
        "iommu-stale-translation",
        Component.EXERCISER,
        "the device goes on using a translation after its unmap",
        ("IOMMU denial",),
        tests=("test_iommu.py",),
        options=BEHIND_IOMMU,
    ),
    Fault(
        "iommu-record-lost",
        Component.KERNEL,
        "the guest's kernel does not print the IOMMU's faults",
        ("IOMMU denial",),
        tests=("test_iommu.py",),
        parameter="loglevel=1",
        options=BEHIND_IOMMU,
    ),
)

MAPPER = (
    Fault(
        "mapper-grants-both-ways",
        Component.MAPPER,
        "the mapper lets the device read and write a buffer, whatever its direction",
        ("mapper denial",),
        tests=("test_mapper.py",),
        options=BEHIND_IOMMU,
    ),
    Fault(
        "mapper-rights-kept",
        Component.MAPPER,
        "the device's rights to a buffer behind the mapper never change",
        ("mapper denial",),
        tests=("test_mapper.py",),
        options=BEHIND_IOMMU,
    ),
    Fault(
        "mapper-stale-after-unmap",
        Component.MAPPER,
        "a buffer stays mapped for the device after complete() and release()",
        ("mapper denial",),
        message="to be refused for UNMAPPED: 0 were",
        tests=("test_mapper.py",),
        options=BEHIND_IOMMU,
    ),
    Fault(
        "mapper-segments-unmerged",
        Component.MAPPER,
        "behind the mapper each page of a buffer is a segment",
        (
            "kIOMemoryPhysicallyContiguous",
            "mapper",
            "IOMMU contiguity",
            "IOMMU direction",
            "IOMMU limits",
            "IOMMU mapping",
            "IOMMU denial of reads",
        ),
        tests=("test_mapper.py", "test_iommu.py"),
        options=BEHIND_IOMMU,
    ),
    Fault(
        "mapper-none-ignored",
        Component.MAPPER,
        "a buffer with kIOMemoryMapperNone gets bus addresses from the mapper",
        ("kIOMemoryMapperNone",),
        tests=("test_mapper.py",),
        options=BEHIND_IOMMU,
    ),
    Fault(
        "mapper-host-contiguous-ignored",
        Component.MAPPER,
        "kIOMemoryHostPhysicallyContiguous memory is contiguous to the device alone",
        ("kIOMemoryHostPhysicallyContiguous",),
        tests=("test_mapper.py",),
        options=BEHIND_IOMMU,
    ),
    Fault(
        "mapper-unmapped-translated",
        Component.MAPPER,
        "a command with kUnmapped gets bus addresses from the mapper",
        ("kIOMemoryMapperNone",),
        tests=("test_mapper.py",),
        options=BEHIND_IOMMU,
    ),
)
