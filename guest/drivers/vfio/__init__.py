# SPDX-License-Identifier: Apache-2.0
"""Linux VFIO: a function behind an IOMMU, driven from user space, and memory mapped for it.

::

    with Container() as container, VfioFunction.open(container, address) as function:
        with container.map(va, length, read=True, write=False) as iova:
            ...  # the device may read [iova.address, iova.address + length), and nothing else
"""

from dma_rehearsal.guest.drivers.vfio.container import Container, Iova
from dma_rehearsal.guest.drivers.vfio.function import VfioFunction
from dma_rehearsal.guest.drivers.vfio.iova import IovaAllocator

__all__ = ["Container", "Iova", "IovaAllocator", "VfioFunction"]
