# SPDX-License-Identifier: Apache-2.0
"""The models, held against the golden texts of lspci that a guest printed."""

from __future__ import annotations

import struct

import pytest

from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.exerciser.capabilities import OptionalCapability
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.trace import Trace
from tests.unit.device.pci.lspci_text import OF_QEMU, golden_bytes, normal
from tests.unit.device.pci.variants import DeclaredCapabilities, EveryCapability, MessagesOnly


def differences(endpoint: Endpoint, variant: str = "exerciser") -> set[int]:
    """Return where the model holds other bytes than the guest was seen to read."""
    if variant == "every-capability":  # with AER, Linux has errors reported
        endpoint.region_write(7, 0x48, b"\x1f\x28")
    if endpoint.vectors:
        endpoint.region_write(7, 0x86, struct.pack("<H", 1 << 15))  # Linux has MSI-X enabled
    seen = endpoint.region_read(7, 0, 4096)
    return {
        offset
        for offset, value in golden_bytes(variant).items()
        if offset not in OF_QEMU and value != seen[offset]
    }


def test_golden_bytes_are_the_devices() -> None:
    """Without a VM: what the guest was seen to read is what the model still holds."""
    assert differences(Exerciser(Trace())) == set()
    assert differences(Exerciser(Trace(), vectors=8)) == {0x86}
    assert differences(Exerciser(Trace(), capabilities=())) >= {0x100, 0x108}


@pytest.mark.parametrize("left_out", OptionalCapability)
def test_each_optional_capability_is_in_its_golden_text(left_out: OptionalCapability) -> None:
    assert differences(EveryCapability(Trace()), "every-capability") == set()
    others = [each for each in OptionalCapability if each is not left_out]
    assert differences(Exerciser(Trace(), capabilities=others), "every-capability")


def test_messages_vendor_specific_and_dvsec_are_in_their_golden_text() -> None:
    assert differences(MessagesOnly(Trace()), "messages-only") == set()
    without = Exerciser(Trace(), capabilities=())
    assert differences(without, "messages-only") >= {0x8, 0x84, 0x100}


def test_declared_capabilities_are_in_their_golden_text() -> None:
    assert differences(DeclaredCapabilities(Trace()), "declared-capabilities") == set()
    assert differences(MessagesOnly(Trace()), "declared-capabilities") >= {0x3D, 0x64, 0x100}


def test_machine_is_masked_and_the_device_is_not() -> None:
    text = "00:03.0 ed00: 13b5:ed01\n\tRegion 0: Memory at febf1000 (32-bit)\n10: " + "01 " * 16
    other = "00:04.0 ed00: 13b5:ed01\n\tRegion 0: Memory at fe000000 (32-bit)\n10: " + "02 " * 16
    assert normal(text) == normal(other)
    assert normal(text) != normal(text.replace("ed01", "ed02"))
