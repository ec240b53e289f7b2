# SPDX-License-Identifier: Apache-2.0
"""The files that reach the guest: which, with which bytecode, and those that changed."""

from __future__ import annotations

import compileall
import os
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment import (
    build_cache,
    cpio_archive,
    debian,
    guest_bytecode,
    guest_packages,
    manifest,
    payload,
)
from dma_rehearsal.host_harness.environment.cpio_archive import Member
from dma_rehearsal.host_harness.environment.payload import SOURCE, GuestTests, Payload, is_copied
from dma_rehearsal.host_harness.environment.user_packages import UserPackages
from dma_rehearsal.host_harness.process import janitor
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure, UsageError
from tests.unit.host_harness import images

FILES = (
    *("test_top.py", "plain/test_a.py", "plain/helper.py", "deep/conftest.py"),
    *("deep/inner/test_b.py", "deep/inner/bare/test_c.py"),
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("selected", "copied"),
    [
        ("plain", "plain"),
        ("plain/test_a.py", "plain"),
        ("plain/test_a.py::test_x[1]", "plain"),
        ("deep/inner/test_b.py", "deep"),
        ("deep/inner", "deep"),
        ("deep/inner/bare/test_c.py", "deep/inner/bare"),
        ("test_top.py", "test_top.py"),
        (".", "."),
    ],
)
def test_folder_that_a_selection_needs(root: Path, selected: str, copied: str) -> None:
    assert GuestTests(root, (selected,)).files() == [Path(copied)]


def test_own_tests_are_there_anyway() -> None:
    assert GuestTests(selected=("suite/test_x.py",)).files() == []
    assert GuestTests().root_in_guest == "/opt/dma-rehearsal/dma_rehearsal/guest"


@pytest.mark.parametrize(
    ("selected", "words"),
    [("nowhere", "does not exist"), ("/etc", "not below the root of the tests")],
)
def test_what_cannot_be_copied_is_a_usage_error(root: Path, selected: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        GuestTests(root, (selected,)).files()


def test_junk_and_the_drivers_source_stay_out() -> None:
    assert is_copied(Path("suite/test_x.py"))
    for name in ("driver/main.c", "suite/__pycache__/x.pyc", ".git/x", "suite/.x.swp"):
        assert not is_copied(Path(name))
    assert (SOURCE / "guest" / "driver").is_dir()


class Checkout:
    """A small project of its own, of which payloads are made; this Python is the guest's."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        self.tree = folder / "tree" / "root"
        self.tests = GuestTests(self.root, (".",))
        for name, text in {
            "checkout/guest/agent/init.py": "#!/usr/bin/python3\n",
            "checkout/guest/agent/parked.py": "from . import init\n",
            "checkout/guest/driver/main.c": "int x;\n",
            "checkout/device/layout/frames.py": "SIZE = 4\n",
            "project/conftest.py": "assert True\n",
            "project/test_a.py": "def test_a():\n    assert 'test_a'\n",
            "project/package/__init__.py": "",
            "project/package/helper.py": "x = 'helper', 'test_a'\n",
            "project/data.bin": "\0",
        }.items():
            self.write(f"../{name}", text)
        self.tree.mkdir(parents=True)
        manifest.write(self.tree.parent, {}, hashed=False)

    def write(self, name: str, text: str) -> None:
        """Write a file of the project."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def make(self) -> Payload:
        """Make the payload of the project as it is."""
        return payload.make(self.tree, self.tests)


@pytest.fixture(scope="session")
def pytest_for_guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pytest and its bytecode, which all tests here share."""
    folder = tmp_path_factory.mktemp("site")
    guest_packages.copy(folder, guest_packages.PYTEST)
    compileall.compile_dir(folder, quiet=2)
    return folder


@pytest.fixture
def checkout(
    cache_root: Path,
    pytest_for_guest: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Checkout:
    assert not cache_root.exists()
    made = Checkout(tmp_path_factory.mktemp("work"))
    monkeypatch.setattr(debian, "loader_command", lambda _tree, _name: [sys.executable])
    monkeypatch.setattr(guest_bytecode, "_packages", lambda _tree: pytest_for_guest)
    monkeypatch.setattr(payload, "SOURCE", made.root.parent / "checkout")
    return made


def _files(made: Payload) -> dict[str, Member]:
    members = cpio_archive.unpack((made.folder / "payload.cpio").read_bytes())
    below = "opt/dma-rehearsal/"
    return {
        name.removeprefix(below) + "/" * member.is_folder: member
        for name, member in members.items()
        if name.startswith(below)
    }


def _rename(checkout: Checkout) -> None:
    (checkout.root / "test_a.py").rename(checkout.root / "test_b.py")


def _remove(checkout: Checkout) -> None:
    (checkout.root / "package" / "helper.py").unlink()


def _package_becomes_a_module(checkout: Checkout) -> None:
    janitor.remove_tree(checkout.root / "package")
    checkout.write("package.py", "x = 1\n")


def _module_becomes_a_package(checkout: Checkout) -> None:
    (checkout.root / "conftest.py").unlink()
    checkout.write("conftest.py/__init__.py", "")


EDITS: dict[str, Callable[[Checkout], object]] = {
    "nothing": lambda _: None,
    "test": lambda made: made.write("test_a.py", "def test_a():\n    assert 'other'\n"),
    "shorter": lambda made: made.write("test_a.py", ""),
    "module": lambda made: made.write("package/helper.py", "x = 'test_a', 'package'\n"),
    "own guest": lambda made: made.write("../checkout/guest/agent/parked.py", "y = 1\n"),
    "layout": lambda made: made.write("../checkout/device/layout/frames.py", "SIZE = 5\n"),
    "init": lambda made: made.write("../checkout/guest/agent/init.py", "#!/bin/true\n"),
    "data": lambda made: made.write("data.bin", "\1"),
    "permissions": lambda made: (made.root / "data.bin").chmod(0o755),
    "new test": lambda made: made.write("more/test_more.py", "def test_m():\n    assert 1\n"),
    "new data": lambda made: made.write("more/deep/list.txt", "helper\n"),
    "empty folder": lambda made: (made.root / "empty").mkdir(),
    "error": lambda made: made.write("test_a.py", "def\n"),
    "null byte": lambda made: made.write("package/helper.py", "x = '\0'\n"),
    "rename": _rename,
    "remove": _remove,
    "package to module": _package_becomes_a_module,
    "module to package": _module_becomes_a_package,
    "ignored": lambda made: made.write("package/.helper.py.swp", "x\n"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_gives_what_a_build_from_nothing_gives(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, edit: str
) -> None:
    old = checkout.make()
    before, listing = _files(old), old.listing()
    assert listing.keys() == before.keys()
    EDITS[edit](checkout)
    new = checkout.make()
    after, archive = _files(new), (new.folder / "payload.cpio").read_bytes()
    assert new.digest == payload.digest(checkout.tree, checkout.tests)
    assert (new.digest == old.digest) == (edit in {"nothing", "ignored"})

    change = payload.delta(listing, new)
    assert len(change.files) + len(change.remove) < len(after) / 2, "an edit sends nearly all"
    for path in change.remove:
        before = {name: each for name, each in before.items() if not name.startswith(path)}
    for path, permissions, data in change.files:
        kind = stat.S_IFDIR if path.endswith("/") else stat.S_IFREG
        before[path] = Member(kind | permissions, data)
    assert before == after, "the delta does not lead to the new files"

    monkeypatch.setattr(payload, "_EARLIER", 0)
    assert build_cache.discard(new.folder)
    made_anew = checkout.make()
    assert made_anew == new
    assert (made_anew.folder / "payload.cpio").read_bytes() == archive


def _spied(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """Return a list that gets the paths of each call of the compiler."""
    compiled = []
    real = guest_bytecode.compiled

    def spy(
        tree: Path, sources: Mapping[str, bytes], scratch: Path, name: str
    ) -> dict[str, dict[str, bytes]]:
        compiled.append(set(sources))
        return real(tree, sources, scratch, name)

    monkeypatch.setattr(guest_bytecode, "compiled", spy)
    return compiled


def test_an_edit_compiles_the_edited_file_alone(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = _spied(monkeypatch)
    checkout.make()
    checkout.write("test_a.py", "def\n")
    checkout.make()
    checkout.write("data.bin", "\2")  # the test that does not compile is not tried again
    checkout.make()
    checkout.write("package/helper.py", "x = 2\n")
    (checkout.root / "conftest.py").rename(checkout.root / "test_c.py")
    checkout.make()
    everything, *others = compiled
    assert len(everything) == 9
    assert others == [
        {"project/test_a.py"},
        {"project/package/helper.py", "project/test_c.py"},
    ]


def test_many_edits_leave_few_payloads(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_cache, "PAYLOAD", replace(build_cache.PAYLOAD, keep=2))
    for edit in "abcd":
        checkout.write("data.bin", edit)
        newest = checkout.make()
        build_cache.release()
    left = build_cache.entries(build_cache.PAYLOAD)
    assert len(left) == 2
    assert newest.folder in left


def test_modules_under_test_are_files_of_the_payload(checkout: Checkout) -> None:
    tree, tests = checkout.tree, checkout.tests
    plain = checkout.make()
    files = {"modules.json": b"{}", "my.ko": b"\x7fELF"}
    made = payload.make(tree, tests, files)
    assert made.digest == payload.digest(tree, tests, files) != plain.digest
    change = payload.delta(plain.listing(), made)
    assert [(path, data) for path, _, data in change.files] == [
        ("modules/", b""),
        ("modules/modules.json", b"{}"),
        ("modules/my.ko", b"\x7fELF"),
    ]
    edited = payload.make(tree, tests, {**files, "my.ko": b"\x7fELF, edited"})
    assert edited.digest != made.digest
    assert [path for path, _, _ in payload.delta(made.listing(), edited).files] == ["modules/my.ko"]
    assert payload.delta(made.listing(), plain).remove == ["modules/"]


@pytest.mark.parametrize("name", ["payload.cpio", "files.json", "bytecode.json", "manifest.json"])
def test_a_broken_payload_gives_no_bytecode(checkout: Checkout, name: str) -> None:
    old = checkout.make()
    good = _files(old)
    (old.folder / name).write_bytes((old.folder / name).read_bytes().replace(b"o", b"e"))
    checkout.write("data.bin", "\2")
    new = _files(checkout.make())
    assert {path for path in new if new[path] != good[path]} == {"project/data.bin"}


def test_bytecode_of_another_compiler_is_not_taken(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout.make()
    checkout.write("data.bin", "\2")
    versions = {**guest_packages.versions(), "pytest": "0"}
    monkeypatch.setattr(guest_packages, "versions", lambda: versions)
    compiled = _spied(monkeypatch)
    checkout.make()
    assert len(compiled[0]) == 9


def test_initramfs_is_the_payload_and_the_image(checkout: Checkout, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.write_bytes(bytes(range(256)) * 5000)
    made = checkout.make()
    with made.initramfs(base) as file:
        data = os.pread(file.fileno(), 1 << 30, 0)
        assert data == (made.folder / "payload.cpio").read_bytes() + base.read_bytes()


def test_packages_are_before_the_image_whose_archive_has_no_end(
    checkout: Checkout, tmp_path: Path
) -> None:
    for name in "packages", "base":
        (tmp_path / name).write_text(name)
    packages = UserPackages(tmp_path / "packages", "digest", {})
    made = checkout.make()
    with made.initramfs(*replace(images.image(tmp_path), packages=packages).archives) as file:
        data = os.pread(file.fileno(), 1 << 30, 0)
        assert data == (made.folder / "payload.cpio").read_bytes() + b"packagesbase"
    with made.initramfs(*images.image(tmp_path).archives) as file:
        assert os.pread(file.fileno(), 1 << 30, 0).endswith(b"\0base")


def test_links_are_followed_and_a_circle_is_told(checkout: Checkout) -> None:
    (checkout.root / "package" / "link").symlink_to("../data.bin")
    assert _files(checkout.make())["project/package/link"] == cpio_archive.file(b"\0")
    (checkout.root / "package" / "again").symlink_to("..")
    with pytest.raises(EnvironmentFailure, match=r"again cannot be copied .* contains itself"):
        checkout.make()


@pytest.mark.parametrize("kind", ["broken link", "pipe"])
def test_a_file_that_cannot_be_read_is_told(checkout: Checkout, kind: str) -> None:
    path = checkout.root / "package" / "bad"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere")
    with pytest.raises(EnvironmentFailure, match=r"package/bad cannot be"):
        checkout.make()


def test_payload_knows_the_boot_files_that_are_in_it(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload, "BOOT_FILES", ("guest/agent/init.py", "device/layout/frames.py"))
    old, before = checkout.make(), payload.boot_files_digest()
    checkout.write("test_a.py", "# not one of them\n")
    assert checkout.make().boot_files_digest() == payload.boot_files_digest() == before
    checkout.write("../checkout/guest/agent/init.py", "# another\n")
    assert old.boot_files_digest() == before
    assert checkout.make().boot_files_digest() == payload.boot_files_digest() != before


def test_boot_files_are_there_and_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = payload.boot_files_digest()
    for name in payload.BOOT_FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((SOURCE / name).read_bytes())
    monkeypatch.setattr(payload, "SOURCE", tmp_path)
    assert payload.boot_files_digest() == before
    with (tmp_path / payload.BOOT_FILES[-1]).open("a") as file:
        file.write("\n")
    assert payload.boot_files_digest() != before
