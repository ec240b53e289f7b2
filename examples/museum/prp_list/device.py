# SPDX-License-Identifier: Apache-2.0
"""The device of the piece prp_list: the NVMe example, as a device of the museum."""

from dma_rehearsal.device.endpoints import Identity
from examples.nvme.controller import Nvme


class Device(Nvme):
    """1234:0dab, an NVMe controller."""

    identity = Identity(0x1234, 0x0DAB, 0x010802, 0x1234, 0x0DAB)
