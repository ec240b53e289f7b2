# SPDX-License-Identifier: Apache-2.0
"""Environment failures: each is told apart, is status 3, and says what to do next."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment import (
    build_cache,
    cache_cleaning,
    debian,
    driver_build,
    host_tools,
    kernel_module,
    kernel_tree,
    manifest,
    qemu,
)
from dma_rehearsal.host_harness.environment.driver_build import Way
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure, Status, UsageError
from tests.unit.host_harness.environment.elf_module import module
from tests.unit.host_harness.environment.programs import fake_qemu, program
from tests.unit.host_harness.wrapped import REASON_OF_WAY, OrdinaryUser, run_within

# --- what mmdebstrap says

_APT_FAILED = "E: apt-get update --error-on=any -oAPT::Status-Fd=<$fd> failed\n"
_SAID = {
    "no network": (
        "Ign:1 http://mirror.example/debian bookworm InRelease\n"
        "Err:1 http://mirror.example/debian bookworm InRelease\n"
        "  Temporary failure resolving 'mirror.example'\n" + _APT_FAILED,
        "connect this machine",
    ),
    "no  network": (
        "E: Failed to fetch http://mirror.example/x  Could not connect to mirror.example:80 "
        "(192.0.2.1), connection timed out\n" + _APT_FAILED,
        "connect this machine",
    ),
    "a mirror refuses": (
        "Err:2 http://mirror.example/debian nosuchsuite Release\n  404  Not Found [IP: 192.0.2.1]\n"
        "E: The repository 'http://mirror.example/debian nosuchsuite Release' does not have a "
        "Release file.\n" + _APT_FAILED,
        "run again later",
    ),
    "a mirror refuses, or is being updated": (
        "E: Unable to locate package nosuchpackage\nE: apt download failed\n",
        "run again later",
    ),
    "signature cannot be checked": (
        "W: GPG error: http://mirror.example/debian forky InRelease: NO_PUBKEY 0123456789ABCDEF\n"
        "E: The repository 'http://mirror.example/debian forky InRelease' is not signed.\n",
        "debian-archive-keyring",
    ),
    "a tool that it calls is missing": (
        'Can\'t exec "apt-get": No such file or directory at /usr/bin/mmdebstrap line 1069.\n',
        "apt-get install -y apt",
    ),
}


@pytest.mark.parametrize("cause", _SAID)
def test_causes_are_told_apart(cause: str) -> None:
    said, hint = _SAID[cause]
    failure = debian.explain("forky", said)
    assert " ".join(cause.split()) in str(failure)
    assert hint in failure.hint
    assert failure.status is Status.ENVIRONMENT


@pytest.mark.usefixtures("cache_root")
def test_without_a_network_no_other_suite_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def unpack(suite: str, _packages: object, _root: Path) -> dict[str, str]:
        raise debian.explain(suite, _SAID["no network"][0])

    monkeypatch.delenv("QEMU", raising=False)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    monkeypatch.setattr(debian, "unpack", unpack)
    with pytest.raises(
        EnvironmentFailure, match="no QEMU with vfio-user-pci is available"
    ) as failure:
        qemu.find(lambda _text: None)
    assert "forky packages cannot be fetched: no network" in str(failure.value)
    assert "sid" not in str(failure.value)
    assert failure.value.hint.startswith("connect this machine")


def test_unknown_cause_still_shows_what_was_said() -> None:
    failure = debian.explain("forky", "something new\n")
    assert "mmdebstrap said:\nsomething new" in str(failure)
    assert failure.hint


def test_without_any_network(no_network: list[str], tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from dma_rehearsal.host_harness.environment import debian\n"
        "from dma_rehearsal.host_harness.process.errors import EnvironmentFailure\n"
        "try: debian.unpack('bookworm', ['dash'], Path(sys.argv[1]))\n"
        "except EnvironmentFailure as error: print(error); sys.exit(error.status)\n"
    )
    if shutil.which("mmdebstrap") is None:
        pytest.skip("needs mmdebstrap: apt-get install mmdebstrap")
    (tmp_path / "root").mkdir()
    command = [sys.executable, "-c", script, str(tmp_path / "root")]
    done = run_within(no_network, command)
    assert done.returncode == 3, done.stderr
    assert "cannot be fetched: no network. mmdebstrap said:" in done.stdout
    assert [path.name for path in tmp_path.rglob("*")] == ["root"]


def _fake_mmdebstrap(
    folder: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> Callable[[], Path]:
    program(folder / "mmdebstrap", script)
    program(folder / "apt-get", "exit 0")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    keys = folder / "keys.gpg"
    keys.write_text("")
    monkeypatch.setattr(host_tools, "KEYRING", keys)
    kind = build_cache.Kind("tree", needed=1000, hashed=False, keep=1)

    def build(staging: Path) -> dict[str, object]:
        (staging / "root").mkdir()
        return {"versions": debian.unpack("forky", ["dash"], staging / "root")}

    return lambda: build_cache.entry(kind, {}, build)


def test_space_that_ends_under_mmdebstrap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_root: Path
) -> None:
    said = "echo 'E: Write error - write (28: No space left on device)' >&2; exit 25"
    make = _fake_mmdebstrap(tmp_path, monkeypatch, said)
    with pytest.raises(EnvironmentFailure) as failure:
        make()
    assert str(failure.value).startswith("no space: making the tree needs 1 KB in ")
    assert "(28: No space left on device)" in str(failure.value)
    assert [path.name for path in (cache_root / "tree").iterdir()] == [".lock"]


def test_mmdebstrap_that_hangs_is_killed_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_root: Path
) -> None:
    monkeypatch.setattr(debian, "_EXTRACT_TIMEOUT_S", 0.5)
    make = _fake_mmdebstrap(
        tmp_path, monkeypatch, f"sleep 1000 & echo $! >{tmp_path}/pid; echo >$TMPDIR/left; wait"
    )
    with pytest.raises(EnvironmentFailure, match=r"took longer than 0\.5 s"):
        make()
    state = Path("/proc", (tmp_path / "pid").read_text().strip(), "stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] in "ZX"
    assert [path.name for path in (cache_root / "tree").iterdir()] == [".lock"]


def test_versions_that_were_resolved_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_root: Path
) -> None:
    make = _fake_mmdebstrap(tmp_path, monkeypatch, "echo deb:qemu_1%3a11.1-2_amd64.deb")
    assert manifest.read(make())["versions"] == {"qemu": "1:11.1-2"}
    assert cache_root.is_dir()


def test_missing_tool_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentFailure, match="xz is not installed") as failure:
        host_tools.run(["xz"], timeout_s=1)
    assert "apt-get install -y xz-utils" in failure.value.hint
    with pytest.raises(EnvironmentFailure, match="mmdebstrap is not installed"):
        debian.unpack("forky", ["dash"], tmp_path)


def test_missing_keys_are_told_before_the_network_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program(tmp_path / "mmdebstrap", "exit 9")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(host_tools, "KEYRING", tmp_path / "none.gpg")
    with pytest.raises(EnvironmentFailure, match="keys are not installed") as failure:
        debian.unpack("forky", ["dash"], tmp_path)
    assert "debian-archive-keyring" in failure.value.hint


def test_tool_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program(tmp_path / "cpio", 'echo "cpio: $1" >&2; exit 2')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(EnvironmentFailure, match="cpio failed with status 2; it said: cpio: bad"):
        host_tools.run(["cpio", "bad"], timeout_s=20)
    with pytest.raises(OSError, match="No space left on device") as failure:
        host_tools.run(["cpio", "write error: No space left on device"], timeout_s=20)
    assert failure.value.errno == errno.ENOSPC


# --- kernel and module


_MODINFO = b"license=GPL\0vermagic=6.1.0-56-cloud-amd64 SMP preempt mod_unload modversions \0"


def test_kernel_and_module_that_match(tmp_path: Path) -> None:
    (tmp_path / "m.ko").write_bytes(module(_MODINFO))
    (tmp_path / "vmlinux").write_bytes(b"\x7fELF Linux version 6.1.0-56-cloud-amd64 (x@y) #1\n\0")
    release = kernel_module.check(tmp_path / "vmlinux", tmp_path / "m.ko")
    assert release == "6.1.0-56-cloud-amd64"


def test_kernel_and_module_that_do_not_match_are_both_named(tmp_path: Path) -> None:
    (tmp_path / "m.ko").write_bytes(module(_MODINFO))
    (tmp_path / "vmlinux").write_bytes(b"\x7fELF Linux version 6.1.0-57-cloud-amd64 (x@y) #1\n\0")
    with pytest.raises(EnvironmentFailure) as failure:
        kernel_module.check(tmp_path / "vmlinux", tmp_path / "m.ko")
    assert "kernel is 6.1.0-57-cloud-amd64, m.ko was built for 6.1.0-56-" in str(failure.value)
    assert "make clean-cache" in failure.value.hint


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a 64-bit ELF file"),
        (b"\x7fELF\x02\x01", "unpack_from requires"),
        (module(_MODINFO)[:-100], "it is cut off"),
        (module(_MODINFO, b".text"), "no section .modinfo"),
        (module(b"license=GPL\0"), "no vermagic"),
        (module(b"vermagic=\0"), "no vermagic"),
    ],
)
def test_file_that_is_no_module(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "m.ko").write_bytes(content)
    with pytest.raises(EnvironmentFailure, match=f"not a kernel module: .*{said}"):
        kernel_module.vermagic(tmp_path / "m.ko")


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"Linux version \xff\xfe", b"Linux version "])
def test_file_that_is_no_kernel(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "vmlinux").write_bytes(content)
    with pytest.raises(EnvironmentFailure, match="not a Linux kernel"):
        kernel_module.release_of(tmp_path / "vmlinux")


def test_kernel_and_headers_of_two_versions(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "vmlinuz-6.1.0-57").write_text("")
    headers = tmp_path / "usr/src/linux-headers-6.1.0-56"
    headers.mkdir(parents=True)
    (headers / ".config").write_text("")
    with pytest.raises(EnvironmentFailure, match=r"kernel 6\.1\.0-57, headers 6\.1\.0-56"):
        kernel_tree.release_of(tmp_path, "bookworm")
    headers.rename(headers.with_name("linux-headers-6.1.0-57"))
    assert kernel_tree.release_of(tmp_path, "bookworm") == "6.1.0-57"


# --- QEMU


@pytest.mark.parametrize(
    ("help", "said"),
    [
        ("echo 'name \"e1000\", bus PCI'", "QEMU 7.2.0 has no vfio-user-pci device"),
        ("echo 'name \"vfio-user-pci\", bus PCI'", "QEMU 7.2.0 has no edu device"),
        ("kill -SEGV $$", "it crashes (SIGSEGV)"),
        ("exec sleep 1000", "it hangs: no answer within 0.5 s"),
        ("echo 'libfoo.so: not found' >&2; exit 127", "it fails: libfoo.so: not found"),
    ],
)
def test_foreign_qemu_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, help: str, said: str
) -> None:
    monkeypatch.setattr(qemu, "_PROBE_TIMEOUT_S", 0.5)
    fake = fake_qemu(tmp_path / "qemu", help)
    monkeypatch.setenv("QEMU", str(fake))
    with pytest.raises(EnvironmentFailure) as failure:
        qemu.find(lambda _text: None)
    assert f"QEMU={fake} cannot be used: {said}" in str(failure.value)
    assert "unset QEMU" in failure.value.hint


def test_qemu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QEMU", "/nonexistent/qemu")
    with pytest.raises(EnvironmentFailure, match="does not start: No such file"):
        qemu.find(lambda _text: None)


def test_qemu_on_the_path_without_vfio_user_is_passed_over_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = fake_qemu(tmp_path / "qemu-system-x86_64", "echo 'name \"e1000\", bus PCI'")
    monkeypatch.delenv("QEMU", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    notes: list[str] = []
    assert qemu.given(notes.append) is None
    assert notes == [
        f"{fake} is passed over for a private QEMU: QEMU 7.2.0 has no vfio-user-pci device"
    ]


def _private_qemu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scripts: list[str]
) -> tuple[list[str], Callable[[], qemu.Qemu]]:
    """Let each unpacking of QEMU give the next script; return the notes and ``find``."""
    monkeypatch.delenv("QEMU", raising=False)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    monkeypatch.setattr(qemu, "_PROBE_TIMEOUT_S", 5)
    monkeypatch.setattr(debian, "loader_command", lambda tree, _name: [str(tree / "qemu")])
    assert tmp_path.is_dir()

    def unpack(_suite: str, _packages: object, root: Path) -> dict[str, str]:
        fake_qemu(root / "qemu", scripts.pop(0), "11.1.2")
        return {"qemu-system-x86": "11.1.2"}

    monkeypatch.setattr(debian, "unpack", unpack)
    notes: list[str] = []
    return notes, lambda: qemu.find(notes.append)


_GOOD = "echo 'name \"vfio-user-pci\", bus PCI'; echo 'name \"edu\", bus PCI'"


@pytest.mark.usefixtures("cache_root")
def test_cached_qemu_that_does_not_work_any_more_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes, find = _private_qemu(tmp_path, monkeypatch, [_GOOD, _GOOD])
    find()
    binary = build_cache.entries(build_cache.QEMU)[0] / "root" / "qemu"
    binary.write_text(binary.read_text().replace("vfio-user-pci", "nothing-of-it"))  # same size
    assert manifest.fault_of(binary.parent.parent) is None
    assert find().version == "11.1.2"
    assert any("the cached QEMU is broken (QEMU 11.1.2 has no" in note for note in notes)


def test_cached_qemu_that_works_is_probed_once_in_a_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_root: Path
) -> None:
    _notes, find = _private_qemu(tmp_path, monkeypatch, [_GOOD])
    made = find()
    probes: list[tuple[str, ...]] = []
    real = qemu._probe

    def probe(command: tuple[str, ...], origin: str, environment: dict[str, str]) -> qemu.Qemu:
        probes.append(command)
        return real(command, origin, environment)

    monkeypatch.setattr(qemu, "_probe", probe)
    assert find() == find() == made
    assert made.version == "11.1.2"
    assert probes == []
    assert qemu.cached() == made, "doctor looks for itself"
    assert probes == [made.command]
    os.utime(made.command[0])
    assert find() == made
    assert probes == [made.command] * 2
    build_cache.release()
    cache_cleaning.clean()
    assert not cache_root.exists()


@pytest.mark.usefixtures("cache_root")
def test_cache_that_takes_no_note_has_its_qemu_probed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _notes, find = _private_qemu(tmp_path, monkeypatch, [_GOOD])
    (build_cache.cache_root()).mkdir()
    (build_cache.cache_root() / build_cache.PROBED_FOLDER).touch()  # a file where a folder belongs
    assert find() == find()


@pytest.mark.usefixtures("cache_root")
def test_no_suite_with_vfio_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _notes, find = _private_qemu(tmp_path, monkeypatch, ["echo nothing", "kill -ABRT $$"])
    with pytest.raises(EnvironmentFailure) as failure:
        find()
    assert "Debian forky: QEMU 11.1.2 has no vfio-user-pci device" in str(failure.value)
    assert "Debian sid: it crashes (SIGABRT)" in str(failure.value)
    assert "set QEMU to" in failure.value.hint


# --- ways of building the driver


def test_unknown_way_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMA_REHEARSAL_BUILD", "magic")
    with pytest.raises(UsageError, match="DMA_REHEARSAL_BUILD=magic") as failure:
        driver_build.choose()
    assert "chroot, userns, host" in failure.value.hint


@pytest.mark.parametrize("way", Way)
def test_forced_way_that_does_not_work_is_status_3(
    monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    monkeypatch.setenv("DMA_REHEARSAL_BUILD", way)
    monkeypatch.setattr(driver_build, "unavailable_reason", lambda asked: f"no {asked} here")
    with pytest.raises(EnvironmentFailure) as failure:
        driver_build.choose()
    said = str(failure.value)
    assert f"DMA_REHEARSAL_BUILD={way}, but that does not work here: no {way} here" in said
    assert failure.value.hint.startswith("unset DMA_REHEARSAL_BUILD")


@pytest.mark.parametrize(
    ("working", "expected"),
    [
        ([Way.CHROOT, Way.USERNS, Way.HOST], Way.CHROOT),
        ([Way.USERNS, Way.HOST], Way.USERNS),
        ([Way.HOST], Way.HOST),
    ],
)
def test_first_way_that_works_is_taken(
    monkeypatch: pytest.MonkeyPatch, working: list[Way], expected: Way
) -> None:
    monkeypatch.delenv("DMA_REHEARSAL_BUILD", raising=False)
    monkeypatch.setattr(
        driver_build, "unavailable_reason", lambda way: None if way in working else "no"
    )
    assert driver_build.choose() is expected


def test_no_way_at_all_names_every_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DMA_REHEARSAL_BUILD", raising=False)
    monkeypatch.setattr(driver_build, "unavailable_reason", lambda way: f"because of {way}")
    with pytest.raises(EnvironmentFailure) as failure:
        driver_build.choose()
    assert all(f"{way}: because of {way}" in str(failure.value) for way in Way)
    assert "gcc" in failure.value.hint


def test_ordinary_user_may_not_chroot(ordinary_user: OrdinaryUser) -> None:
    command = [ordinary_user.python, "-c", REASON_OF_WAY.format(way="chroot")]
    done = run_within(ordinary_user.wrapper, command)
    assert done.stdout == "only root may enter a chroot\n"


def test_user_namespaces_that_are_refused_are_noticed(own_mounts: list[str]) -> None:
    """The kernel's own limit, set to 0 for a user namespace and all that is made in it."""
    script = (
        "echo 0 >/proc/sys/user/max_user_namespaces || exit 77; "
        f'exec "{sys.executable}" -c "{REASON_OF_WAY.format(way="userns")}"'
    )
    wrapper = ["unshare", "--user", "--map-root-user", "--mount"]
    if run_within(wrapper, ["true"]).returncode != 0:
        pytest.skip("needs user namespaces to take them away: sysctl user.max_user_namespaces")
    done = run_within(wrapper, ["sh", "-c", script])
    assert own_mounts
    if done.returncode == 77:
        pytest.skip("the limit of user namespaces cannot be set here")
    assert "max_user_namespaces is 0" in done.stdout, done.stderr


def test_namespaces_that_allow_no_mount_are_no_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Ubuntu: unshare succeeds, and what the way needs is refused then."""
    program(tmp_path / "unshare", "echo 'mount: /tmp: permission denied.' >&2; exit 32")
    monkeypatch.setattr(driver_build, "_ENVIRONMENT", {"PATH": f"{tmp_path}:/usr/bin:/bin"})
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert "permission denied" in (driver_build.unavailable_reason(Way.USERNS) or "")


def test_host_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "not installed: gcc, make" in (driver_build.unavailable_reason(Way.HOST) or "")
