# SPDX-License-Identifier: Apache-2.0
"""The C header of the platform's mailbox, made from ``device/layout/``.

python -m tests.mailbox_header > guest/dma_ops/dma_rehearsal_mailbox.h
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum, IntFlag
from pathlib import Path

from dma_rehearsal.device import layout
from dma_rehearsal.device.layout import (
    GrantDirection,
    Plat,
    PlatformFeature,
    mailbox,
)
from dma_rehearsal.device.layout.driver_reports import DriverReportKind
from dma_rehearsal.device.layout.mailbox import (
    DmaCall,
    MailCommand,
    MailRecord,
    MailStatus,
)

HEADER = Path(__file__).parents[1] / "guest" / "dma_ops" / "dma_rehearsal_mailbox.h"

REGISTERS = (
    *(Plat.MAGIC, Plat.VERSION, Plat.FEATURES),
    *(Plat.MAIL_ADDRESS_LO, Plat.MAIL_ADDRESS_HI, Plat.MAIL_COUNT, Plat.MAIL_GO),
    *(Plat.MAIL_CAPACITY, Plat.BOARD_SNOOP),
)
CONSTANTS = {
    "DR_PLAT_VENDOR": (layout.PLATFORM_VENDOR_ID, 4),
    "DR_PLAT_DEVICE": (layout.PLATFORM_DEVICE_ID, 4),
    "DR_PLAT_MAGIC_VALUE": (layout.PLATFORM_MAGIC, 8),
    "DR_MAIL_CAPACITY": (mailbox.MAIL_CAPACITY, 0),
    "DR_MAIL_BUDGET": (mailbox.MAIL_BUDGET, 0),
    "DR_MAIL_TRACK_MAX": (mailbox.MAIL_TRACK_MAX, 0),
    "DR_MAIL_TAG_BASE": (mailbox.MAIL_TAG_BASE, 8),
    "DR_MAIL_OWNER_BASE": (mailbox.MAIL_OWNER_BASE, 16),
    "DR_MAIL_POSITION_SHIFT": (mailbox.MAIL_POSITION_SHIFT, 0),
    "DR_MAIL_GIVEN_UP": (mailbox.MAIL_GIVEN_UP, 0),
    "DR_MAIL_FORGOTTEN": (mailbox.MAIL_FORGOTTEN, 0),
    "DR_MAIL_CALLERS": (mailbox.MAIL_CALLERS, 0),
    "DR_MAIL_VALUES": (mailbox.MAIL_VALUES, 0),
    "DR_FUNCTION_NAMED": (layout.FUNCTION_NAMED, 4),
}
ENUMS: dict[str, type[IntEnum] | type[IntFlag]] = {
    "DR_FEATURE": PlatformFeature,
    "DR_DIRECTION": GrantDirection,
    "DR_MAIL": MailCommand,
    "DR_STATUS": MailStatus,
    "DR_CALL": DmaCall,
    "DR_REPORT": DriverReportKind,
}
_ABOUT = {
    "DR_FEATURE": "PlatformFeature",
    "DR_DIRECTION": "GrantDirection, from the memory's side",
    "DR_MAIL": "MailCommand, with the fields that each uses",
    "DR_STATUS": "MailStatus",
    "DR_CALL": "DmaCall",
    "DR_REPORT": "DriverReportKind",
}
# Fields of the record: C's type, name, and how many.
FIELDS = (
    *(("__le32", name, 1) for name in ("command", "direction", "tag", "call")),
    *(("__le64", name, 1) for name in ("address", "length", "offset", "virtual", "root")),
    *(("__le32", name, 1) for name in ("levels", "kind")),
    ("__le64", "callers", mailbox.MAIL_CALLERS),
    ("__le64", "values", mailbox.MAIL_VALUES),
    ("__le64", "reserved", 2),
)


def defined() -> dict[str, int]:
    """Return every number that the header defines, by its C name."""
    found = {f"DR_PLAT_{each.name}": int(each) for each in REGISTERS}
    found |= {name: value for name, (value, _) in CONSTANTS.items()}
    for prefix, kind in ENUMS.items():
        found |= {f"{prefix}_{each.name}": int(each) for each in kind}
    return found


def text() -> str:
    """Return the header."""
    lines = [
        "/* SPDX-License-Identifier: GPL-2.0-only */",
        "/*",
        " * The platform's mailbox. Made from device/layout/mailbox.py, which explains it, by",
        " * python -m tests.mailbox_header; a test compares. Do not edit.",
        " */",
        "#ifndef DMA_REHEARSAL_MAILBOX_H",
        "#define DMA_REHEARSAL_MAILBOX_H",
        "",
        "#include <linux/types.h>",
        "",
        "/* Registers in the platform's BAR0 */",
        *_defines((f"DR_PLAT_{each.name}", f"{int(each):#05x}") for each in REGISTERS),
        "",
        *_defines((name, _number(*value)) for name, value in CONSTANTS.items()),
    ]
    for prefix, kind in ENUMS.items():
        names = [(f"{prefix}_{each.name}", f"{int(each):#x}") for each in kind]
        lines += ["", f"/* {_ABOUT[prefix]} */", *_defines(names)]
    lines += [
        "",
        f"/* One command, {MailRecord.SIZE} bytes. What a command does not use is 0. */",
        "struct dr_mail_record {",
        *(f"\t{kind} {name}{f'[{count}]' if count > 1 else ''};" for kind, name, count in FIELDS),
        "};",
        "",
        f'_Static_assert(sizeof(struct dr_mail_record) == {MailRecord.SIZE}, "dr_mail_record");',
        "",
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def _defines(pairs: Iterable[tuple[str, str]]) -> list[str]:
    found = list(pairs)
    width = max(len(name) for name, _ in found) + 1
    return [f"#define {name:<{width}}{value}" for name, value in found]


def _number(value: int, digits: int) -> str:
    """Return a number as C has it, in so many hexadecimal digits (0: decimal)."""
    if not digits:
        return str(value)
    return f"0x{value:0{digits}x}{'ULL' if digits > 8 else 'U' if value >> 31 else ''}"


if __name__ == "__main__":
    print(text(), end="")
