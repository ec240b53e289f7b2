"""What reaches the guest at each run: ``guest/`` as an initramfs of its own, with bytecode.

The kernel unpacks several archives that stand one after the other. Ours comes first and
uncompressed, the base image after it: a legacy lz4 archive has no end mark, so nothing may follow.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import IO

from . import cache, debian

SOURCE = Path(__file__).resolve().parent.parent
GUEST_FOLDER = "opt/dma-rehearsal/guest"
_TIMEOUT_S = 120


def compile_bytecode(tree: Path, folder: Path, name_in_guest: str) -> None:
    """Compile ``folder`` with the guest's own Python, run by its own loader.

    Unchecked hashes: the guest never compares times or sources. A file that does not compile
    stays a source, and whoever imports it in the guest gets the error, with file and line.
    """
    subprocess.run(
        [
            *debian.loader_command(tree, "usr/bin/python3.11"),
            *("-I", "-m", "compileall", "-q", "-j", "0"),
            *("--invalidation-mode", "unchecked-hash"),
            *("-s", str(folder), "-p", name_in_guest, str(folder)),
        ],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
        env={"PYTHONHOME": str(tree / "usr")},
        stdin=subprocess.DEVNULL,
    )


def pack_cpio(root: Path, target: Path) -> None:
    """Write the folder ``root`` as a newc archive, all owned by root, in a stable order."""
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    with target.open("wb") as out:
        subprocess.run(
            ["cpio", "--quiet", "-o", "-0", "-H", "newc", "-R", "0:0"],
            input="\0".join(names).encode() + b"\0",
            stdout=out,
            cwd=root,
            check=True,
            timeout=_TIMEOUT_S,
        )


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
        cache.remove_tree(root)
        return {}

    inputs = {"files": cache.digest_of_files(source), "python": str(tree), "format": 1}
    entry = cache.entry("payload", inputs, build)
    out = os.fdopen(os.memfd_create("initramfs"), "wb")
    for part in (entry / "payload.cpio", base):
        with part.open("rb") as archive:
            shutil.copyfileobj(archive, out, 1 << 20)
    out.flush()
    return out
