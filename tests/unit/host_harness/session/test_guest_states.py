# SPDX-License-Identifier: Apache-2.0
"""Keys and choice of saved states: what differs between two runs is in a key, or is told again."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.device.layout.faults import FAULTS
from dma_rehearsal.host_harness.environment import build_cache, payload
from dma_rehearsal.host_harness.environment.guest_image import Image
from dma_rehearsal.host_harness.environment.payload import Delta, GuestTests, Payload
from dma_rehearsal.host_harness.environment.qemu import Qemu
from dma_rehearsal.host_harness.environment.user_packages import UserPackages
from dma_rehearsal.host_harness.machine import saved_state
from dma_rehearsal.host_harness.machine.plugged_functions import PluggedFunction
from dma_rehearsal.host_harness.machine.saved_state import StateUnusable
from dma_rehearsal.host_harness.options import run_options
from dma_rehearsal.host_harness.session import guest_states
from dma_rehearsal.host_harness.session.agent_client import Request
from dma_rehearsal.host_harness.session.guest_states import Plan, StartKind, TooLarge
from tests.unit.host_harness import images

QEMU = Qemu(("qemu",), "11.1", "test")
TESTS = GuestTests()


def image(name: str = "0123456789abcdef") -> Image:
    return images.image(Path("/cache/image", name))


def booted_key(
    given: dict[str, str] | None = None,
    *,
    qemu: Qemu = QEMU,
    of: Image | None = None,
    accelerator: str = "tcg",
    isolated: bool = True,
) -> dict[str, Any]:
    options = run_options.parse(given or {})
    return guest_states.booted_key(qemu, of or image(), accelerator, options, isolated=isolated)


def collected_key(
    given: dict[str, str] | None = None, digest: str = "abc", **request: Any
) -> dict[str, Any]:
    options = run_options.parse(given or {})
    asked = Request(request.pop("tests", TESTS), **request)
    return guest_states.collected_key(booted_key(given), digest, asked, options)


def test_other_functions_need_another_state() -> None:
    """The guest finds those again that it has given up, each at its address."""

    def key(*places: tuple[int, int], folder: str = "a") -> dict[str, Any]:
        functions = [PluggedFunction(*place, Path(folder)) for place in places]
        options = run_options.parse({"endpoint": "a:A"})
        return guest_states.booted_key(QEMU, image(), "tcg", options, functions, isolated=True)

    assert key((0, 0)) == key((0, 0), folder="b") == booted_key({"endpoint": "a:A"})
    assert key((0, 0)) != key((0, 0), (0, 1))
    assert key((0, 0), (0, 1)) != key((0, 0), (1, 0)) == booted_key({"endpoint": "a:A,b:B"})


SAME_BOOT = [
    {"seed": "5"},
    {"order": "shuffled"},
    {"place": "hostile"},
    {"profile": "nvme"},
    {"coherent": "no"},
    {"deadline": "test=5,kernel=7"},
    {"vms": "2"},
    {"keep": "1"},
    {"append": "rehearsal.soak=1"},
    {"fault": "boundary-crossed"},
    {"state": "booted"},
]


@pytest.mark.parametrize("given", SAME_BOOT, ids=str)
def test_option_that_a_boot_does_not_see_is_not_in_its_key(given: dict[str, str]) -> None:
    assert booted_key(given) == booted_key()


@pytest.mark.parametrize(
    "given",
    [{"iommu": "intel"}, {"endpoint": "timer:Timer"}, {"fault": "driver-aliases"}],
    ids=str,
)
def test_option_that_a_boot_sees_is_in_its_key(given: dict[str, str]) -> None:
    assert booted_key(given) != booted_key()


def test_boot_depends_on_image_isolation_accelerator_and_boot_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = booted_key()
    assert first == booted_key()
    assert first != booted_key(of=image("fedcba9876543210"))
    assert first != booted_key(isolated=False)
    assert first != booted_key(accelerator="kvm")
    monkeypatch.setattr(payload, "boot_files_digest", lambda: "another")
    assert first != booted_key()


def test_boot_depends_on_the_contents_of_the_packages() -> None:
    def added(digest: str) -> Image:
        return replace(image(), packages=UserPackages(Path("/x"), digest, {"fio": "3"}))

    assert "packages" not in booted_key()  # states from before there were packages are of use
    assert booted_key(of=added("one")) == booted_key(of=added("one")) != booted_key()
    assert booted_key(of=added("one")) != booted_key(of=added("two"))


def test_boot_depends_on_qemus_version_and_file_not_on_its_place(tmp_path: Path) -> None:
    program = tmp_path / "a" / "qemu-system-x86_64"
    program.parent.mkdir()
    program.write_text("one")
    moved = tmp_path / "b"
    first = booted_key(qemu=Qemu((str(program),), "11.1", "PATH"))
    assert first != booted_key(qemu=Qemu((str(program),), "11.2", "PATH"))
    program.parent.rename(moved)
    program = moved / program.name
    assert first == booted_key(qemu=Qemu((str(program),), "11.1", "PATH"))
    program.write_text("another")
    assert first != booted_key(qemu=Qemu((str(program),), "11.1", "PATH"))


def test_boot_depends_on_qemus_firmware_and_modules(tmp_path: Path) -> None:
    for name in "qemu", "firmware", "modules", "usr/bin", "usr/share/seabios":
        (tmp_path / name).mkdir(parents=True)
    private = Qemu(
        (str(tmp_path / "loader"), str(tmp_path / "qemu-system"), "-L", str(tmp_path / "firmware")),
        *("11.1", "private"),
        {"QEMU_MODULE_DIR": str(tmp_path / "modules")},
    )
    program = tmp_path / "usr/bin/qemu-system-x86_64"
    program.write_text("")
    installed = Qemu((str(program),), "11.1", "PATH")
    seen = [(booted_key(qemu=private), booted_key(qemu=installed))]
    for name in "loader", "qemu-system", "firmware/bios.bin", "modules/accel.so":
        (tmp_path / name).write_text(name)
        seen.append((booted_key(qemu=private), booted_key(qemu=installed)))
        assert seen[-1][0] not in [key for key, _ in seen[:-1]]
        assert seen[-1][1] == seen[0][1]
    (tmp_path / "usr/share/seabios/bios.bin").write_text("another")
    assert booted_key(qemu=installed) != seen[0][1]
    assert booted_key(qemu=private) == seen[-1][0]


CPUINFO = """\
processor	: 0
vendor_id	: GenuineIntel
cpu family	: 6
model		: 85
model name	: Some CPU
stepping	: 7
microcode	: 0x1
flags		: fpu sse
cpu MHz		: 2800.1

processor	: 1
model name	: Some CPU
cpu MHz		: 1200.5
"""


@pytest.mark.parametrize(
    ("accelerator", "old", "new", "differs"),
    [
        ("tcg", "Some CPU", "Another CPU", True),
        ("tcg", "stepping	: 7", "stepping	: 8", True),
        ("tcg", "0x1", "0x2", False),
        ("kvm", "0x1", "0x2", True),
        ("tcg", "fpu sse", "fpu sse avx", False),
        ("kvm", "fpu sse", "fpu sse avx", True),
        ("kvm", "2800.1", "2100.0", False),
    ],
)
def test_host_is_its_cpu_and_with_kvm_its_flags_and_microcode(
    tmp_path: Path, accelerator: str, old: str, new: str, differs: bool
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.write_text(CPUINFO)
    after.write_text(CPUINFO.replace(old, new))
    found = [guest_states.host_identity(accelerator, path) for path in (before, after)]
    assert (found[0] != found[1]) is differs
    assert ("kernel" in found[0]) is (accelerator == "kvm")


@pytest.mark.parametrize("accelerator", ["tcg", "kvm"])
def test_host_is_this_machine_whose_id_is_not_shown(tmp_path: Path, accelerator: str) -> None:
    cpuinfo, one, same, other = (tmp_path / name for name in ("cpuinfo", "one", "same", "other"))
    cpuinfo.write_text(CPUINFO)
    for path, text in (one, "ab12\n"), (same, "ab12\n"), (other, "cd34\n"):
        path.write_text(text)
    first, second, third, without = (
        guest_states.host_identity(accelerator, cpuinfo, path)
        for path in (one, same, other, tmp_path / "missing")
    )
    assert first == second != third
    assert "machine" not in without
    assert "ab12" not in str(first)


@pytest.mark.parametrize(
    "given",
    [
        *({"seed": "5"}, {"order": "shuffled"}, {"deadline": "kernel=7"}, {"vms": "2"}),
        *({"fault": "boundary-crossed"}, {"keep": "1"}),
    ],
    ids=str,
)
def test_option_that_no_collection_sees_is_not_in_its_key(given: dict[str, str]) -> None:
    """The seed is told again when the guest goes on."""
    assert collected_key(given) == collected_key()


@pytest.mark.parametrize(
    "given",
    [
        *({"profile": "nvme"}, {"coherent": "no"}, {"iommu": "intel"}),
        *({"endpoint": "timer:Timer"}, {"append": "rehearsal.soak=1"}),
    ],
    ids=str,
)
def test_option_that_a_collection_sees_is_in_its_key(given: dict[str, str]) -> None:
    assert collected_key(given) != collected_key()


def test_endpoints_have_states_of_their_own() -> None:
    first, second = ({"endpoint": f"timer:{name}"} for name in ("Timer", "Other"))
    assert booted_key(first) == booted_key(second)
    assert collected_key(first) != collected_key(second)


USERS = GuestTests(Path("/a/project"), ("tests",))
ENDPOINT = {"endpoint": "mine.device:Device"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in the current folder, with an endpoint."""
    for name, text in {"device": "import mine.sizes\n", "sizes": "SIZE = 1\n", "other": ""}.items():
        path = tmp_path / "mine" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mine"


@pytest.mark.parametrize("name", ["device.py", "sizes.py", "registers.toml"])
def test_users_tests_may_read_the_endpoint_while_they_are_collected(
    project: Path, name: str
) -> None:
    before = collected_key(ENDPOINT, tests=USERS)
    assert collected_key(ENDPOINT, tests=USERS) == before
    with (project / name).open("a") as file:
        file.write("# an edit\n")
    assert collected_key(ENDPOINT, tests=USERS) != before


@pytest.mark.parametrize("name", ["other.py", "notes.md", "device.pyc"])
def test_file_that_is_not_the_endpoints_is_in_no_key(project: Path, name: str) -> None:
    before = collected_key(ENDPOINT, tests=USERS)
    with (project / name).open("a") as file:
        file.write("# an edit\n")
    assert collected_key(ENDPOINT, tests=USERS) == before


def test_users_tests_may_read_this_projects_devices_and_its_own_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    users, own = collected_key(tests=USERS), collected_key()
    digest = build_cache.digest_of_files
    monkeypatch.setattr(
        build_cache,
        "digest_of_files",
        lambda root: "edited" if root.name == "device" else digest(root),
    )
    assert collected_key(tests=USERS) != users
    assert collected_key() == own


def test_fault_of_a_device_may_be_seen_by_users_tests_alone(cache: Cache) -> None:
    fault = {"fault": "boundary-crossed"}
    cache.add(build_cache.BOOTED, booted_key(), {"files": {}})
    cache.add(build_cache.COLLECTED, collected_key(tests=USERS), {"collected": {}})
    request = Request(USERS)
    assert planned({}, request).start.kind is StartKind.COLLECTED
    found = planned(fault, request)
    assert (found.start.kind, *saved(found)) == (StartKind.BOOTED, False, False)


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "another"},
        {"arguments": ("--runxfail",)},
        {"fault": "allocator-blocks-anywhere"},
        {"iommu": True},
        {"limit_s": 5.0},
        {"place": "hostile"},
        {"tests": GuestTests(selected=("suite/test_device.py",))},
        {"tests": GuestTests(Path("/a/project"), ("tests",))},
    ],
    ids=str,
)
def test_whatever_a_request_says_is_in_its_key(change: dict[str, Any]) -> None:
    assert collected_key(**change) != collected_key()


def test_key_is_a_json_value_that_a_manifest_returns_as_it_was() -> None:
    key = collected_key({"profile": "nvme"}, arguments=("--tb=long",))
    assert build_cache.digest_of(json.loads(json.dumps(key))) == build_cache.digest_of(key)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"state": "no"}, "STATE=no"),
        ({"boot": "bzimage"}, "BOOT=bzimage"),
        ({"append": "rehearsal.soak=1 pti=on"}, "APPEND=pti=on"),
        ({"gdb": "1"}, "GDB=1"),
        ({"fault": "driver-aliases"}, "FAULT=driver-aliases"),
        *(
            ({"fault": each.name}, f"FAULT={each.name}")
            for each in FAULTS
            if each.parameter and each.name != "driver-aliases"
        ),
    ],
    ids=str,
)
def test_run_that_is_about_the_boot_boots(given: dict[str, str], words: str) -> None:
    assert words in guest_states.why_cold(run_options.parse(given))


@pytest.mark.parametrize("given", [{}, {"iommu": "intel"}, {"boot": "pvh"}, *SAME_BOOT], ids=str)
def test_other_runs_may_start_from_a_state(given: dict[str, str]) -> None:
    assert guest_states.why_cold(run_options.parse(given)) == ""


class Cache:
    """Saved states that are there: a folder for a key."""

    def __init__(self, folder: Path) -> None:
        self.states: dict[str, Path] = {}
        self.facts: dict[Path, dict[str, Any]] = {}
        self.discarded: list[Path] = []
        self._folder = folder

    def add(self, kind: build_cache.Kind, key: dict[str, Any], facts: dict[str, Any]) -> Path:
        folder = self._folder / kind.name
        self.states[build_cache.digest_of([kind.name, key])] = folder
        self.facts[folder] = facts
        return folder

    def use(self, kind: build_cache.Kind, key: dict[str, Any]) -> Path | None:
        return self.states.get(build_cache.digest_of([kind.name, key]))

    def read(self, folder: Path) -> dict[str, Any]:
        if not self.facts[folder]:
            raise StateUnusable("facts.json is damaged")
        return self.facts[folder]

    def discard(self, folder: Path) -> bool:
        self.discarded.append(folder)
        return True


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    found = Cache(tmp_path)
    monkeypatch.setattr(build_cache, "use", found.use)
    monkeypatch.setattr(build_cache, "discard", found.discard)
    monkeypatch.setattr(saved_state, "facts", found.read)
    monkeypatch.setattr(payload, "digest", lambda _tree, _tests, *_: "abc")
    monkeypatch.setattr(payload, "make", lambda _tree, _tests, *_: Payload(tmp_path, "abc"))
    boot_files = payload.boot_files_digest()
    monkeypatch.setattr(Payload, "boot_files_digest", lambda _self: boot_files)
    monkeypatch.setattr(payload, "delta", lambda _old, _new: Delta([], [("a.py", 0o644, b"x")]))
    return found


def planned(
    given: dict[str, str] | None = None,
    request: Request | None = Request(TESTS),  # noqa: B008 - frozen
    *,
    shells: bool = False,
) -> Plan:
    return guest_states.plan(
        *(run_options.parse(given or {}), QEMU, image(), "tcg", TESTS, request),
        isolated=True,
        shells=shells,
    )


def saved(found: Plan) -> tuple[bool, bool]:
    return found.booted is not None, found.collected is not None


@pytest.mark.usefixtures("cache")
def test_without_a_state_a_run_boots_and_saves_both() -> None:
    found = planned()
    assert found.start.kind is StartKind.COLD
    assert saved(found) == (True, True)
    assert found.collects_detached
    assert planned(request=None).booted
    assert not planned(request=None).collected


@pytest.mark.usefixtures("cache")
def test_source_that_is_edited_while_a_run_begins_is_saved_as_what_is_tested(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(payload, "digest", lambda _tree, _tests, *_: "before the edit")
    assert planned().collected == collected_key(digest="abc")


@pytest.mark.usefixtures("cache")
def test_boot_file_that_is_edited_while_a_run_begins_makes_it_boot_unsaved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Payload, "boot_files_digest", lambda _self: "another")
    found = planned()
    assert found.start.kind is StartKind.COLD
    assert "edited" in found.start.reason
    assert saved(found) == (False, False)


def test_booted_state_is_brought_up_to_date_and_saved_with_its_tests(cache: Cache) -> None:
    folder = cache.add(build_cache.BOOTED, booted_key(), {"files": {}})
    found = planned()
    assert (found.start.kind, found.state) == (StartKind.BOOTED, folder)
    assert [message["files"] for message in found.files] == [[["a.py", 0o644, "eA=="]]]
    assert saved(found) == (False, True)


def test_collected_state_needs_no_payload(cache: Cache) -> None:
    cache.add(build_cache.BOOTED, booted_key(), {"files": {}})
    folder = cache.add(build_cache.COLLECTED, collected_key(), {"collected": {}})
    found = planned()
    assert (found.start.kind, found.state, found.payload) == (StartKind.COLLECTED, folder, None)
    assert planned({"fault": "boundary-crossed"}).start.kind is StartKind.COLLECTED
    # Another request: its tests are collected by a guest that is only booted.
    other = planned(request=Request(TESTS, place="hostile"))
    assert (other.start.kind, other.collected is not None) == (StartKind.BOOTED, True)
    # A shell, a fixture: nothing is collected.
    assert planned(request=None).start.kind is StartKind.BOOTED


def test_a_fault_saves_nothing_and_the_guests_collects_anew(cache: Cache) -> None:
    for fault in "boundary-crossed", "allocator-blocks-anywhere":
        assert saved(planned({"fault": fault})) == (False, False)
    cache.add(build_cache.BOOTED, booted_key(), {"files": {}})
    cache.add(build_cache.COLLECTED, collected_key(), {"collected": {}})
    name = "allocator-blocks-anywhere"
    found = planned({"fault": name}, Request(TESTS, fault=name))
    assert found.start.kind is StartKind.BOOTED
    assert saved(found) == (False, False)


def test_state_booted_neither_uses_nor_saves_collected_tests(cache: Cache) -> None:
    assert saved(planned({"state": "booted"})) == (True, False)
    cache.add(build_cache.BOOTED, booted_key(), {"files": {}})
    cache.add(build_cache.COLLECTED, collected_key(), {"collected": {}})
    found = planned({"state": "booted"})
    assert found.start.kind is StartKind.BOOTED
    assert saved(found) == (False, False)
    assert not found.collects_detached


def test_state_no_neither_uses_nor_saves_any(cache: Cache) -> None:
    cache.add(build_cache.BOOTED, booted_key(), {"files": {}})
    cache.add(build_cache.COLLECTED, collected_key(), {"collected": {}})
    found = planned({"state": "no"})
    assert (found.start.kind, found.start.reason) == (StartKind.COLD, "STATE=no")
    assert (found.state, *saved(found)) == (None, False, False)


def test_guest_with_shells_is_not_saved_once_they_run(cache: Cache) -> None:
    assert saved(planned({"keep": "1"}, shells=True)) == (True, False)
    cache.add(build_cache.COLLECTED, collected_key(), {"collected": {}})
    assert planned({"keep": "1"}, shells=True).start.kind is StartKind.COLLECTED


@pytest.mark.usefixtures("cache")
def test_users_tests_are_collected_with_devices_attached() -> None:
    request = Request(GuestTests(Path("/a/project"), ("tests",)))
    assert not planned(request=request).collects_detached


def test_damaged_state_is_thrown_away_for_the_next_best(cache: Cache) -> None:
    booted = cache.add(build_cache.BOOTED, booted_key(), {"files": {}})
    collected = cache.add(build_cache.COLLECTED, collected_key(), {})
    assert planned().state == booted
    assert cache.discarded == [collected]
    cache.facts[booted] = {}
    assert planned().state is None
    assert planned().start.kind is StartKind.COLD


def test_state_of_no_use_is_thrown_away_for_a_boot_that_saves_nothing(cache: Cache) -> None:
    folder = cache.add(build_cache.COLLECTED, collected_key(), {"collected": {}})
    failed = planned()
    options = run_options.parse({})
    found = guest_states.give_up(failed, options, image(), TESTS, "it does not load")
    assert cache.discarded == [folder]
    assert (found.start.kind, found.state, *saved(found)) == (StartKind.COLD, None, False, False)
    assert "it does not load" in found.start.reason
    assert found.request == failed.request


def test_file_that_no_message_holds_makes_the_run_boot(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.add(build_cache.BOOTED, booted_key(), {"files": {}})
    large = Delta([], [("project/data.bin", 0o644, bytes(12 << 20))])
    monkeypatch.setattr(payload, "delta", lambda _old, _new: large)
    found = planned()
    assert found.start.kind is StartKind.COLD
    assert "project/data.bin" in found.start.reason


def test_messages_hold_some_megabytes_each_and_the_first_removes() -> None:
    files = [(f"{number}.bin", 0o600, bytes([number]) * (3 << 20)) for number in range(3)]
    messages = list(guest_states.file_messages(Delta(["old.py"], files)))
    assert [message["remove"] for message in messages] == [["old.py"], [], []]
    sent = [tuple(each) for message in messages for each in message["files"]]
    assert sent == [(path, mode, base64.b64encode(data).decode()) for path, mode, data in files]
    assert list(guest_states.file_messages(Delta([], []))) == []
    assert [each["remove"] for each in guest_states.file_messages(Delta(["a"], []))] == [["a"]]
    with pytest.raises(TooLarge, match=r"b\.bin"):
        list(guest_states.file_messages(Delta([], [("b.bin", 0o600, bytes(12 << 20))])))


def test_words_of_the_last_line() -> None:
    assert [kind.words for kind in StartKind] == [
        *("booted cold", "restored: booted", "restored: tests collected"),
    ]
    assert replace(guest_states.Start(StartKind.COLD), reason="x").kind.words == "booted cold"
