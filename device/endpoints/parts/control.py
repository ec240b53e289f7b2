"""BAR0 of the exerciser, as Arm lays it out: what its registers hold, and what software may do."""

from __future__ import annotations

from device import layout
from device.endpoints.registers import Access, Field, Fields, Flag, Register
from device.layout import AddressType, DmaCtl, Reg


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
    Register(Reg.MSICTL, Access.SELF_CLEARING),
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
