# SPDX-License-Identifier: Apache-2.0
"""``make bench``: measure, side by side, what the goals speak of.

python -m tests.bench [--list] [--guest] [NAME ...]
"""

from __future__ import annotations

import argparse
import logging
import sys

from tests.bench import (  # noqa: F401  # each registers its benchmarks
    allocation,
    c_server,
    cache_model,
    dma,
    driver,
    guest,
    mailbox,
    messages,
    nvme,
    start,
    watch,
)
from tests.bench.registry import BENCHMARKS, table

_BOOT_VMS = (driver.NAME, guest.NAME, nvme.NAME, start.NAME, watch.NAME)


def main(argv: list[str]) -> int:
    """Print one table for each benchmark. Return 0, whatever the figures: machines differ."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="run just these")
    parser.add_argument("--list", action="store_true", help="say what there is, and end")
    parser.add_argument("--guest", action="store_true", help="run those that boot VMs, too")
    options = parser.parse_args(argv)
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(
            f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}"
        )
    logging.disable(logging.CRITICAL)
    for name, (title, run) in BENCHMARKS.items():
        if options.list:
            print(f"{name:12} {title}")
            continue
        chosen = name in options.names if options.names else name not in _BOOT_VMS or options.guest
        if chosen:
            print(f"{name}: {title}")
            print(table(list(run())) + "\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
