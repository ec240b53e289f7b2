# SPDX-License-Identifier: Apache-2.0
"""Code as in a kernel module, compiled by this machine's compiler, with labels behind calls."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

HEADER = """
long dma_map_page_attrs(void *address);
static inline __attribute__((always_inline)) long dma_map_single(void *address)
{
	long bus = dma_map_page_attrs(address);
	__asm__ volatile("after_map:" ::: "memory");
	return bus;
}
"""
RING = """\
static inline __attribute__((always_inline)) void ring_tell(void)
{
	extern void doorbell(void);
	doorbell();
	__asm__ volatile("after_tell:" ::: "memory");
}
"""
DRIVER = """\
#include "../../kernel/include/linux/dma-mapping.h"
#include "../common/ring.h"

static __attribute__((always_inline)) inline long my_map(void *buffer)
{
	return dma_map_single(buffer);
}

__attribute__((noinline)) long my_xmit(void *buffer)
{
	long bus = my_map(buffer);
	ring_tell();
	return bus + 1;
}

__attribute__((section(".init.text"))) int my_init(void)
{
	int found = dma_map_page_attrs(0) != 0;
	__asm__ volatile("after_init:" ::: "memory");
	return found;
}

__attribute__((noreturn)) void stop(void);
void my_stop(void)
{
	stop();
}
"""
FILES = {
    "kernel/include/linux/dma-mapping.h": HEADER,
    "project/common/ring.h": RING,
    "project/drv/my.c": DRIVER,
}


def module(folder: Path, *flags: str) -> bytes:
    """Return the driver, compiled in ``folder``/project/drv with debug information.

    ``flags`` are more words for the compiler.
    """
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    source, out = folder / "project/drv/my.c", folder / "my.ko"
    argv = ["gcc", "-g", "-O2", *flags, "-c", str(source), "-o", str(out)]
    subprocess.run(argv, check=True)
    return out.read_bytes()


def label(data: bytes, name: str) -> tuple[str, int]:
    """Return the section and the offset of a label, or of the end of a function."""
    elf = ELFFile(io.BytesIO(data))
    table = elf.get_section_by_name(".symtab")
    assert isinstance(table, SymbolTableSection)
    (symbol,) = table.get_symbol_by_name(name) or []
    return elf.get_section(symbol["st_shndx"]).name, symbol["st_value"] + symbol["st_size"]
