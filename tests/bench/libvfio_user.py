# SPDX-License-Identifier: Apache-2.0
"""A server in C on libvfio-user, built from the sources that LIBVFIO_USER names.

It is the least that answers the exerciser's doorbell of MSI-X and its DMA registers: it copies the
bytes, and takes their CRC-32 when `CRC_ON` is written. It refuses nothing and records nothing.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from dma_rehearsal.device import layout
from dma_rehearsal.device.layout import DmaCtl, Reg

VARIABLE = "LIBVFIO_USER"
GET = (
    f"{VARIABLE} names no sources of libvfio-user; next: git clone "
    f"https://github.com/nutanix/libvfio-user, install a C compiler and the headers of json-c and "
    f"zlib (libjson-c-dev, zlib1g-dev), and add {VARIABLE}=<the clone's folder>"
)
CRC_ON = layout.CONTROL_SIZE - 4  # a register that the exerciser does not have
_JSON_C = "/usr/include/json-c"  # its headers are included without their folder
_TRANSPORT_BY_PIPE = "tran_pipe.c"  # for the library's own tests
_SOURCE = """
#include <err.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <zlib.h>
#include "libvfio-user.h"

static uint32_t registers[SIZE / 4];
static char buffer[BUFFER];
static volatile uint32_t crc;

static int move(vfu_ctx_t *context)
{
    char space[SG_SPACE];
    dma_sg_t *piece = (void *)space;
    struct iovec memory;
    int write = registers[DMACTL / 4] & WRITE_MEMORY;
    uint64_t address = registers[ADDRESS_LO / 4] | (uint64_t)registers[ADDRESS_HI / 4] << 32;
    size_t length = registers[LENGTH / 4];

    if (length > BUFFER || dma_sg_size() > sizeof(space))
        return -1;
    if (vfu_addr_to_sgl(context, (void *)address, length, piece, 1,
                        write ? PROT_WRITE : PROT_READ) != 1
        || vfu_sgl_get(context, piece, &memory, 1, 0) != 0)
        return -1;
    if (write)
        memcpy(memory.iov_base, buffer, length);
    else
        memcpy(buffer, memory.iov_base, length);
    if (registers[CRC_ON / 4])
        crc = crc32(0, (void *)buffer, length);
    vfu_sgl_put(context, piece, &memory, 1);
    return 0;
}

static ssize_t control(vfu_ctx_t *context, char *data, size_t count, loff_t offset, bool write)
{
    if (offset < 0 || offset + count > SIZE)
        return errno = EINVAL, -1;
    if (!write) {
        memcpy(data, (char *)registers + offset, count);
        return count;
    }
    memcpy((char *)registers + offset, data, count);
    if (offset == MSICTL && registers[MSICTL / 4] & MSI_TRIGGER)
        vfu_irq_trigger(context, registers[MSICTL / 4] & MSI_VECTOR);
    if (offset == DMACTL && registers[DMACTL / 4] & DMA_TRIGGER && move(context) != 0)
        return errno = EFAULT, -1;
    return count;
}

static void mapped(vfu_ctx_t *context, vfu_dma_info_t *info) { (void)context, (void)info; }

int main(int count, char **arguments)
{
    vfu_ctx_t *context = count == 2
        ? vfu_create_ctx(VFU_TRANS_SOCK, arguments[1], 0, NULL, VFU_DEV_TYPE_PCI) : NULL;

    memset(buffer, 1, sizeof(buffer));
    if (context == NULL
        || vfu_pci_init(context, VFU_PCI_TYPE_CONVENTIONAL, PCI_HEADER_TYPE_NORMAL, 0) != 0
        || vfu_setup_region(context, VFU_PCI_DEV_BAR0_REGION_IDX, SIZE, control,
                            VFU_REGION_FLAG_RW | VFU_REGION_FLAG_MEM, NULL, 0, -1, 0) != 0
        || vfu_setup_device_dma(context, LIBVFIO_USER_MAX_DMA_REGIONS, mapped, mapped) != 0
        || vfu_setup_device_nr_irqs(context, VFU_DEV_MSIX_IRQ, 16) != 0
        || vfu_realize_ctx(context) != 0)
        err(1, "a device on libvfio-user");
    if (write(1, "ready\\n", 6) != 6 || vfu_attach_ctx(context) != 0)
        err(1, "attach");
    while (vfu_run_ctx(context) >= 0)
        ;
    return 0;
}
"""


def sources() -> Path | None:
    """Return the folder that LIBVFIO_USER names, if there are sources of the library in it."""
    named = os.environ.get(VARIABLE)
    folder = Path(named) if named else None
    return folder if folder and (folder / "include" / "libvfio-user.h").is_file() else None


def build(library: Path, folder: Path, buffer_size: int) -> Path:
    """Compile library and server, optimised, into one program of ``folder``; return its path.

    RuntimeError, with the compiler's words, when that fails.
    """
    source, program = folder / "server.c", folder / "server"
    source.write_text(_SOURCE)
    constants = {
        "SIZE": layout.CONTROL_SIZE,
        "BUFFER": buffer_size,
        "SG_SPACE": 256,
        "CRC_ON": CRC_ON,
        "MSICTL": Reg.MSICTL,
        "MSI_TRIGGER": layout.MSICTL_TRIGGER,
        "MSI_VECTOR": layout.MSICTL_VECTOR,
        "DMACTL": Reg.DMACTL,
        "DMA_TRIGGER": DmaCtl.TRIGGER,
        "WRITE_MEMORY": DmaCtl.WRITE_MEMORY,
        "ADDRESS_LO": Reg.DMA_BUS_ADDR_LO,
        "ADDRESS_HI": Reg.DMA_BUS_ADDR_HI,
        "LENGTH": Reg.DMA_LEN,
    }
    parts = [each for each in (library / "lib").glob("*.c") if each.name != _TRANSPORT_BY_PIPE]
    command = [
        *(os.environ.get("CC", "cc"), "-O2", "-std=gnu99", "-D_GNU_SOURCE", "-w"),
        *(f"-D{name}={int(value)}" for name, value in constants.items()),
        *(f"-I{library / 'include'}", f"-I{library / 'lib'}", f"-I{_JSON_C}"),
        *("-include", "unistd.h", "-DHAVE_LINUX_KCMP_H"),
        *(str(source), *map(str, parts), "-o", str(program), "-ljson-c", "-lz"),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise RuntimeError(f"no C compiler: {error}; next: install one, or set CC") from error
    if done.returncode:
        raise RuntimeError(f"libvfio-user does not build:\n{done.stderr}")
    return program
