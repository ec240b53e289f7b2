"""What reaches the guest at each run: ``guest/`` as an initramfs of its own, with bytecode.

The kernel unpacks several archives that stand one after the other. Ours comes first and
uncompressed, the base image after it: a legacy lz4 archive has no end mark, so nothing may follow.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import IO, Any

from . import cache, children, debian, tools
from .janitor import remove_tree

SOURCE = Path(__file__).resolve().parent.parent
GUEST_FOLDER = "opt/dma-rehearsal/guest"
_TIMEOUT_S = 120


def compile_bytecode(tree: Path, folder: Path, name_in_guest: str) -> None:
    """Compile ``folder`` with the guest's own Python, run by its own loader.

    Unchecked hashes: the guest never compares times or sources. A file that does not compile
    stays a source, and whoever imports it in the guest gets the error, with file and line.
    """
    children.run(
        [
            *debian.loader_command(tree, "usr/bin/python3.11"),
            *("-I", "-m", "compileall", "-q", "-j", "0"),
            *("--invalidation-mode", "unchecked-hash"),
            *("-s", str(folder), "-p", name_in_guest, str(folder)),
        ],
        timeout_s=_TIMEOUT_S,
        environment={"PYTHONHOME": str(tree / "usr")},
    )


def pack_cpio(root: Path, target: Path) -> None:
    """Write the folder ``root`` as a newc archive, all owned by root, in a stable order."""
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    with target.open("wb") as out:
        tools.run(
            ["cpio", "--quiet", "-o", "-0", "-H", "newc", "-R", "0:0"],
            input="\0".join(names).encode() + b"\0",
            stdout=out,
            cwd=root,
            timeout_s=_TIMEOUT_S,
        )


def _inputs(tree: Path) -> dict[str, Any]:
    files = cache.digest_of_files(SOURCE / "guest")
    return {"files": files, "python": str(tree), "format": 2}


def is_made(tree: Path) -> bool:
    """Return whether the cache has the archive of this checkout's ``guest/``."""
    return cache.recorded(cache.PAYLOAD, _inputs(tree)) is not None


def make(tree: Path, base: Path) -> IO[bytes]:
    """Return the initramfs of a run: this checkout's ``guest/``, then the image's base archive.

    The archive of ``guest/`` is cached by the digest of its files. The file has no name, so
    nothing is left of it; QEMU opens it through /proc/self/fd.
    """
    source = SOURCE / "guest"

    def build(staging: Path) -> dict[str, object]:
        root = staging / "root"
        target = root / GUEST_FOLDER
        shutil.copytree(
            source, target, ignore=shutil.ignore_patterns("__pycache__", "driver", ".*")
        )
        compile_bytecode(tree, target, f"/{GUEST_FOLDER}")
        shutil.copyfile(source / "init.py", root / "init")
        (root / "init").chmod(0o755)
        pack_cpio(root, staging / "payload.cpio")
        remove_tree(root)
        return {}

    entry = cache.entry(cache.PAYLOAD, _inputs(tree), build)
    out = os.fdopen(os.memfd_create("initramfs"), "wb")
    for part in (entry / "payload.cpio", base):
        with part.open("rb") as archive:
            shutil.copyfileobj(archive, out, 1 << 20)
    out.flush()
    return out
