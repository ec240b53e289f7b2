# SPDX-License-Identifier: Apache-2.0
"""Runs the harness's command line: ``python -m dma_rehearsal.host_harness``."""

import gc

gc.disable()  # modules leave nothing to collect, and to look for it takes a tenth of their imports

from dma_rehearsal.host_harness.cli.command_line import console_main, main  # noqa: E402

gc.freeze()
gc.enable()

__all__ = ["console_main", "main"]

if __name__ == "__main__":
    console_main()
