# SPDX-License-Identifier: Apache-2.0
"""The kernel's messages from a moment on, and the oopses and warnings among them.

Linux's Documentation/ABI/testing/dev-kmsg has the records of /dev/kmsg.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

KERNEL_LOG: Final = Path("/dev/kmsg")
_RECORD_SIZE: Final = 8192  # bytes; a record is shorter
_MESSAGES_MAX: Final = 4000  # kept; the newest
_TROUBLE_MAX: Final = 40  # lines of one oops
_CUT_HERE: Final = "[ cut here ]"
_END: Final = "---[ end trace"
# The first line of an oops, a warning or a failed check, in the kernel's own words.
_TROUBLE: Final = re.compile(
    r"^(WARNING: |BUG: |BUG \S+ \(|Oops\b|kernel BUG at |general protection fault|Internal error: "
    r"|INFO: task .* blocked|INFO: rcu.*stall|watchdog: BUG|UBSAN: |KASAN: |DMA-API: "
    r"|refcount_t: |list_(add|del) corruption|usercopy: |stack segment|divide error"
    r"|invalid opcode|double fault|Bad page )"
)


class KernelMessages:
    """The kernel's messages since this was made. A context manager."""

    def __init__(self, path: Path | None = None) -> None:
        self._fd = os.open(path or KERNEL_LOG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._fd, 0, os.SEEK_END)
        self._messages: list[str] = []

    def __enter__(self) -> KernelMessages:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the log."""
        os.close(self._fd)

    def read(self) -> list[str]:
        """Return all messages so far, oldest first, at most the newest 4,000."""
        while True:
            try:
                record = os.read(self._fd, _RECORD_SIZE)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.EPIPE:  # the kernel has overwritten some of them
                    raise
                continue
            if not record:
                break
            text = record.decode(errors="replace").partition(";")[2]
            # Lines behind the first that begin with a blank are the device's properties.
            self._messages.append(text.splitlines()[0] if text else "")
        del self._messages[:-_MESSAGES_MAX]
        return list(self._messages)


def trouble(messages: Sequence[str]) -> list[str]:
    """Return the lines of the first oops or warning among messages; none where all is well."""
    for first, line in enumerate(messages):
        if not _TROUBLE.match(line):
            continue
        found: list[str] = []
        for each in messages[first:]:
            if _CUT_HERE in each or len(found) >= _TROUBLE_MAX:
                break
            found.append(each)
            if each.startswith(_END):
                break
        return found
    return []
