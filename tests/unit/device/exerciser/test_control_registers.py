# SPDX-License-Identifier: Apache-2.0
"""A DMA as the registers ask for it: each register or bit that qualifies a request counts alone."""

from __future__ import annotations

import pytest

from dma_rehearsal.device import layout
from dma_rehearsal.device.endpoints.dma import PLAIN, Attributes
from dma_rehearsal.device.exerciser.control_registers import DmaControl, requested
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import AddressType, DmaAttribute, DmaCtl, Reg
from dma_rehearsal.device.trace import Trace

_TRANSLATED = AddressType.TRANSLATED << 10


@pytest.mark.parametrize(
    ("control", "rid", "attributes", "asked"),
    [
        (0, 0, PLAIN, 0),
        (0, 0x0105, PLAIN, 0),  # not valid
        (0, layout.RID_VALID | 0x0105, Attributes(requester_id=0x0105), 0),
        (DmaCtl.NO_SNOOP, 0, Attributes(no_snoop=True), 0),
        (DmaCtl.PASID, 0, Attributes(pasid=7), DmaAttribute.PASID),
        (DmaCtl.USE_ATC, 0, PLAIN, DmaAttribute.USE_ATC),
        (DmaCtl.PRIVILEGED, 0, PLAIN, DmaAttribute.PRIVILEGED),
        (DmaCtl.INSTRUCTION, 0, PLAIN, DmaAttribute.INSTRUCTION),
        (
            _TRANSLATED,
            0,
            Attributes(address_type=AddressType.TRANSLATED),
            AddressType.TRANSLATED << 8,
        ),
    ],
)
def test_each_qualifier_counts_alone(
    control: int, rid: int, attributes: Attributes, asked: int
) -> None:
    registers = Exerciser(Trace()).control
    registers[Reg.RID_CTL], registers[Reg.PASID_VAL] = rid, 7
    found = requested(registers, DmaControl(DmaCtl.TRIGGER | control), pasid_enabled=True)
    assert (found.attributes, int(found.asked)) == (attributes, asked)
