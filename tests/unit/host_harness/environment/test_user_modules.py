# SPDX-License-Identifier: Apache-2.0
"""Modules under test: built in a copy by a stand-in for Kbuild, and with what they need."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment import build_cache, driver_build, user_modules
from dma_rehearsal.host_harness.environment.kernel_tree import KernelTree
from dma_rehearsal.host_harness.environment.user_modules import UserModules
from dma_rehearsal.host_harness.process.errors import UsageError
from tests.unit.host_harness import images
from tests.unit.host_harness.environment.elf_module import module

# Compiles each object of obj-m, and notes who ran.
KBUILD = """
src := $(M)
obj := $(M)
include $(wildcard $(M)/Kbuild $(M)/Makefile)
modules:
	@echo "make[1]: Entering directory"
	@for each in $(obj-m); do \\
		echo "  CC [M]  $$each"; \\
		$(CC) $(KCFLAGS) -Wall -c $(M)/$${each%.o}.c -o $(M)/$${each%.o}.ko || exit 1; \\
	done
	@echo $(KBUILD_EXTRA_SYMBOLS) >>$(NOTES)
	@echo "0x00000007	ring_init	$(M)/ring	EXPORT_SYMBOL" >$(M)/Module.symvers
"""
SOURCE = """
#define INFO(name, text) \\
    __attribute__((section(".modinfo"), used)) static const char name[] = text
INFO(magic, "vermagic=6.1 SMP ");
INFO(needs, "depends={depends}");
int run(int value) {{ return value + {value}; }}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, which is the current folder; modules are built by the host's compiler."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv(driver_build.SETTING, "host")
    return folder


@pytest.fixture
def kernel(tmp_path: Path, cache_root: Path) -> KernelTree:  # noqa: ARG001 - builds are kept there
    """A kernel with nvme and pci_core built in, and the modules uio, libata and ahci."""
    tree = images.kernel_tree(tmp_path / "kernel")
    tree.headers.mkdir(parents=True)
    notes = tmp_path / "notes"
    (tree.headers / "Makefile").write_text(KBUILD.replace("$(NOTES)", str(notes)))
    (tree.headers / "Module.symvers").write_text("0x00000001\tmodule_layout\tvmlinux\tE\t\n")
    tree.modules.mkdir(parents=True)
    for name, words in {
        "uio": b"",
        "libata": b"depends=scsi-mod\0",
        "ahci": b"depends=libata\0softdep=pre: uio\0",
    }.items():
        (tree.modules / f"{name}.ko").write_bytes(module(b"vermagic=6.1 SMP \0" + words))
    return replace(tree, builtin=frozenset({"nvme", "scsi_mod"}))


def write(name: str, *, depends: str = "", value: int = 1, kbuild: str = "") -> None:
    """Write a driver into a folder of its name."""
    folder = Path(name)
    folder.mkdir(exist_ok=True)
    (folder / "Kbuild").write_text(kbuild or f"obj-m := {name}.o\n")
    (folder / f"{name}.c").write_text(SOURCE.format(depends=depends, value=value))


def made(
    kernel: KernelTree,
    *modules: str,
    driver: str | None = None,
    said: list[str] | None = None,
    loaded: Sequence[str] = (),
) -> UserModules:
    notes: list[str] = [] if said is None else said
    return user_modules.make(modules, driver, kernel, notes.append, loaded)


def listing(found: UserModules, name: str = "modules.json") -> list[Mapping[str, object]]:
    listed: list[Mapping[str, object]] = json.loads(found.files()[name])["modules"]
    return listed


def test_nothing_under_test(kernel: KernelTree) -> None:
    assert made(kernel) == UserModules()
    assert UserModules().files() == {}


def test_module_is_built_in_a_copy_with_debug_information(
    project: Path, kernel: KernelTree
) -> None:
    write("ring")
    before = sorted(project.rglob("*"))
    found = made(kernel, "ring")
    assert sorted(project.rglob("*")) == before
    assert listing(found) == [{"name": "ring", "file": "ring.ko", "depends": []}]
    debug = found.debug_files()["ring"]
    assert b".debug_info" in debug.data
    assert b".debug_info" not in found.files()["ring.ko"]
    assert debug.root


@pytest.mark.usefixtures("project")
def test_build_is_cached_until_a_source_changes(kernel: KernelTree) -> None:
    write("ring")
    first = made(kernel, "ring")
    said: list[str] = []
    assert made(kernel, "ring", said=said).files() == first.files()
    assert said == []
    write("ring", value=2)
    assert made(kernel, "ring", said=said).files() != first.files()
    assert said == ["building MODULE=ring for 6.1 (host)"]
    assert len(build_cache.entries(build_cache.MODULE)) == 2
    other = replace(kernel, identity="another kernel")
    made(other, "ring", said=said)
    assert len(said) == 2


def test_error_of_the_compiler_names_the_users_file(project: Path, kernel: KernelTree) -> None:
    write("ring")
    (project / "ring/ring.c").write_text("int run(void)\n{\n\treturn nothing;\n}\n")
    with pytest.raises(UsageError, match="MODULE=ring does not build for the kernel") as error:
        made(kernel, "ring")
    assert "\nring/ring.c:3:" in str(error.value)
    for noise in ("make", "CC [M]", "staging"):
        assert noise not in str(error.value).partition("\n  next:")[0]
    assert build_cache.entries(build_cache.MODULE) == []


def test_warning_is_told_each_time(project: Path, kernel: KernelTree) -> None:
    write("ring")
    with (project / "ring/ring.c").open("a") as file:
        file.write("static int unused;\n")
    for _ in range(2):
        (warning,) = made(kernel, "ring").warnings
        assert "ring/ring.c:7:12: warning: " in warning


def test_paths_that_kbuild_writes_from_the_modules_own_folder(tmp_path: Path) -> None:
    from dma_rehearsal.host_harness.environment import module_entry
    from dma_rehearsal.host_harness.environment.module_sources import Copy

    copy = Copy(tmp_path, "drv", {"drv/my.c": b"", "common/ring.h": b""})
    said = (
        "make: Entering directory '/usr/src'\n"
        "In file included from my.c:2:\n"
        "my.c: In function 'probe':\n"
        "../common/ring.h:1:5: error: x\n"
        "/mnt/drv/my.c:4:1: error: y\n"
        "other.c:1:1: error: z\n"
        "  CC [M]  my.o\n"
    )
    assert module_entry._said(said, "/mnt", copy) == (
        "In file included from <root>/drv/my.c:2:\n"
        "<root>/drv/my.c: In function 'probe':\n"
        "<root>/common/ring.h:1:5: error: x\n"
        "<root>/drv/my.c:4:1: error: y\n"
        "other.c:1:1: error: z"
    )


@pytest.mark.usefixtures("project")
def test_driver_of_a_kernels_tree_is_chosen_as_its_configuration_would(kernel: KernelTree) -> None:
    write("ring", kbuild="obj-$(CONFIG_RING) := ring.o\n")
    assert [each["name"] for each in listing(made(kernel, "ring"))] == ["ring"]
    write("ring", kbuild="obj-y := ring.o\n")
    with pytest.raises(UsageError, match="make built no module"):
        made(kernel, "ring")


@pytest.mark.usefixtures("project")
def test_several_modules_use_each_others_symbols(kernel: KernelTree, tmp_path: Path) -> None:
    write("user", depends="ring")
    write("ring")
    found = made(kernel, "ring", "user")
    assert [(each["name"], each["depends"]) for each in listing(found)] == [
        ("ring", []),
        ("user", ["ring"]),
    ]
    assert (tmp_path / "notes").read_text().split()[-1].endswith(".symbols-0")


@pytest.mark.usefixtures("project")
def test_what_a_module_needs_of_the_kernel_comes_before_it(kernel: KernelTree) -> None:
    write("ring", depends="libata")
    assert [(each["name"], each["depends"]) for each in listing(made(kernel, "ring"))] == [
        ("libata", []),
        ("ring", ["libata"]),
    ]


def test_file_alone(project: Path, kernel: KernelTree) -> None:
    write("ring")
    (project / "ring/Kbuild").unlink()
    assert "ring.ko" in made(kernel, "ring/ring.c").files()


def test_built_module_is_taken_if_the_kernel_would(project: Path, kernel: KernelTree) -> None:
    write("ring")
    data = made(kernel, "ring").debug_files()["ring"].data
    (project / "ring.ko").write_bytes(data)
    found = made(kernel, "ring.ko")
    assert b".debug_info" in found.debug_files()["ring"].data
    assert b".debug_info" not in found.files()["ring.ko"]
    (project / "ring.ko").write_bytes(data.replace(b"=6.1 SMP", b"=6.0 SMP"))
    with pytest.raises(UsageError, match=r"built for kernel 6\.0, and the guest's kernel is 6\.1"):
        made(kernel, "ring.ko")
    (project / "ring.ko").write_text("not ELF")
    with pytest.raises(UsageError, match="not a kernel module"):
        made(kernel, "ring.ko")


def test_driver_that_is_a_module(kernel: KernelTree) -> None:
    found = made(kernel, driver="ahci")
    assert [(each["name"], each["file"], each["depends"]) for each in listing(found)] == [
        ("libata", "libata.ko", []),
        ("uio", "uio.ko", []),
        ("ahci", "ahci.ko", ["uio", "libata"]),
    ]


def test_driver_that_is_built_in(kernel: KernelTree) -> None:
    found = made(kernel, driver="nvme")
    assert listing(found) == [{"name": "nvme", "file": None, "depends": []}]
    assert list(found.files()) == ["modules.json"]


def test_modules_that_are_loaded_before_the_tests_are_not_under_test(kernel: KernelTree) -> None:
    found = made(kernel, loaded=["ahci", "uio", "nvme"])
    assert sorted(found.files()) == [
        *("kernel/ahci.ko", "kernel/libata.ko", "kernel/modules.json", "kernel/uio.ko")
    ]
    assert [each["name"] for each in listing(found, "kernel/modules.json")] == [
        *("libata", "uio", "ahci")
    ]
    assert found.debug_files() == {}
    both = made(kernel, driver="ahci", loaded=["uio"])
    assert [each["name"] for each in listing(both)] == ["libata", "uio", "ahci"]
    assert [each["name"] for each in listing(both, "kernel/modules.json")] == ["uio"]
    assert made(kernel, loaded=["nvme"]).files() == {}  # it is in the kernel itself


def test_unknown_module_has_near_names(kernel: KernelTree) -> None:
    with pytest.raises(UsageError, match=r"KERNEL_MODULES=uoi: .* no module of this") as error:
        made(kernel, loaded=["ahci", "uoi"])
    assert error.value.hint == "similar names: uio"


def test_unknown_driver_has_near_names(kernel: KernelTree) -> None:
    with pytest.raises(UsageError, match="no driver of this name") as error:
        made(kernel, driver="nvm")
    assert "similar names: nvme" in error.value.hint
    with pytest.raises(UsageError) as error:
        made(kernel, driver="xyzzy")
    assert "/sys/module" in error.value.hint


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nvme", "has nvme built in"),
        ("dma_rehearsal_ops", "a module of this rig"),
    ],
)
@pytest.mark.usefixtures("project")
def test_names_that_are_taken(kernel: KernelTree, name: str, words: str) -> None:
    write(name)
    with pytest.raises(UsageError, match=words):
        made(kernel, name)


def test_two_modules_of_one_name(project: Path, kernel: KernelTree) -> None:
    write("ring")
    (project / "other").mkdir()
    (project / "other/ring.c").write_text((project / "ring/ring.c").read_text())
    with pytest.raises(UsageError, match="several modules have the name ring"):
        made(kernel, "ring", "other/ring.c")
