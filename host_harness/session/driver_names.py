# SPDX-License-Identifier: Apache-2.0
"""Names for the callers in a driver's reports, by the modules of the run and the guest's kernel."""

from __future__ import annotations

from dma_rehearsal.host_harness.debug_info.driver_callers import DebugModule, DriverCallers
from dma_rehearsal.host_harness.debug_info.kernel_symbols import KernelSymbols
from dma_rehearsal.host_harness.environment.user_modules import UserModules
from dma_rehearsal.host_harness.machine.vm import Vm

# The functions of the kernel itself: those of modules have a name in brackets.
_ARGV = ("grep", "-E", "^[0-9a-f]+ [tTwW] [^[]*$", "/proc/kallsyms")
_TIMEOUT_S = 30.0


def of(modules: UserModules, vm: Vm) -> DriverCallers:
    """Return the names of callers in ``vm``, which has loaded some of ``modules``.

    A caller in the kernel itself makes it ask the guest for its symbols, once, and between tests.
    NoVerdict when the VM is lost meanwhile.
    """
    known = {
        name: DebugModule(file.data, file.root, file.folder)
        for name, file in modules.debug_files().items()
    }

    def symbols() -> KernelSymbols:
        said = vm.execute(_ARGV, timeout_s=_TIMEOUT_S)
        return KernelSymbols(str(said.get("stdout") or ""))

    return DriverCallers(known, symbols)
