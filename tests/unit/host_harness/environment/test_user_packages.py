# SPDX-License-Identifier: Apache-2.0
"""Packages for the guest: what reaches it, what the cache keeps, and each error's next step."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment import (
    build_cache,
    cpio_archive,
    debian,
    user_packages,
)
from dma_rehearsal.host_harness.environment.cpio_archive import Member
from dma_rehearsal.host_harness.environment.user_packages import UserPackages
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure, UsageError
from tests.unit.host_harness.environment.programs import program
from tests.unit.host_harness.environment.shared_library import LIBRARIES, write

TOOLS = (
    *("./", "./usr/bin/", "./usr/bin/tool", "./usr/bin/old-name", "./etc/tool.conf"),
    *("./usr/share/doc/tool/copyright", "./usr/share/man/man1/tool.1.gz"),
    *("./usr/share/locale/de/LC_MESSAGES/tool.mo", "./usr/include/tool.h", "./usr/lib/tool.a"),
)


class Mirror:
    """A suite with the packages ``tools``, and ``libtool1``, on which it depends."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.error: EnvironmentFailure | None = None
        self.version = "1.0-1"

    def unpack(
        self, _suite: str, packages: Sequence[str], root: Path, *, listed: Sequence[str] = ()
    ) -> dict[str, str]:
        self.asked.append(tuple(packages))
        if self.error:
            raise self.error
        for path in (name for name in TOOLS if not name.endswith("/")):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(f"{path} of {self.version}")
        write(root / "usr/bin/tool", "libtool.so.1")
        (root / "usr/bin/tool").chmod(0o4755)
        (root / "usr/bin/old-name").unlink()
        (root / "usr/bin/old-name").symlink_to("tool")
        write(root / LIBRARIES / "libtool.so.1.0")
        (root / LIBRARIES / "libtool.so.1").symlink_to("libtool.so.1.0")
        write(root / LIBRARIES / "libelse.so")
        lists = root / "var/lib/dpkg/info"
        lists.mkdir(parents=True)
        for name in listed:
            (lists / f"{name}.list").write_text("".join(f"{line}\n" for line in TOOLS))
        return {"tools": self.version, "libtool1": "1.0"}


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch, cache_root: Path) -> Mirror:  # noqa: ARG001 - is filled
    found = Mirror()
    monkeypatch.setattr(debian, "unpack", found.unpack)
    return found


def made(*names: str, said: list[str] | None = None) -> UserPackages:
    return user_packages.make(names, ([] if said is None else said).append)


def members(found: UserPackages) -> dict[str, Member]:
    return cpio_archive.unpack(found.archive.read_bytes())


def test_the_guest_gets_files_links_and_the_libraries_that_are_loaded(mirror: Mirror) -> None:
    said: list[str] = []
    found = members(made("tools", said=said))
    files = {path: each for path, each in found.items() if not each.is_folder}
    assert sorted(files) == [
        *("etc/tool.conf", "usr/bin/old-name", "usr/bin/tool"),
        f"{LIBRARIES}/libtool.so.1",
    ]
    assert files["etc/tool.conf"].data == b"./etc/tool.conf of 1.0-1"
    assert files["usr/bin/old-name"] == cpio_archive.link("tool")
    assert files["usr/bin/tool"].mode & 0o7777 == 0o755
    assert {path for path, each in found.items() if each.is_folder} >= {"etc", "usr", LIBRARIES}
    assert said == ["unpacking for the guest, from Debian bookworm: tools (once)"]
    assert mirror.asked == [("tools",)]


def test_what_is_in_the_cache_needs_no_network(mirror: Mirror, cache_root: Path) -> None:
    assert user_packages.in_cache(["tools"]) is None
    first = made("tools")
    assert first.versions == {"tools": "1.0-1"}
    mirror.error = EnvironmentFailure("no network")
    assert made("tools") == user_packages.in_cache(["tools"]) == first
    assert first.archive.is_relative_to(cache_root / "packages")
    assert sorted(path.name for path in first.archive.parent.iterdir()) == [
        *("manifest.json", "packages.cpio", "seal")
    ]


def test_the_digest_is_of_the_contents(mirror: Mirror) -> None:
    first = made("tools")
    assert build_cache.discard(first.archive.parent)
    assert made("tools").digest == first.digest
    assert build_cache.discard(first.archive.parent)
    mirror.version = "1.0-2"
    second = made("tools")
    assert second.archive == first.archive
    assert second.digest != first.digest


def test_an_archive_that_changed_is_made_again(mirror: Mirror) -> None:
    first = made("tools")
    first.archive.write_bytes(b"broken")
    said: list[str] = []
    assert made("tools", said=said).digest == first.digest
    assert "packages.cpio: " in said[0]
    assert len(mirror.asked) == 2


def test_a_name_that_the_suite_lacks_is_the_users_to_mend(mirror: Mirror) -> None:
    mirror.error = debian.explain("bookworm", "E: Unable to locate package tols\n")
    with pytest.raises(UsageError, match=r"PACKAGES=tools,tols: .* has no package tols") as caught:
        made("tools", "tols")
    assert "apt-cache search" in caught.value.hint
    mirror.error = debian.explain("bookworm", "E: Package 'awk' has no installation candidate\n")
    with pytest.raises(UsageError, match="has no package awk"):
        made("awk")


def test_a_dependency_that_a_mirror_lacks_is_not(mirror: Mirror) -> None:
    mirror.error = debian.explain("bookworm", "E: Unable to locate package libtool1\n")
    with pytest.raises(EnvironmentFailure, match="being updated"):
        made("tools")


@pytest.mark.usefixtures("mirror")
def test_a_name_that_apt_took_for_another(cache_root: Path) -> None:
    with pytest.raises(UsageError, match=r"has no package tools\+"):
        made("tools+")
    assert [path.name for path in (cache_root / "packages").iterdir()] == [".lock"]


def test_without_a_network_the_option_is_named(mirror: Mirror) -> None:
    mirror.error = debian.explain("bookworm", "Temporary failure resolving 'mirror.example'\n")
    with pytest.raises(EnvironmentFailure, match=r"^PACKAGES=tools: .* no network") as caught:
        made("tools")
    assert isinstance(caught.value, debian.NoNetwork)
    assert "connect this machine" in caught.value.hint


@pytest.mark.usefixtures("mirror")
def test_packages_that_do_not_fit_the_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(len(each.data) for each in members(made("tools")).values())
    build_cache.discard(made("tools").archive.parent)
    monkeypatch.setattr(user_packages, "SIZE_MAX", size - 1)
    with pytest.raises(UsageError, match=r"the largest are \S+/libtool\.so\.1 \(0 MiB\)|usr/bin"):
        made("tools")
    monkeypatch.setattr(user_packages, "SIZE_MAX", size)
    made("tools")


@pytest.mark.parametrize("tool", ["dpkg-deb", "tar"])
def test_lists_are_those_of_the_archives(tmp_path: Path, tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool}, as mmdebstrap does")
    package = tmp_path / "package"
    (package / "DEBIAN").mkdir(parents=True)
    (package / "DEBIAN/control").write_text(
        "Package: tools\nVersion: 1:2~3\nArchitecture: all\nMaintainer: x <x@example>\n"
        "Description: x\n"
    )
    (package / "etc").mkdir()
    (package / "etc/n\u00e4me \\x").write_text("")
    (package / "etc/link").symlink_to("x")
    root = tmp_path / "root"
    archives = root / "var/cache/apt/archives"
    archives.mkdir(parents=True)
    subprocess.run(
        ["dpkg-deb", "--build", str(package), str(archives / "tools_1%3a2~3_all.deb")],
        check=True,
        capture_output=True,
        timeout=60,
    )
    script = program(tmp_path / "hook", debian._archives_hook(["tools"]))
    done = subprocess.run(
        [str(script), str(root)], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "deb:tools_1%3a2~3_all.deb\n"
    assert debian.files_of(root, "tools") == ["etc/link", "etc/n\u00e4me \\x"]
    with pytest.raises(FileNotFoundError):
        debian.files_of(root, "other")
