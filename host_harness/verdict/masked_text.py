# SPDX-License-Identifier: Apache-2.0
"""The texts of a row without what differs from run to run: two runs are compared by the rest.

Sizes in bytes stay. Addresses, checksums, counts, times, the seed and what it draws do not. Runs
of the same tests have the same rest.
"""

from __future__ import annotations

import re

# Of what was asked: addresses, the agent's process, and what the seed draws.
_OF_ASKED = re.compile(
    r"0x[0-9a-f]+|\b(?<=task )\d+|\b(?<=seed )\d+|\b(?<=number )\d+(?= killed)"
    r"|\b(?<=killed in round )\d+|\b\d+(?= descriptors that change| adjacent grants)"
)
# Addresses, dumps of bytes, checksums, and numbers that are not sizes in bytes. A plural goes with
# its number: memory that is scattered in another way takes another number of DMAs.
_OF_SEEN = re.compile(
    r"0x[0-9a-f]+|\b[0-9a-f]{2}(?: [0-9a-f]{2}){3,}\b|\b[0-9a-f]{8}\b"
    r"|(?<![\w.])\d+(?:\.\d+)?(?![\w.]*\s?(?:of \d+ )?bytes)\b(?: DMAs?\b| segments?\b(?:\(s\))?)?"
)
# Of a kernel driver's mappings: the kernel decides by time and by its memory how many there are.
_MAPPINGS = re.compile(r"\d+ mappings?, \d+ bytes")
_OF_MAPPINGS = re.compile(r"\d+ of \d+ bytes in \d+ DMAs?|; \d+ mappings? never touched")
_SEVERAL = re.compile(r"'#'(?:, '#')+")  # a list that is as long as memory is scattered


def asked(text: str) -> str:
    """Return what was asked without what differs from run to run."""
    return _OF_ASKED.sub("#", _MAPPINGS.sub("#", text))


def seen(text: str) -> str:
    """Return what was attested, or a reason, without what differs from run to run."""
    return _SEVERAL.sub("'#'", _OF_SEEN.sub("#", text))


def seen_of(text: str, asked_for: str) -> str:
    """Return what was attested of a row that asked for ``asked_for``, as `seen` does.

    Of a kernel driver's mappings the ways in which the device used them stay, and no counts.
    """
    return seen(_OF_MAPPINGS.sub("", text) if _MAPPINGS.fullmatch(asked_for) else text)
