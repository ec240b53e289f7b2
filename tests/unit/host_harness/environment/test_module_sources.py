# SPDX-License-Identifier: Apache-2.0
"""The sources of a module under test: what MODULE= can name, and the files that a copy has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment import module_sources
from dma_rehearsal.host_harness.environment.module_sources import Copy, SourceKind
from dma_rehearsal.host_harness.process.errors import UsageError

DRIVER = {
    "drv/Kbuild": "obj-m := my.o\nobj-m += sub/\n",
    "drv/my.c": '#include <linux/pci.h>\n#include "my.h"\n',
    "drv/my.h": "",
    "drv/sub/Makefile": "obj-m := part.o\n",
    "drv/sub/part.c": "",
}


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a driver, in the current folder."""
    write(tmp_path, DRIVER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str) -> Copy:
    return module_sources.read(module_sources.find(text))


def test_folder_is_copied_but_for_what_make_does_not_read(project: Path) -> None:
    made = ("my.o", "my.ko", "my.mod.c", ".my.o.cmd", "Module.symvers", "modules.order")
    others = ("device.py", "README.md", ".git/config", "__pycache__/device.pyc")
    write(project, {f"drv/{name}": "x" for name in (*made, *others)})
    copy = read("drv")
    assert (copy.root, copy.folder) == (project / "drv", ".")
    assert sorted(copy.files) == ["Kbuild", "my.c", "my.h", "sub/Makefile", "sub/part.c"]


def test_digest_is_that_of_the_files_which_make_reads(project: Path) -> None:
    before = read("drv").digest
    write(project, {"drv/device.py": "x", "drv/my.o": "x"})
    os.utime(project / "drv/my.c", (0, 0))
    assert read("drv").digest == before
    write(project, {"drv/my.h": "#define RING 8\n"})
    assert read("drv").digest != before


def test_file_gets_a_kbuild_and_the_headers_that_it_names(project: Path) -> None:
    write(project, {"drv/other.c": "", "drv/other.h": ""})
    copy = read("drv/my.c")
    assert copy.root == project / "drv"
    assert sorted(copy.files) == ["Kbuild", "my.c", "my.h"]
    assert copy.files["Kbuild"] == b"obj-m := my.o\n"


def test_files_outside_the_folder_come_with_those_that_they_name(project: Path) -> None:
    write(
        project,
        {
            "drv/my.c": '#include "../common/ring.h"\n  # include "../nowhere.h"\n',
            "common/ring.h": '#include "slot.h"\n',
            "common/slot.h": "",
            "common/unused.h": "",
        },
    )
    copy = read("drv")
    assert (copy.root, copy.folder) == (project, "drv")
    assert {name for name in copy.files if name.startswith("common")} == {
        "common/ring.h",
        "common/slot.h",
    }


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("ccflags-y := -I$(src)/../include\n", {"include/a.h", "include/deep/b.h"}),
        ("my-y := main.o ../common/ring.o\n", {"common/ring.c"}),
        ("include $(src)/../rules.mk\n", {"rules.mk", "common/ring.c"}),
        ("ccflags-y := -I$(M)/..\n", {"top.h", "include/a.h", "include/deep/b.h"}),
        ("KDIR := ../linux\nVERSION := 1..2\n", set()),
    ],
)
def test_paths_upwards_in_a_makefile(project: Path, line: str, found: set[str]) -> None:
    write(
        project,
        {
            "drv/Kbuild": line + "obj-m := my.o\n",
            "include/a.h": "",
            "include/deep/b.h": "",
            "common/ring.c": "",
            "rules.mk": "my-y += ../common/ring.o\n",
            "top.h": "",
            "linux/Makefile": "",
            "linux/scripts/x": "",
            "linux/include/linux/pci.h": "",
        },
    )
    copy = read("drv")
    inside = {str(Path(copy.folder) / name.removeprefix("drv/")) for name in DRIVER}
    assert copy.files.keys() - inside == found


def test_link_out_of_the_folder_is_a_file_of_it(project: Path) -> None:
    write(project, {"real/real.h": "int x;\n"})
    (project / "drv/linked.h").symlink_to(project / "real/real.h")
    (project / "drv/round").symlink_to(project / "drv")
    files = read("drv").files
    assert files["linked.h"] == b"int x;\n"
    assert not any(name.startswith("round/round") for name in files)


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        ("nowhere", "does not exist", "built module"),
        ("plain", "neither Kbuild nor Makefile", "MODULE=plain/one.c"),
        ("empty", "neither Kbuild nor Makefile", "obj-m"),
        ("plain/notes.txt", "neither a folder, nor a C file", "C file"),
        ("plain/a b.c", "of a name that make can take", "C file"),
    ],
)
def test_what_is_not_a_module(project: Path, text: str, words: str, hint: str) -> None:
    write(project, {"plain/one.c": "", "plain/notes.txt": "", "plain/a b.c": "", "empty/x": ""})
    with pytest.raises(UsageError, match=words) as error:
        module_sources.find(text)
    assert hint in error.value.hint


def test_file_far_above_is_a_clear_error(project: Path) -> None:
    write(
        project,
        {"a/b/c/d/Kbuild": "obj-m := x.o\n", "a/b/c/d/x.c": '#include "../../../../drv/my.h"\n'},
    )
    with pytest.raises(UsageError, match="4 folders above"):
        read("a/b/c/d")
    write(project, {"a/my.h": "", "a/b/c/d/x.c": '#include "../../../my.h"\n'})
    assert "my.h" in read("a/b/c/d").files


def test_too_much_to_copy(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_sources, "_FILES_MAX", 5)
    assert len(read("drv").files) == 5
    write(project, {"drv/more.c": ""})
    with pytest.raises(UsageError, match="more than 5 files"):
        read("drv")
    assert module_sources.looked_at(module_sources.find("drv")) == [project / "drv"]


def test_copy_is_written_as_it_was_read(project: Path, tmp_path: Path) -> None:
    write(project, {"drv/gen.sh": "#!/bin/sh\n"})
    copy = read("drv")
    write(project, {"drv/my.h": "edited meanwhile"})
    copy.write(tmp_path / "copy")
    assert (tmp_path / "copy/my.h").read_text() == ""
    assert os.access(tmp_path / "copy/gen.sh", os.X_OK)
    assert module_sources.find("drv").kind is SourceKind.FOLDER
