# SPDX-License-Identifier: Apache-2.0
"""Makes the picture of a memory map: `python docs/map_picture.py RUN [NUMBER]`.

It takes the first map of a failed test from the page of a run, as it is, with the page's colours
for light and dark.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from dma_rehearsal.host_harness.run_page import page

PICTURE = Path(__file__).parent / "pictures" / "memory-map.svg"


def draw(made: str, number: int) -> str:
    """Return the picture of the failure of that number in a page; SystemExit without one."""
    _, _, failure = made.partition(f'id="failure-{number}"')
    found = re.search(r"<svg .*?</svg>", failure, re.DOTALL)
    style = re.search(r"<style>(.*?)</style>", made, re.DOTALL)
    if found is None or style is None:
        sys.exit(f"the page has no map of failure {number}")
    colours, _, rules = style[1].partition("* { box-sizing")
    kept = re.findall(r"^svg [^}]*\}\n", rules, re.MULTILINE)
    sheet = f"<style>{colours}{''.join(kept)}</style>"
    head, _, rest = found[0].partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg">{sheet}{rest}\n'


def main(arguments: list[str]) -> None:
    """Draw the map of a run's failed test."""
    made = page.make(Path(arguments[0]))
    PICTURE.write_text(draw(made, int(arguments[1]) if len(arguments) > 1 else 1))


if __name__ == "__main__":
    main(sys.argv[1:])
