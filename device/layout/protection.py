# SPDX-License-Identifier: Apache-2.0
"""The platform's protection unit: commands, status and limits."""

from __future__ import annotations

from enum import IntEnum, IntFlag

GRANT_CAPACITY = 65536  # grants in force at once
FAULT_CAPACITY = 256


class ProtectionCommand(IntEnum):
    """PROTECTION_CTL: what to do, with which of the GRANT_* registers."""

    GRANT = 1  # ADDRESS, LENGTH, DIRECTION and OWNER; gives ID
    WITHDRAW = 2  # ID
    WITHDRAW_OWNER = 3  # all grants of OWNER; gives WITHDRAWN
    ENABLE = 4
    DISABLE = 5  # everything is let through; the grants stay
    NEXT_OWNER = 6  # the least owner of a grant that is not below OWNER; gives OWNER


class ProtectionStatus(IntEnum):
    """PROTECTION_STATUS: how the last command ended. Only OK has changed anything."""

    OK = 0
    BAD_ARGUMENT = 1  # no bytes, bytes above 2**64, or no direction that there is
    FULL = 2  # GRANT_CAPACITY grants are in force
    NO_SUCH_GRANT = 3
    NO_SUCH_OWNER = 4
    UNKNOWN_COMMAND = 5
    NEVER_RUN = 6


class GrantDirection(IntFlag):
    """GRANT_DIRECTION: IOKit's values, which name directions from the memory's side."""

    IN = 1 << 0  # the device may write memory
    OUT = 1 << 1  # the device may read memory
