# SPDX-License-Identifier: Apache-2.0
"""The ioctl numbers and structures in Python against the C header, by the C compiler."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from dma_rehearsal.guest.iobuffer.base.errors import IODeviceError, IOReturn, IOReturnError
from dma_rehearsal.guest.iobuffer.base.options import CacheMode
from dma_rehearsal.guest.iobuffer.os import driver, uapi

HEADER = Path(__file__).parents[5] / "guest" / "driver"

PROGRAM = """
#include <stdio.h>
#include <stddef.h>
#include "dma_rehearsal_uapi.h"
#define SHOW(name) printf("%s %llu\\n", #name, (unsigned long long)(name))
int main(void)
{
    SHOW(DMA_REHEARSAL_INFO); SHOW(DMA_REHEARSAL_QUERY);
    SHOW(DMA_REHEARSAL_READ); SHOW(DMA_REHEARSAL_WRITE);
    SHOW(DMA_REHEARSAL_PIN); SHOW(DMA_REHEARSAL_KMAP);
    SHOW(DMA_REHEARSAL_PIN_INFO); SHOW(DMA_REHEARSAL_PIN_PAGES); SHOW(DMA_REHEARSAL_PIN_KMAP);
    SHOW(DMA_REHEARSAL_KMAP_INFO); SHOW(DMA_REHEARSAL_PIN_WRITE); SHOW(DMA_REHEARSAL_PIN_MAX);
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
    SHOW(offsetof(struct dma_rehearsal_pin, length));
    SHOW(offsetof(struct dma_rehearsal_pin, flags));
    SHOW(offsetof(struct dma_rehearsal_pin_info, length));
    SHOW(offsetof(struct dma_rehearsal_pin_info, offset));
    SHOW(offsetof(struct dma_rehearsal_pin_info, flags));
    SHOW(offsetof(struct dma_rehearsal_pin_pages, user));
    SHOW(offsetof(struct dma_rehearsal_pin_pages, count));
    SHOW(offsetof(struct dma_rehearsal_kmap, length));
    SHOW(offsetof(struct dma_rehearsal_kmap, mode));
    SHOW(offsetof(struct dma_rehearsal_kmap_info, root));
    SHOW(offsetof(struct dma_rehearsal_kmap_info, length));
    SHOW(offsetof(struct dma_rehearsal_kmap_info, levels));
    SHOW(offsetof(struct dma_rehearsal_kmap_info, mode));
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
        "DMA_REHEARSAL_INFO": uapi.INFO,
        "DMA_REHEARSAL_QUERY": uapi.QUERY,
        "DMA_REHEARSAL_READ": uapi.READ,
        "DMA_REHEARSAL_WRITE": uapi.WRITE,
        "DMA_REHEARSAL_PIN": uapi.PIN,
        "DMA_REHEARSAL_KMAP": uapi.KMAP,
        "DMA_REHEARSAL_PIN_INFO": uapi.PIN_INFO,
        "DMA_REHEARSAL_PIN_PAGES": uapi.PIN_PAGES,
        "DMA_REHEARSAL_PIN_KMAP": uapi.PIN_KMAP,
        "DMA_REHEARSAL_KMAP_INFO": uapi.KMAP_INFO,
        "DMA_REHEARSAL_PIN_WRITE": uapi.PIN_WRITE,
        "DMA_REHEARSAL_PIN_MAX": uapi.PIN_MAX,
        "DMA_REHEARSAL_PCI_INFO": uapi.PCI_INFO,
        "DMA_REHEARSAL_EVENTFD": uapi.EVENTFD,
        "DMA_REHEARSAL_BUS_MASTER": uapi.BUS_MASTER,
        "DMA_REHEARSAL_SET_INTERRUPTS": uapi.SET_INTERRUPTS,
        "DMA_REHEARSAL_UNMASK": uapi.UNMASK,
        "DMA_REHEARSAL_INTERRUPTS_NONE": driver.Interrupts.NONE,
        "DMA_REHEARSAL_INTERRUPTS_MSIX": driver.Interrupts.MSIX,
        "DMA_REHEARSAL_INTERRUPTS_INTX": driver.Interrupts.INTX,
        "DMA_REHEARSAL_VERSION": uapi.VERSION,
        "DMA_REHEARSAL_MODE_SHIFT": uapi.MODE_SHIFT,
        "DMA_REHEARSAL_MODE_UC": CacheMode.INHIBIT,
        "DMA_REHEARSAL_MODE_WT": CacheMode.WRITE_THRU,
        "DMA_REHEARSAL_MODE_WB": CacheMode.COPYBACK,
        "DMA_REHEARSAL_MODE_WC": CacheMode.WRITE_COMBINE,
        "offsetof(struct dma_rehearsal_query, root)": 8,
        "offsetof(struct dma_rehearsal_query, entry)": 16,
        "offsetof(struct dma_rehearsal_query, level)": 24,
        "offsetof(struct dma_rehearsal_copy, user)": 16,
        "offsetof(struct dma_rehearsal_copy, mode)": 24,
        "offsetof(struct dma_rehearsal_pin, length)": 8,
        "offsetof(struct dma_rehearsal_pin, flags)": 16,
        "offsetof(struct dma_rehearsal_pin_info, length)": 8,
        "offsetof(struct dma_rehearsal_pin_info, offset)": 16,
        "offsetof(struct dma_rehearsal_pin_info, flags)": 20,
        "offsetof(struct dma_rehearsal_pin_pages, user)": 8,
        "offsetof(struct dma_rehearsal_pin_pages, count)": 16,
        "offsetof(struct dma_rehearsal_kmap, length)": 8,
        "offsetof(struct dma_rehearsal_kmap, mode)": 16,
        "offsetof(struct dma_rehearsal_kmap_info, root)": 8,
        "offsetof(struct dma_rehearsal_kmap_info, length)": 16,
        "offsetof(struct dma_rehearsal_kmap_info, levels)": 24,
        "offsetof(struct dma_rehearsal_kmap_info, mode)": 28,
        "offsetof(struct dma_rehearsal_pci_info, interrupts)": 12,
    }


def test_without_the_module(tmp_path: Path) -> None:
    with pytest.raises(IODeviceError, match="is the module dma_rehearsal loaded") as caught:
        driver.Driver(tmp_path / "dma-rehearsal")
    assert caught.value.code == IOReturn.kIOReturnNotAttached


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.ERANGE, IOReturn.kIOReturnBadArgument, "not inside one carve-out"),
        (errno.EINVAL, IOReturn.kIOReturnBadArgument, "no such cache mode or place"),
        (errno.EBUSY, IOReturn.kIOReturnBusy, "mapped with another cache mode"),
        (errno.EOPNOTSUPP, IOReturn.kIOReturnUnsupported, "no entry for the cache mode"),
        (errno.ENOMEM, IOReturn.kIOReturnNoMemory, "Cannot allocate memory"),
        (errno.EIO, IOReturn.kIOReturnVMError, "Input/output error"),
    ],
)
def test_each_refusal_of_a_mapping_has_words_of_its_own(
    number: int, code: IOReturn, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only another mode beside it is a conflict."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(driver, "Mapping", refuse)
    monkeypatch.setattr(driver, "open_device", lambda _: os.open(os.devnull, os.O_RDWR))
    monkeypatch.setattr(driver.Driver, "_get", lambda *_: (uapi.VERSION, 1))
    with driver.Driver() as opened, pytest.raises(IOReturnError, match=words) as caught:
        opened.map(0x1000, 4096, CacheMode.COPYBACK)
    assert caught.value.code == code
    assert ("another" in str(caught.value)) is (number == errno.EBUSY)
