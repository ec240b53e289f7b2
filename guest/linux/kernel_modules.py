# SPDX-License-Identifier: Apache-2.0
"""Kernel modules: their parameters on the kernel command line, loading and unloading.

It imports little, because the guest's first process does the loading before all else.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

MODULES: Final = Path("/lib/modules/rehearsal")
SYS_FINIT_MODULE: Final = 313  # x86-64
SYS_DELETE_MODULE: Final = 176  # x86-64

_libc: Final = ctypes.CDLL(None, use_errno=True)


def parameters(module: str, command_line: str) -> str:
    """Return the parameters of ``module`` on a kernel command line, as modprobe reads them.

    There they have the form ``module.name=value``.
    """
    prefix = f"{module}."
    return " ".join(
        word.removeprefix(prefix) for word in command_line.split() if word.startswith(prefix)
    )


def load(module: str, arguments: str) -> None:
    """Load one module of `MODULES`; OSError with the kernel's reason."""
    load_file(MODULES / f"{module}.ko", arguments)


def load_file(path: Path, arguments: str) -> None:
    """Load a module from its file; OSError with the kernel's reason."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.syscall(SYS_FINIT_MODULE, descriptor, arguments.encode(), 0) != 0:
            number = ctypes.get_errno()
            what = f"loading {path.stem} {arguments}".rstrip()
            raise OSError(number, f"{what}: {os.strerror(number)}")
    finally:
        os.close(descriptor)


def unload(module: str) -> None:
    """Unload a module by its name in /sys/module; OSError (EWOULDBLOCK) while it is in use."""
    if _libc.syscall(SYS_DELETE_MODULE, module.encode(), os.O_NONBLOCK) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unloading {module}: {os.strerror(number)}")
