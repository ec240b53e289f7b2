# SPDX-License-Identifier: Apache-2.0
"""newc archives in memory, against the cpio program."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment import cpio_archive
from dma_rehearsal.host_harness.environment.cpio_archive import (
    Member,
    file,
    folder,
    link,
    pack,
    unpack,
    with_folders,
)

MEMBERS = {
    "init": file(b"#!/bin/sh\n", 0o755),
    "opt": folder(),
    "opt/empty": file(b""),
    "opt/n\u00e4me \udcff": file(b"12345"),
    "opt/sub": folder(0o700),
    "opt/sub/x": file(bytes(range(256)) * 5),
    "opt/sub/y": link("../n\u00e4me"),
}


def test_what_is_packed_is_unpacked() -> None:
    assert unpack(pack(MEMBERS)) == MEMBERS
    assert unpack(pack({})) == {}
    assert pack(dict(reversed(MEMBERS.items()))) == pack(MEMBERS)


def test_folders_of_files() -> None:
    assert with_folders({"a/b/c": file(b""), "a/d": link("b"), "e": file(b"")}) == {
        "a": folder(),
        "a/b": folder(),
        "a/b/c": file(b""),
        "a/d": link("b"),
        "e": file(b""),
    }


def test_cpio_unpacks_it(tmp_path: Path) -> None:
    command = ["cpio", "--quiet", "-i", "-m", "--no-absolute-filenames"]
    subprocess.run(command, input=pack(MEMBERS), cwd=tmp_path, check=True, timeout=60)
    for name, member in MEMBERS.items():
        path = tmp_path / name
        assert path.lstat().st_mode == member.mode
        if path.is_symlink():
            assert str(path.readlink()) == member.data.decode()
        else:
            assert path.is_dir() if member.is_folder else path.read_bytes() == member.data
    assert (tmp_path / "init").stat().st_mtime == 0


def test_an_archive_of_cpio_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"xyz")
    done = subprocess.run(
        ["cpio", "--quiet", "-o", "-H", "newc"],
        input=b"a\na/x\n",
        cwd=tmp_path,
        check=True,
        timeout=60,
        stdout=subprocess.PIPE,
    )
    found = unpack(done.stdout)
    assert sorted(found) == ["a", "a/x"]
    assert found["a"].is_folder
    assert found["a/x"].data == b"xyz"


@pytest.mark.parametrize("end", [0, 50, 109, 120, -700])
def test_an_archive_that_is_cut_off_is_refused(end: int) -> None:
    with pytest.raises(ValueError, match=r"no header|ends within"):
        unpack(pack(MEMBERS)[:end])


def test_a_file_of_four_gigabytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpio_archive, "_MOST", 4)
    with pytest.raises(ValueError, match=r"x is too large"):
        pack({"x": Member(0o100644, b"12345")})
    assert pack({"x": Member(0o100644, b"1234")})
