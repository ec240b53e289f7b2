# SPDX-License-Identifier: Apache-2.0
"""The device of the guest's test of threads, without a VM."""

from __future__ import annotations

from dma_rehearsal.device.testing import FakeHost
from tests.vm.threaded_endpoint import Mirror, Reg


def test_message_is_mirrored() -> None:
    with FakeHost(Mirror()) as host:
        host.memory[:8] = b"message1"
        host.write(0, Reg.ADDRESS, host.base, 8)
        host.write(0, Reg.DOORBELL, 1)
        while not host.read(0, Reg.DONE):
            host.run()
            host.advance(0.01)
        assert host.memory[8:16] == b"1egassem"
        assert host.interrupts == [("MSIX", 0)]
