# SPDX-License-Identifier: Apache-2.0
"""SR-IOV (PCI Express Base 5.0, chapter 9), which a vfio-user server cannot have."""

from __future__ import annotations

from dma_rehearsal.device.pci.config import Capability, ExtendedCapability

SRIOV_ID = 0x0010
_REFUSAL = (
    "{owner}: SR-IOV is not possible here. A vfio-user connection carries one function, and QEMU "
    "hides the SR-IOV capability of a vfio-user function from the guest, so software can enable no "
    "virtual function. Declare a MultiFunction device whose further functions are what the virtual "
    "functions would be; software finds them at once, without sriov_numvfs"
)


class SingleRootIoVirtualization(ExtendedCapability):
    """The capability that is refused. ValueError says why, and what to declare."""

    id = SRIOV_ID

    def __init__(self, **_declared: object) -> None:
        raise ValueError(_REFUSAL.format(owner="SingleRootIoVirtualization"))


def check(owner: str, capability: Capability) -> None:
    """Raise ValueError for an SR-IOV capability of an author's own."""
    if isinstance(capability, ExtendedCapability) and capability.id == SRIOV_ID:
        raise ValueError(_REFUSAL.format(owner=owner))
