# SPDX-License-Identifier: Apache-2.0
"""BAR0 of the exerciser, as Arm lays it out: what its registers hold, and what software may do.

`requested` copies the DMA that they ask for.
"""

from __future__ import annotations

from dma_rehearsal.device import layout
from dma_rehearsal.device.endpoints.dma import Attributes
from dma_rehearsal.device.endpoints.registers import (
    Access,
    Field,
    Fields,
    Flag,
    Register,
    RegisterFile,
)
from dma_rehearsal.device.exerciser.transfer import Segment, Transfer
from dma_rehearsal.device.layout import AddressType, DmaAttribute, DmaCtl, DmaDirection, Reg


class MsiControl(Fields):
    """MSICTL."""

    vector = Field(layout.MSICTL_VECTOR)
    trigger = Flag(layout.MSICTL_TRIGGER, Access.SELF_CLEARING)


class DmaControl(Fields):
    """DMACTL."""

    trigger = Field(DmaCtl.TRIGGER_MASK, Access.SELF_CLEARING)
    write_memory = Flag(DmaCtl.WRITE_MEMORY)
    no_snoop = Flag(DmaCtl.NO_SNOOP)
    pasid = Flag(DmaCtl.PASID)
    privileged = Flag(DmaCtl.PRIVILEGED)
    instruction = Flag(DmaCtl.INSTRUCTION)
    use_atc = Flag(DmaCtl.USE_ATC)
    address_type = Field(DmaCtl.AT_MASK, type=AddressType)


class DmaState(Fields):
    """DMASTATUS."""

    code = Field(layout.DMASTATUS_CODE, Access.RO)
    clear = Flag(layout.DMASTATUS_CLEAR, Access.SELF_CLEARING)


CONTROL = (
    Register(Reg.MSICTL, MsiControl),
    Register(Reg.INTXCTL, Access.RW, mask=layout.INTXCTL_ASSERT),
    Register(Reg.DMACTL, DmaControl),
    Register(Reg.DMA_OFFSET, Access.RW),
    Register(Reg.DMA_BUS_ADDR_LO, Access.RW),
    Register(Reg.DMA_BUS_ADDR_HI, Access.RW),
    Register(Reg.DMA_LEN, Access.RW),
    Register(Reg.DMASTATUS, DmaState),
    Register(Reg.PASID_VAL, Access.RW, mask=layout.PASID_MASK),
    Register(Reg.RID_CTL, Access.RW, mask=layout.RID_VALID | layout.RID_MASK),
    # Vendor-defined messages cannot leave a vfio-user device: nothing answers.
    Register(Reg.VDM_CTL, Access.RW, mask=0x0000_0F0F),
)


# Bits of DMACTL that change a request's attributes; most requests have none of them.
_QUALIFIERS = sum(
    each.mask
    for name, each in DmaControl.fields().items()
    if name not in ("trigger", "write_memory")
)
# Every DMA reads these, and a member of an enum is looked up at ten times the cost of an int.
_ADDRESS_LO, _ADDRESS_HI = int(Reg.DMA_BUS_ADDR_LO), int(Reg.DMA_BUS_ADDR_HI)
_LENGTH, _OFFSET, _RID_CTL = int(Reg.DMA_LEN), int(Reg.DMA_OFFSET), int(Reg.RID_CTL)
_WRITE_MEMORY = int(DmaCtl.WRITE_MEMORY)
_DIRECTIONS = (DmaDirection.READ_MEMORY, DmaDirection.WRITE_MEMORY)


def requested(registers: RegisterFile, control: DmaControl, *, pasid_enabled: bool) -> Transfer:
    """Copy a DMA that the registers ask for, by what was written to DMACTL.

    Without the PASID capability enabled none is sent, nor the attributes that come with one.
    """
    values = registers.values
    address = values[_ADDRESS_LO] | values[_ADDRESS_HI] << 32
    segment = Segment(address, values[_LENGTH], values[_OFFSET])
    direction = _DIRECTIONS[control.value & _WRITE_MEMORY != 0]
    rid = values[_RID_CTL]
    if not (control.value & _QUALIFIERS or rid & layout.RID_VALID):
        return Transfer(direction, (segment,))
    asked = DmaAttribute(control.address_type << 8)
    for flag, attribute in (
        (control.pasid, DmaAttribute.PASID),
        (control.use_atc, DmaAttribute.USE_ATC),
        (control.privileged, DmaAttribute.PRIVILEGED),
        (control.instruction, DmaAttribute.INSTRUCTION),
    ):
        if flag:
            asked |= attribute
    with_pasid = control.pasid and pasid_enabled
    attributes = Attributes(
        no_snoop=control.no_snoop,
        address_type=control.address_type,
        pasid=registers[Reg.PASID_VAL] if with_pasid else None,
        privileged=with_pasid and control.privileged,
        execute=with_pasid and control.instruction,
        requester_id=rid & layout.RID_MASK if rid & layout.RID_VALID else None,
    )
    return Transfer(direction, (segment,), attributes, asked)
