# SPDX-License-Identifier: Apache-2.0
"""The NVMe example with MSI in place of MSI-X, so that QEMU can unplug it."""

from __future__ import annotations

from examples.nvme.controller import Nvme


class HotNvme(Nvme):
    """Its commands complete by MSI."""

    vectors = 0
    messages = 1
