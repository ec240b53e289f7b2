# SPDX-License-Identifier: Apache-2.0
"""The arguments of ``dma-rehearsal diff``, apart from what only that command needs."""

from __future__ import annotations

import argparse
from pathlib import Path

PARTS = ("environment", "limits", "tests", "promises")  # of a comparison


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    for name in ("one", "other"):
        parser.add_argument(
            name,
            metavar="RUN",
            help="a run's folder, its name below --runs (latest), or an attestations.json",
        )
    parser.add_argument("--json", action="store_true", help="print JSON, and no status")
    parser.add_argument(
        "--all", action="store_true", help="show addresses, times and seeds that differ, too"
    )
    parser.add_argument(
        "--only",
        metavar="PART[,PART]",
        help=f"compare these parts alone: {', '.join(PARTS)}",
    )
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("build", "runs"),
        metavar="DIR",
        help="the folder of runs (default: build/runs)",
    )
