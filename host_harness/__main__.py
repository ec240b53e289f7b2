# SPDX-License-Identifier: Apache-2.0
"""Runs the harness's command line: ``python -m dma_rehearsal.host_harness``."""

from dma_rehearsal.host_harness.cli.command_line import console_main, main

__all__ = ["console_main", "main"]

if __name__ == "__main__":
    console_main()
