# SPDX-License-Identifier: Apache-2.0
"""The environment's cache: folders named by the digest of what went into them.

An entry is built in a staging folder under its kind's lock, sealed by a manifest that lists its
files (and by the manifest's own digest), and then renamed. A run that is killed half-way leaves no
entry that looks complete, and two runs that want the same entry build it once. Each use checks the
entry against its manifest and holds a shared lock on it until the process ends, so an entry that a
running VM uses is never removed.

`entry` is for what a run needs: it waits for another process's build, and an entry that cannot be
made ends the run. `offer` and `use` are for what makes a run faster, such as a saved machine state:
they never wait, and a cache that is busy, full or read-only is left as it is.

The kernel releases the locks of a process that ends. On a file system without locks builds are
still complete (the rename decides), but nothing is removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import pwd
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dma_rehearsal.host_harness.environment import disk_space, file_locks, manifest
from dma_rehearsal.host_harness.process import janitor
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure

_STAGING_PREFIX = ".staging-"
_ENTRY_NAME = re.compile(r"[0-9a-f]{16}")
# The bytes that stay free beside an entry that is only offered: room for the largest thing that a
# run must build (an unpacked Debian, 0.7 GB), for its artefacts, and for other programs.
_OFFER_SPARE = 1_000_000_000
_TAKE_WAIT_S = 10.0

Note = Callable[[str], None]
Build = Callable[[Path], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of entry: its folder's name, its name for people, and how its entries are treated.

    ``needed`` is the peak space of a build in bytes; ``hashed`` is for the entries that are booted,
    whose contents are checked at each use; ``keep`` is the number of entries that stay when a new
    one is made, besides those of the last ``young_s`` seconds and those in use.
    """

    name: str
    needed: int
    hashed: bool
    keep: int
    words: str = ""
    young_s: float = 3600.0

    def __str__(self) -> str:
        return self.words or self.name


QEMU = Kind("qemu", 400_000_000, hashed=False, keep=2, words="private QEMU")
TREE = Kind("tree", 250_000_000, hashed=False, keep=2, words="unpacked Debian")
KERNEL = Kind("kernel", 450_000_000, hashed=False, keep=6, words="kernel and its compiler")
DRIVER = Kind("driver", 60_000_000, hashed=True, keep=16, words="guest's driver")
IMAGE = Kind("image", 250_000_000, hashed=True, keep=4, words="guest image")
# An edit makes one of 5 MB, and a hundred of them may come in an hour.
PAYLOAD = Kind("payload", 5_000_000, hashed=True, keep=16, words="archive of guest/", young_s=0)
# A driver under test, made by each edit of it.
MODULE = Kind("module", 60_000_000, hashed=True, keep=16, words="driver under test", young_s=0)
PACKAGES = Kind("packages", 600_000_000, hashed=True, keep=4, words="archive of PACKAGES")
PYTEST = Kind("pytest", 20_000_000, hashed=False, keep=2, words="pytest for the guest's Python")
# Saved machine states (machine.saved_state), which check their own contents. Every edit of a test
# can make one of 200 to 240 MB, so their age protects none.
BOOTED = Kind("booted", 300_000_000, hashed=False, keep=4, words="booted guest", young_s=0)
COLLECTED = Kind(
    "collected", 300_000_000, hashed=False, keep=4, words="guest with collected tests", young_s=0
)
NEEDED = (QEMU, TREE, KERNEL, DRIVER, IMAGE, PYTEST, PAYLOAD)  # by each run; the others save time
KINDS = (*NEEDED, PACKAGES, MODULE, BOOTED, COLLECTED)
NOTES_FOLDER = "no-kvm"  # failed probes that accelerator.py remembers
PROBED_FOLDER = "qemu-works"  # probes that did not fail, which qemu.py remembers

_held: dict[Path, int] = {}


def cache_root() -> Path:
    """Return the cache's folder: DMA_REHEARSAL_CACHE, else dma-rehearsal in XDG_CACHE_HOME."""
    if chosen := os.environ.get("DMA_REHEARSAL_CACHE"):
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "dma-rehearsal"


def digest_of(inputs: object) -> str:
    """Return a digest of ``inputs`` (any JSON value): 16 hexadecimal digits."""
    text = json.dumps(inputs, sort_keys=True).encode()
    return hashlib.sha256(text).hexdigest()[:16]


def digest_of_files(root: Path, pattern: str = "**/*") -> str:
    """Return a digest of the names and contents of the files below ``root``."""
    total = hashlib.sha256()
    for path in sorted(root.glob(pattern)):
        if path.is_file() and "__pycache__" not in path.parts:
            total.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode())
            total.update(path.read_bytes())
    return total.hexdigest()[:16]


def say(text: str) -> None:
    """Tell the user by a line on the standard error output."""
    print(f"note: {text}", file=sys.stderr, flush=True)


def folder_of(kind: Kind, inputs: dict[str, Any]) -> Path:
    """Return where the entry that ``inputs`` describe is, or would be."""
    return cache_root() / kind.name / digest_of(inputs)


def entry(kind: Kind, inputs: dict[str, Any], build: Build, note: Note = say) -> Path:
    """Return the folder of the entry that ``inputs`` describe; build it if it is not there.

    ``build`` fills the folder it is given and returns what else belongs in the manifest, such as
    the versions that were resolved. An entry that is not as it was made is built again, which
    ``note`` is told in one line. The entry stays in use until this process ends, or ``release``.
    EnvironmentFailure when the disk is full or the cache cannot be written.
    """
    final = folder_of(kind, inputs)
    folder = final.parent
    if _take(final, inputs) is None:
        return final
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with file_locks.exclusive(folder, f"making the {kind}", note) as alone:
            wrong = _take(final, inputs)
            if wrong is None:
                return final
            if alone:
                remove_leftovers(folder)
            if wrong:
                note(f"the cached {kind} is broken ({wrong}); making it again")
            if final.exists():
                _remove_entry(final)
            disk_space.require(str(kind), folder, kind.needed)
            _build(kind, inputs, build, final)
            wrong = _take(final, inputs)
            if wrong is not None:
                raise EnvironmentFailure(
                    f"the {kind} in {final} is broken right after it was made: {wrong}",
                    "look at the disk, or set DMA_REHEARSAL_CACHE to another folder",
                )
            if alone:
                _prune(folder, kind, final)
    except (OSError, subprocess.SubprocessError) as error:
        raise _explained(error, kind, folder) from error
    return final


def offer(kind: Kind, inputs: dict[str, Any], build: Build) -> Path | None:
    """Return the folder of the entry that ``inputs`` describe; build it where that costs nobody.

    ``build`` is as for `entry`. None, and nothing is left of it, when another process builds an
    entry of this kind, when the file system has no locks, when less than 1 GB would stay free, and
    when the cache cannot be written, or its disk becomes full within the build. An error of
    ``build`` that is not an OSError is passed on. The entry stays in use as that of `entry` does.
    """
    final = folder_of(kind, inputs)
    folder = final.parent
    try:
        if _take(final, inputs, wait_s=0) is None:
            return final
        folder.mkdir(parents=True, exist_ok=True)
        with file_locks.exclusive_at_once(folder) as alone:
            if not alone:
                return None
            if _take(final, inputs, wait_s=0) is None:
                return final
            remove_leftovers(folder)
            if final.exists() and not remove_unused(final):
                return None
            _prune(folder, kind, final)
            if disk_space.free(folder) < kind.needed + _OFFER_SPARE:
                return None
            _build(kind, inputs, build, final)
            return final if _take(final, inputs, wait_s=0) is None else None
    except OSError:
        return None


def why_not_offered(kind: Kind) -> str:
    """Return why `offer` would make no new entry here; empty where it would. Makes nothing."""
    root = cache_root()
    nearest = next(path for path in (root, *root.parents) if path.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"{nearest} cannot be written"
    needed, free = kind.needed + _OFFER_SPARE, disk_space.free(root)
    if free < needed:
        return f"{disk_space.amount(free)} are free, and {disk_space.amount(needed)} must be"
    return ""


def use(kind: Kind, inputs: dict[str, Any]) -> Path | None:
    """Return the folder of the entry that ``inputs`` describe, None where no sound one is there.

    Nothing is built, and nothing is waited for. The entry stays in use as that of `entry` does.
    """
    final = folder_of(kind, inputs)
    with contextlib.suppress(OSError):
        return final if _take(final, inputs, wait_s=0) is None else None
    return None


def recorded(kind: Kind, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """Return the manifest of the entry that ``inputs`` describe, None for a missing entry.

    The entry is in use from then on, but nothing of it besides the manifest is looked at.
    """
    final = folder_of(kind, inputs)
    try:
        return manifest.read(final) if _take(final, inputs, look=False) is None else None
    except (OSError, ValueError):
        return None


def discard(path: Path) -> bool:
    """Remove an entry that turned out not to work; False when another process uses it."""
    if path in _held:
        os.close(_held.pop(path))
    with contextlib.suppress(OSError):
        return remove_unused(path)
    return False


def release() -> None:
    """Release every entry that this process uses."""
    while _held:
        os.close(_held.popitem()[1])


def usage(path: Path) -> int:
    """Return the bytes that a folder takes on the disk."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in (".", *names):
            with contextlib.suppress(OSError):
                total += os.lstat(f"{folder}/{name}").st_blocks * 512
    return total


def is_entry(path: Path) -> bool:
    """Return whether a path is named as an entry is."""
    return bool(_ENTRY_NAME.fullmatch(path.name))


def entries(kind: Kind) -> list[Path]:
    """Return the folders of a kind's entries, the one that was used last first."""
    found = []
    with contextlib.suppress(OSError):
        for path in (cache_root() / kind.name).iterdir():
            if is_entry(path):
                found.append((_last_use(path), path))
    return [path for _, path in sorted(found, reverse=True)]


def _take(
    final: Path, inputs: dict[str, Any], *, look: bool = True, wait_s: float = _TAKE_WAIT_S
) -> str | None:
    """Hold a sound entry and return None; else return what is wrong, "" for a missing entry.

    ``look`` compares all of it with its manifest. ``wait_s`` is for a process that removes it.
    """
    try:
        descriptor = os.open(final / "manifest.json", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return "no manifest.json" if final.is_dir() else ""
    try:
        if not file_locks.lock(descriptor, fcntl.LOCK_SH, wait_s):
            return "locked by a process that removes it"
        if not file_locks.is_still(descriptor, final / "manifest.json"):
            return ""
        try:
            _manifest_for(final, inputs)
        except (OSError, ValueError) as error:
            return f"manifest.json: {manifest.brief(error)}"
        if look and (wrong := manifest.fault_of(final)):
            return wrong
        with contextlib.suppress(OSError):  # a cache that may only be read
            os.utime(final / "manifest.json")
        # The lock stays with a descriptor of its own until this process ends.
        if final not in _held:
            _held[final] = os.dup(descriptor)
        return None
    finally:
        os.close(descriptor)


def _manifest_for(final: Path, inputs: dict[str, Any]) -> dict[str, Any]:
    loaded = manifest.read(final)
    if digest_of(loaded["inputs"]) != digest_of(inputs):
        raise ValueError("made from other inputs")
    return loaded


def _build(kind: Kind, inputs: dict[str, Any], build: Build, final: Path) -> None:
    # Known to the janitor before it is there, so that not even SIGKILL leaves it.
    staging = final.parent / f"{_STAGING_PREFIX}{secrets.token_hex(8)}"
    with janitor.guard_path(staging):
        staging.mkdir(mode=0o755)
        try:
            resolved = build(staging)
            manifest.write(staging, {"inputs": inputs, **resolved}, hashed=kind.hashed)
            try:
                staging.rename(final)
            except OSError as error:
                # Without locks another run may have been faster; its entry is as good.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        finally:
            janitor.remove_tree(staging)


def _last_use(path: Path) -> float:
    try:
        return (path / "manifest.json").stat().st_mtime
    except OSError:
        return 0.0


def remove_leftovers(folder: Path) -> None:
    """Remove what dead builds have left in a kind's ``folder``; hold its lock."""
    for leftover in folder.glob(f"{_STAGING_PREFIX}*"):
        with contextlib.suppress(OSError):  # still being written: the next build tries
            janitor.remove_tree(leftover)


def _remove_entry(path: Path) -> None:
    """Remove an entry atomically: other processes see all of it or nothing."""
    aside = path.parent / f"{_STAGING_PREFIX}{secrets.token_hex(8)}"
    with janitor.guard_path(aside):
        path.rename(aside)
        janitor.remove_tree(aside)


def remove_unused(path: Path) -> bool:
    """Remove an entry that is not in use; return whether it was removed."""
    if path in _held:
        return False
    try:
        descriptor = os.open(path / "manifest.json", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        _remove_entry(path)  # no entry without a manifest is ever used
        return True
    try:
        if not file_locks.lock(descriptor, fcntl.LOCK_EX, 0):
            return False
        _remove_entry(path)
        return True
    finally:
        os.close(descriptor)


def _prune(folder: Path, kind: Kind, newest: Path) -> None:
    """Remove old entries, but not the newest few, nor recent or used ones."""
    old = [path for path in entries(kind) if path.parent == folder and path != newest]
    for path in old[kind.keep - 1 :]:
        if time.time() - _last_use(path) > kind.young_s:
            with contextlib.suppress(OSError):
                remove_unused(path)


def owner(path: Path) -> str:
    """Return the name of the user who owns a path, or the folder that it would be in."""
    while not path.exists() and path.parent != path:
        path = path.parent
    number = path.stat().st_uid
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _explained(
    error: OSError | subprocess.SubprocessError, kind: Kind, folder: Path
) -> EnvironmentFailure:
    if disk_space.is_the_reason(error):
        return disk_space.failure(str(kind), folder, kind.needed, str(error))
    moves = "DMA_REHEARSAL_CACHE=/another/folder moves the cache"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return EnvironmentFailure(
            f"the {kind} has to be made, and the cache {cache_root()} (of {owner(folder)}) "
            f"cannot be written: {error}",
            moves,
        )
    if isinstance(error, subprocess.TimeoutExpired):
        return EnvironmentFailure(
            f"making the {kind} failed: {error.cmd[0]} took longer than {error.timeout:.0f} s",
            "run again when the machine, or its network, has less to do",
        )
    return EnvironmentFailure(
        f"making the {kind} in {cache_root()} failed: {error}",
        f"it must be a writable folder; {moves}",
    )
