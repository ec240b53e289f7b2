# SPDX-License-Identifier: Apache-2.0
"""The named faults of a run behind an IOMMU; see `faults`."""

from __future__ import annotations

from collections.abc import Mapping

from dma_rehearsal.device.layout.faults.fault import Fault, Place
from dma_rehearsal.host_harness.process.errors import Status

# What a run is given to have one.
IOMMU = {"iommu": "intel"}


def _iommu(
    name: str,
    place: Place,
    description: str,
    promise: str,
    *,
    options: Mapping[str, str] = IOMMU,
    parameter: str = "",
) -> Fault:
    return Fault(
        f"iommu-{name}",
        place,
        Status.FAILED,
        (promise,),
        description,
        tests="test_iommu.py",
        options=options,
        parameter=parameter,
    )


BEHIND_IOMMU = (
    _iommu(
        "wrong-permission",
        Place.GUEST,
        "memory is mapped for reads and writes of the device, whatever was asked",
        "IOMMU denial",
    ),
    _iommu(
        "mask-ignored",
        Place.GUEST,
        "memory is mapped at bus addresses that the device does not drive",
        "IOMMU mask",
        options={**IOMMU, "profile": "soc-30"},
    ),
    _iommu(
        "stale-translation",
        Place.DEVICE,
        "the device goes on using a translation after its unmap",
        "IOMMU denial",
    ),
    _iommu(
        "record-lost",
        Place.GUEST,
        "the guest's kernel does not print the IOMMU's faults",
        "IOMMU denial",
        parameter="loglevel=1",
    ),
)
