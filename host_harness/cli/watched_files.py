# SPDX-License-Identifier: Apache-2.0
"""Files that are looked at again and again, and the changes that an editor has finished.

This polls: one look at 450 files takes 1.5 ms, and it works on network file systems and in
containers, where inotify does not see every change. A library would also bring a thread, and a
process with threads cannot fork safely (process/forked.py).
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path

# What Python, version control and editors write beside a file; hidden files are among them.
_IGNORED = re.compile(
    "|".join(
        map(
            translate,
            (
                *(".*", "__pycache__", "*.py[co]", "*~", "#*#", "*.sw?", "*.tmp"),
                *("*___jb_tmp___", "*___jb_old___", "4913"),
            ),
        )
    )
)
_LOOK_S = 0.1
_LOOK_AGAIN_S = 0.05  # while a change settles
_SHARE = 20  # a look may take a twentieth of the time
# Nothing changes for so long: then an editor, or git, has done its work.
_QUIET_S = 0.05
_QUIET_LONG_S = 0.4  # where more is to be expected: a file is gone, or empty, or many changed
_MANY = 8
_SETTLE_MAX_S = 5.0


@dataclass(frozen=True, slots=True)
class Stamp:
    """A file's identity at a look. An editor's rename gives it another ``inode``."""

    modified_ns: int
    size: int
    inode: int


Snapshot = Mapping[Path, Stamp]


def is_ignored(name: str) -> bool:
    """Return whether a file or folder of this name is an editor's, Python's, or hidden."""
    return _IGNORED.fullmatch(name) is not None


def snapshot(places: Iterable[Path], left_out: Collection[Path] = ()) -> Snapshot:
    """Look at these files, and at all files below these folders; links are followed.

    A file that vanishes meanwhile, or cannot be read, is not in the snapshot. ``left_out`` are
    absolute paths of folders. A place itself is looked at whatever its name is.
    """
    found: dict[Path, Stamp] = {}
    entered: set[tuple[int, int]] = set()
    waiting = [str(place) for place in places]
    passed_over = {str(path) for path in left_out}
    while waiting:
        path = waiting.pop()
        with contextlib.suppress(OSError):
            status = os.stat(path)  # noqa: PTH116 - Path takes five times as long
            if not stat.S_ISDIR(status.st_mode):
                found[Path(path)] = Stamp(status.st_mtime_ns, status.st_size, status.st_ino)
                continue
            folder = status.st_dev, status.st_ino  # links may lead back
            if folder not in entered and path not in passed_over:
                entered.add(folder)
                waiting += [
                    os.path.join(path, name)  # noqa: PTH118
                    for name in os.listdir(path)  # noqa: PTH208
                    if not is_ignored(name)
                ]
    return found


def differing(one: Snapshot, other: Snapshot) -> frozenset[Path]:
    """Return the files that two snapshots show differently."""
    return frozenset(path for path in {*one, *other} if one.get(path) != other.get(path))


class WatchedFiles:
    """Reports changes of files, each once and when it has settled.

    ``look`` returns a snapshot. Call `changes` again after `pause_s` seconds.
    """

    def __init__(
        self, look: Callable[[], Snapshot], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look = look
        self._clock = clock
        self._known = look()
        self._last = self._known
        self._since = self._changed_at = clock()
        self._cost_s = 0.0

    def __len__(self) -> int:
        return len(self._last)

    @property
    def pause_s(self) -> float:
        """The seconds to wait between two looks: fewer while a change settles."""
        usual = _LOOK_S if self._last == self._known else _LOOK_AGAIN_S
        return max(usual, self._cost_s * _SHARE)

    @property
    def changed_at(self) -> float:
        """The moment, by the clock, at which the newest change began to be seen."""
        return self._changed_at

    def changes(self) -> frozenset[Path]:
        """Look; return the files that have changed since the last report. Empty: none, so far."""
        start = self._clock()
        now = self._look()
        self._cost_s = self._clock() - start
        if now != self._last:
            if self._last == self._known:
                self._changed_at = start
            self._last, self._since = now, start
        changed = differing(self._known, now)
        if not changed or not self._is_settled(changed, start):
            return frozenset()
        self._known = now
        return changed

    def _is_settled(self, changed: frozenset[Path], now: float) -> bool:
        unfinished = any(
            self._last.get(path) is None or not self._last[path].size for path in changed
        )
        quiet = _QUIET_LONG_S if unfinished or len(changed) > _MANY else _QUIET_S
        return now - self._since >= quiet or now - self._changed_at >= _SETTLE_MAX_S
