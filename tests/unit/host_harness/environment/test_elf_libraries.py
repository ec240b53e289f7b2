# SPDX-License-Identifier: Apache-2.0
"""The libraries that programs of an unpacked tree load: all of them, also where one is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment import debian, elf_libraries
from dma_rehearsal.host_harness.environment.elf_libraries import Libraries
from tests.unit.host_harness.environment.elf_module import with_sections
from tests.unit.host_harness.environment.shared_library import LIBRARIES, write


def names(tree: Path, *binaries: Path) -> list[str]:
    return sorted(
        str(path.relative_to(tree)) for path in debian.needed_libraries(tree, list(binaries))
    )


def test_what_a_file_asks_for(tmp_path: Path) -> None:
    path = write(tmp_path / "x", "liba.so.1", "libb.so", runpath="/a:$ORIGIN/b:")
    assert elf_libraries.read(path) == Libraries(("liba.so.1", "libb.so"), ("/a", "$ORIGIN/b"))


@pytest.mark.parametrize(
    "data",
    [b"", b"#!/bin/sh\n", elf_libraries.MAGIC, with_sections({b".text": b"x"})],
    ids=["empty", "script", "cut off", "static"],
)
def test_a_file_that_asks_for_nothing(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    assert elf_libraries.read(tmp_path / "x") == Libraries()


def test_libraries_of_libraries_and_one_that_is_missing(tmp_path: Path) -> None:
    program = write(tmp_path / "usr/bin/x", "libmissing.so", "liba.so.1")
    write(tmp_path / LIBRARIES / "liba.so.1.2", "libb.so", "liba.so.1")
    (tmp_path / LIBRARIES / "liba.so.1").symlink_to("liba.so.1.2")
    write(tmp_path / "lib/x86_64-linux-gnu/libb.so")
    write(tmp_path / LIBRARIES / "libother.so")
    assert names(tmp_path, program) == ["lib/x86_64-linux-gnu/libb.so", f"{LIBRARIES}/liba.so.1"]


def test_private_folders_come_first_and_are_those_of_the_tree(tmp_path: Path) -> None:
    program = write(tmp_path / "usr/bin/x", "libp.so", "libq.so", runpath="/private:$ORIGIN/../q")
    for folder in "private", LIBRARIES:
        write(tmp_path / folder / "libp.so")
    write(tmp_path / "usr/q/libq.so")
    assert names(tmp_path, program) == ["private/libp.so", "usr/bin/../q/libq.so"]


def test_a_library_that_an_absolute_link_names_is_not_the_hosts(tmp_path: Path) -> None:
    program = write(tmp_path / "usr/bin/x", "libc.so.6", "liba.so")
    (tmp_path / LIBRARIES).mkdir(parents=True)
    (tmp_path / LIBRARIES / "libc.so.6").symlink_to("/lib/x86_64-linux-gnu/libc.so.6")
    write(tmp_path / "elsewhere/liba.so")
    (tmp_path / LIBRARIES / "liba.so").symlink_to("/elsewhere/liba.so")
    assert names(tmp_path, program) == [f"{LIBRARIES}/liba.so"]
