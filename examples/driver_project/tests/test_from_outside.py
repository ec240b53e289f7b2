# SPDX-License-Identifier: Apache-2.0
"""Host tests that use the VM: run something in the guest, look at what the device did."""

from __future__ import annotations

import zlib

FILL = """
from dma_rehearsal.guest.drivers.exerciser import Exerciser
from dma_rehearsal.guest.iobuffer import IOBufferMemoryDescriptor, current_task, kIODirectionOut

with Exerciser() as device, IOBufferMemoryDescriptor.inTaskWithOptions(
    current_task(), kIODirectionOut, 4096
) as memory:
    memory.view()[:] = bytes(range(256)) * 16
    device.bus_master = True
    print(hex(device.dma(memory.getPhysicalAddress(), 4096, write_memory=False).address))
"""


def test_the_device_is_there(guest):
    assert "13b5:ed01" in guest.run(["lspci", "-n"]).stdout


def test_the_devices_record_agrees_with_the_guest(guest, device):
    address = int(guest.python(FILL), 0)
    last = device.events("dma")[-1]
    seen = int(last["address"], 16), last["length"], last["direction"]
    assert seen == (address, 4096, "READ_MEMORY")


def test_a_byte_that_the_device_gets_wrong_is_noticed(guest, device):
    right = zlib.crc32(bytes(range(256)) * 16)
    with device.fault("device-read-flip"):
        guest.python(FILL)
    assert device.events("dma")[-1]["crc32"] != right
    guest.python(FILL)
    assert device.events("dma")[-1]["crc32"] == right


def test_the_vm_answers_its_monitor(vm):
    assert vm.monitor.command("query-status")["status"] == "running"
