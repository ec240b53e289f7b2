"""The named faults of a run behind an IOMMU; see `faults`."""

from __future__ import annotations

from typing import Any

from .errors import Status
from .fault import Fault, Place

# What a run is given to have one.
IOMMU = {"iommu": "intel"}


def _iommu(name: str, place: Place, description: str, promise: str, **others: Any) -> Fault:
    return Fault(
        f"iommu-{name}",
        place,
        Status.FAILED,
        (promise,),
        description,
        **{"options": IOMMU, **others},
    )


BEHIND_IOMMU = (
    _iommu(
        "wrong-permission",
        Place.GUEST,
        "memory is mapped for reads and writes of the device, whatever was asked",
        "IOMMU denial",
        tests="test_iommu.py",
    ),
    _iommu(
        "mask-ignored",
        Place.GUEST,
        "memory is mapped at bus addresses that the device does not drive",
        "IOMMU mask",
        tests="test_iommu.py",
        options={**IOMMU, "profile": "soc-30"},
    ),
    _iommu(
        "stale-translation",
        Place.DEVICE,
        "the device goes on using a translation after its unmap",
        "IOMMU denial",
        tests="test_iommu.py",
    ),
    _iommu(
        "record-lost",
        Place.GUEST,
        "the guest's kernel does not print the IOMMU's faults",
        "IOMMU denial",
        tests="test_iommu.py",
        parameter="loglevel=1",
    ),
)
