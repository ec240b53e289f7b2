"""Linux VFIO: a function behind an IOMMU, driven from user space, and memory mapped for it.

::

    with Container() as container, VfioFunction.open(container, address) as function:
        with container.map(va, length, read=True, write=False) as iova:
            ...  # the device may read [iova.address, iova.address + length), and nothing else
"""

from .container import Container, Iova
from .function import VfioFunction
from .iova import IovaAllocator

__all__ = ["Container", "Iova", "IovaAllocator", "VfioFunction"]
