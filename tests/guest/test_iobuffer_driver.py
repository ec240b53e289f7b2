"""The ioctl numbers and structures in Python against the C header, by the C compiler."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from iobuffer import driver
from iobuffer.errors import IODeviceError, IOReturn
from iobuffer.options import CacheMode

HEADER = Path(__file__).parents[2] / "guest" / "driver"

PROGRAM = """
#include <stdio.h>
#include <stddef.h>
#include "dma_rehearsal_uapi.h"
#define SHOW(name) printf("%s %llu\\n", #name, (unsigned long long)(name))
int main(void)
{
    SHOW(DMA_REHEARSAL_INFO); SHOW(DMA_REHEARSAL_QUERY);
    SHOW(DMA_REHEARSAL_READ); SHOW(DMA_REHEARSAL_WRITE);
    SHOW(DMA_REHEARSAL_PCI_INFO); SHOW(DMA_REHEARSAL_EVENTFD); SHOW(DMA_REHEARSAL_BUS_MASTER);
    SHOW(DMA_REHEARSAL_SET_INTERRUPTS); SHOW(DMA_REHEARSAL_UNMASK);
    SHOW(DMA_REHEARSAL_INTERRUPTS_NONE); SHOW(DMA_REHEARSAL_INTERRUPTS_MSIX);
    SHOW(DMA_REHEARSAL_INTERRUPTS_INTX);
    SHOW(DMA_REHEARSAL_VERSION); SHOW(DMA_REHEARSAL_MODE_SHIFT);
    SHOW(DMA_REHEARSAL_MODE_UC); SHOW(DMA_REHEARSAL_MODE_WT);
    SHOW(DMA_REHEARSAL_MODE_WB); SHOW(DMA_REHEARSAL_MODE_WC);
    SHOW(offsetof(struct dma_rehearsal_query, root));
    SHOW(offsetof(struct dma_rehearsal_query, entry));
    SHOW(offsetof(struct dma_rehearsal_query, level));
    SHOW(offsetof(struct dma_rehearsal_copy, user));
    SHOW(offsetof(struct dma_rehearsal_copy, mode));
    SHOW(offsetof(struct dma_rehearsal_pci_info, interrupts));
    return 0;
}
"""


def test_header_and_python_agree(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: install gcc and libc6-dev")
    source = tmp_path / "abi.c"
    source.write_text(PROGRAM)
    binary = tmp_path / "abi"
    subprocess.run(
        [compiler, "-Wall", "-Werror", f"-I{HEADER}", str(source), "-o", str(binary)], check=True
    )
    output = subprocess.run([binary], check=True, capture_output=True, text=True).stdout
    shown = {name: int(value) for name, value in (x.rsplit(" ", 1) for x in output.splitlines())}
    assert shown == {
        "DMA_REHEARSAL_INFO": driver.INFO,
        "DMA_REHEARSAL_QUERY": driver.QUERY,
        "DMA_REHEARSAL_READ": driver.READ,
        "DMA_REHEARSAL_WRITE": driver.WRITE,
        "DMA_REHEARSAL_PCI_INFO": driver.PCI_INFO,
        "DMA_REHEARSAL_EVENTFD": driver.EVENTFD,
        "DMA_REHEARSAL_BUS_MASTER": driver.BUS_MASTER,
        "DMA_REHEARSAL_SET_INTERRUPTS": driver.SET_INTERRUPTS,
        "DMA_REHEARSAL_UNMASK": driver.UNMASK,
        "DMA_REHEARSAL_INTERRUPTS_NONE": driver.Interrupts.NONE,
        "DMA_REHEARSAL_INTERRUPTS_MSIX": driver.Interrupts.MSIX,
        "DMA_REHEARSAL_INTERRUPTS_INTX": driver.Interrupts.INTX,
        "DMA_REHEARSAL_VERSION": driver.VERSION,
        "DMA_REHEARSAL_MODE_SHIFT": driver.MODE_SHIFT,
        "DMA_REHEARSAL_MODE_UC": CacheMode.INHIBIT,
        "DMA_REHEARSAL_MODE_WT": CacheMode.WRITE_THRU,
        "DMA_REHEARSAL_MODE_WB": CacheMode.COPYBACK,
        "DMA_REHEARSAL_MODE_WC": CacheMode.WRITE_COMBINE,
        "offsetof(struct dma_rehearsal_query, root)": 8,
        "offsetof(struct dma_rehearsal_query, entry)": 16,
        "offsetof(struct dma_rehearsal_query, level)": 24,
        "offsetof(struct dma_rehearsal_copy, user)": 16,
        "offsetof(struct dma_rehearsal_copy, mode)": 24,
        "offsetof(struct dma_rehearsal_pci_info, interrupts)": 12,
    }


def test_without_the_module(tmp_path: Path) -> None:
    with pytest.raises(IODeviceError, match="is the module dma_rehearsal loaded") as caught:
        driver.Driver(tmp_path / "dma-rehearsal")
    assert caught.value.code == IOReturn.kIOReturnNotAttached
