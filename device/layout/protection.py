# SPDX-License-Identifier: Apache-2.0
"""The platform's protection unit: commands, status and limits."""

from __future__ import annotations

from enum import IntEnum, IntFlag

GRANT_CAPACITY = 65536  # grants in force at once
FAULT_CAPACITY = 256
# A function is named by its requester ID (PCI Express Base 5.0, 2.2.6.2): bus, device and function
# number in 16 bits. GRANT_FUNCTION and its like have FUNCTION_NAMED with it, or 0: no function is
# named.
FUNCTION_END = 1 << 16
FUNCTION_CAPACITY = 64  # functions that grants in force name: all that a process serves
FUNCTION_NAMED = 1 << 16


class ProtectionCommand(IntEnum):
    """PROTECTION_CTL: what to do, with which of the GRANT_* registers."""

    GRANT = 1  # ADDRESS, LENGTH, DIRECTION and OWNER; gives ID
    WITHDRAW = 2  # ID
    WITHDRAW_OWNER = 3  # all grants of OWNER; gives WITHDRAWN
    ENABLE = 4
    DISABLE = 5  # everything is let through; the grants stay
    NEXT_OWNER = 6  # the least owner of a grant that is not below OWNER; gives OWNER
    GRANT_TO_FUNCTION = 7  # as GRANT, for the function that FUNCTION names alone


class ProtectionStatus(IntEnum):
    """PROTECTION_STATUS: how the last command ended. Only OK has changed anything."""

    OK = 0
    BAD_ARGUMENT = 1  # no bytes, bytes above 2**64, no direction that there is, or no function
    FULL = 2  # GRANT_CAPACITY grants are in force, or FUNCTION_CAPACITY functions are named
    NO_SUCH_GRANT = 3
    NO_SUCH_OWNER = 4
    UNKNOWN_COMMAND = 5
    NEVER_RUN = 6


class GrantDirection(IntFlag):
    """GRANT_DIRECTION: IOKit's values, which name directions from the memory's side."""

    IN = 1 << 0  # the device may write memory
    OUT = 1 << 1  # the device may read memory


def function_word(requester_id: int | None) -> int:
    """Return the register of a function; 0 for None."""
    return 0 if requester_id is None else FUNCTION_NAMED | requester_id


def requester_id_of(word: int) -> int | None:
    """Return the requester ID in what `function_word` returns, None for 0. ValueError."""
    if word and word >> 16 != 1:
        raise ValueError(f"{word:#x} does not name a function")
    return word & 0xFFFF if word else None


def function_address(requester_id: int) -> str:
    """Return bus, device and function as lspci writes them: ``00:04.3``."""
    return f"{requester_id >> 8:02x}:{requester_id >> 3 & 0x1F:02x}.{requester_id & 7}"
