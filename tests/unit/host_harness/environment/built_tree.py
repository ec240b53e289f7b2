# SPDX-License-Identifier: Apache-2.0
"""A tree as make leaves it, with a configuration that has all that a run needs."""

from __future__ import annotations

import os
from pathlib import Path

from dma_rehearsal.host_harness.environment.kernel_config import NEEDS

RELEASE = "6.12.3-mine"
TITLE = "# Linux/x86 6.12.3 Kernel Configuration"


def config(*left_out: str, **more: str) -> str:
    """Return the text of a ``.config``; the options ``left_out`` are not set."""
    values = {need.names[0]: "y" for need in NEEDS if not need.off} | {"X86_64": "y"} | more
    lines = [f"CONFIG_{name}={value}" for name, value in values.items() if name not in left_out]
    lines += [f"# CONFIG_{name} is not set" for name in left_out]
    return "\n".join(["#", TITLE, "#", *lines, ""])


def make(folder: Path, *left_out: str, **more: str) -> Path:
    """Make the tree in ``folder``, with two modules and one that was not built; return it."""
    contents = {
        "Makefile": "",
        "include/config/kernel.release": f"{RELEASE}\n",
        "include/config/auto.conf": "",
        "arch/x86/boot/bzImage": "",
        "Module.symvers": "0x12345678\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n",
        "scripts/mod/modpost": "",
        "modules.builtin": "kernel/drivers/virtio/virtio_pci.ko\n",
        "modules.order": "drivers/uio/uio.o\nkernel/arch/x86/kernel/msr.ko\ndrivers/x/gone.o\n",
        "drivers/uio/uio.ko": "",
        "arch/x86/kernel/msr.ko": "",
        ".config": config(*left_out, **more),
    }
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    os.utime(folder / ".config", (1, 1))
    return folder
