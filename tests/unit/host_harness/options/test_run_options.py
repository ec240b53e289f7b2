# SPDX-License-Identifier: Apache-2.0
"""Options: one table, checked once, wherever they come from."""

from __future__ import annotations

import math
import os
import shlex
from pathlib import Path

import pytest

from dma_rehearsal.device.exerciser import profile
from dma_rehearsal.host_harness import faults
from dma_rehearsal.host_harness.options import run_options
from dma_rehearsal.host_harness.options.replay import VARIABLES, Replay
from dma_rehearsal.host_harness.options.run_options import OPTIONS
from dma_rehearsal.host_harness.process import deadlines
from dma_rehearsal.host_harness.process.errors import UsageError


@pytest.fixture(autouse=True)
def _environment_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay names the settings that are in the environment; here it has none."""
    for name in [*os.environ]:
        if name in VARIABLES or name.startswith("DMA_REHEARSAL_"):
            monkeypatch.delenv(name)


def test_nothing_given_is_a_sound_run_with_a_random_seed() -> None:
    first, second = run_options.parse({}), run_options.parse({"seed": ""})
    assert (first.accel, first.fault, first.keep, first.gdb) == (None, None, False, False)
    assert first.deadlines == deadlines.DEFAULTS_S
    assert first.vms is None
    assert first.seed != second.seed
    assert run_options.parse({"vms": "16"}).vms == 16
    assert first.state == run_options.parse({"state": "auto"}).state == run_options.AUTO
    for state in run_options.BOOTED, run_options.NO:
        assert run_options.parse({"state": state}).state == state


def test_everything_given() -> None:
    given = run_options.parse(
        {
            "accel": "tcg",
            "fault": "report-lost",
            "seed": "0x10",
            "boot": "bzimage",
            "append": "pti=on  x=1",
            "deadline": "test=5, kernel=0",
            "keep": "1",
            "vms": "1",
        }
    )
    assert given.fault
    assert given.fault.name == "report-lost"
    assert (given.accel, given.seed, given.append) == ("tcg", 16, ("pti=on", "x=1"))
    assert (given.deadlines["test"], given.deadlines["kernel"]) == (5, math.inf)
    assert (given.keep, given.vms) == (True, 1)
    assert given.boot == "bzimage"


def test_modules_are_paths_with_colons_between_them() -> None:
    given = run_options.parse({"module": "drv:../lib/ring.c", "driver": "virtio-net"})
    assert given.modules == ("drv", "../lib/ring.c")
    assert given.driver == "virtio-net"
    assert run_options.parse({}).modules == ()
    assert not given.rehearse
    assert run_options.parse({"driver": "nvme", "rehearse": "1"}).rehearse


def test_hotplug_is_for_an_endpoint() -> None:
    assert run_options.parse({"hotplug": "1", "endpoint": "my_device:Mine"}).hotplug
    assert not run_options.parse({"endpoint": "my_device:Mine"}).hotplug


def test_names_are_lists_with_commas() -> None:
    given = run_options.parse({"packages": "fio, e2fsprogs,fio,g++", "kernel_modules": "xfs,nls-x"})
    assert given.packages == ("fio", "e2fsprogs", "g++")
    assert given.kernel_modules == ("xfs", "nls-x")
    assert run_options.parse({}).packages == run_options.parse({}).kernel_modules == ()


def test_name_of_an_option_on_pytests_command_line() -> None:
    flags = {option.name: option.flag for option in OPTIONS}
    assert flags["accel"] == "--vm-accel"
    assert flags["kernel_modules"] == "--vm-kernel-modules"


def test_debugger_takes_the_deadlines_away_but_for_those_that_are_named() -> None:
    limits = run_options.parse({"gdb": "1", "deadline": "shutdown=3"}).deadlines
    assert limits["test"] == math.inf
    assert limits["shutdown"] == 3


def test_fault_that_hangs_has_a_short_deadline_of_its_own() -> None:
    assert run_options.parse({"fault": "test-never-ends"}).deadlines["test"] == 20


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"accel": "warp"}, "ACCEL=warp"),
        ({"boot": "uefi"}, "BOOT=uefi"),
        ({"state": "yes"}, "STATE=yes"),
        ({"fault": "nonsense"}, "no fault 'nonsense'"),
        ({"seed": "many"}, "SEED=many"),
        ({"seed": "-1"}, "SEED=-1"),
        ({"seed": str(1 << 64)}, "SEED="),
        ({"deadline": "lunch=5"}, "'lunch=5'"),
        ({"deadline": "test"}, "'test'"),
        ({"deadline": "test=soon"}, "'test=soon'"),
        ({"deadline": "test=-1"}, "'test=-1'"),
        ({"deadline": "test=nan"}, "'test=nan'"),
        ({"deadline": "test=inf"}, "'test=inf'"),
        ({"keep": "perhaps"}, "KEEP=perhaps"),
        ({"gdb": "2"}, "GDB=2"),
        ({"vms": "0"}, "VMS=0"),
        ({"vms": "17"}, "VMS=17"),
        ({"vms": "two"}, "VMS=two"),
        ({"vms": "٢"}, "VMS="),
        ({"vms": "2", "keep": "1"}, "KEEP and GDB are for one VM"),
        ({"vms": "2", "gdb": "1"}, "KEEP and GDB are for one VM"),
        ({"module": "a::b"}, "MODULE=a::b"),
        ({"driver": "drivers/nvme"}, "DRIVER=drivers/nvme is not a name"),
        ({"packages": "fio:e2fsprogs"}, "PACKAGES=fio:e2fsprogs: 'fio:e2fsprogs' is not a name"),
        ({"packages": "fio,"}, "'' is not a name that a Debian package can have"),
        ({"packages": "Fio"}, "PACKAGES=Fio"),
        ({"packages": "fio-"}, "PACKAGES=fio-"),
        ({"packages": "--x"}, "PACKAGES=--x"),
        ({"kernel_modules": "fs/xfs"}, "KERNEL_MODULES=fs/xfs: 'fs/xfs' is not a name"),
        ({"rehearse": "1"}, "REHEARSE=1 rehearses a kernel driver, and none"),
        ({"hotplug": "1"}, "HOTPLUG=1 plugs an endpoint into a slot, and none is named"),
        ({"hotplug": "perhaps", "endpoint": "a:B"}, "HOTPLUG=perhaps"),
        ({"rehearse": "perhaps", "driver": "nvme"}, "REHEARSE=perhaps"),
        ({"colour": "red"}, "'colour'"),
        ({"profile": "nvmes"}, "PROFILE=nvmes: there is no profile 'nvmes'; do you mean nvme"),
        ({"profile": "no/such.toml"}, "no/such.toml: No such file"),
        ({"coherent": "perhaps"}, "COHERENT=perhaps"),
        ({"coherent": "yes", "endpoint": "a:B"}, "ENDPOINT takes its place"),
        ({"profile": "nvme", "endpoint": "a:B,a:C"}, "PROFILE=nvme describes one device"),
        ({"profile": "soc-30", "endpoint": "a:B"}, "PROFILE=soc-30 is not coherent"),
    ],
)
def test_what_cannot_be_is_a_usage_error(given: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        run_options.parse(given)
    assert error.value.hint


GIVEN = {"seed": "7", "fault": "report-lost", "append": "a=1 b=2", "keep": "1"}


def test_replay_names_options_seed_and_the_tests_that_failed() -> None:
    replay = Replay(
        ["python", "-m", "dma_rehearsal.host_harness", "test"], ["-k", "x and y"], Path("/a b")
    )
    command = replay.command(run_options.parse(GIVEN), ["suite/test_x.py::test_y[1-2]"])
    assert shlex.split(command) == [
        *("cd", "/a b", "&&", "FAULT=report-lost", "SEED=7", "APPEND=a=1 b=2", "KEEP=1"),
        *("python", "-m", "dma_rehearsal.host_harness", "test", "suite/test_x.py::test_y[1-2]"),
    ]
    assert shlex.split(replay.command(run_options.parse({}), []))[-2:] == ["-k", "x and y"]


def test_replay_in_any_projects_pytest_uses_its_options() -> None:
    replay = Replay(["pytest"], ["--vm", "guest_tests"], Path("/p"), root=Path("/p"))
    command = replay.command(run_options.parse(GIVEN), ["guest_tests/test_x.py::test_y"])
    assert shlex.split(command)[3:] == [
        *("pytest", "--vm-fault=report-lost", "--vm-seed=7", "--vm-append=a=1 b=2", "--vm-keep"),
        "--vm=guest_tests/test_x.py::test_y",
    ]


def test_replay_finds_its_tests_from_the_folder_that_pytest_was_started_in() -> None:
    replay = Replay(["pytest"], [], Path("/p/sub"), root=Path("/p"))
    command = replay.command(run_options.parse({}), ["g/test_x.py::test_y[a::b]"])
    assert shlex.split(command)[-1] == "--vm=../g/test_x.py::test_y[a::b]"


def test_replay_keeps_every_option_but_what_selects_tests() -> None:
    arguments = [
        "-k",
        "x",
        "-x",
        "--lf",
        "--tb=long",
        "-mslow",
        "a.py",
        "--deselect=b",
        "-p",
        "mine",
    ]
    replay = Replay(["run"], arguments, Path("/"), positional=("a.py",))
    words = shlex.split(replay.command(run_options.parse({}), ["c.py::test"]))
    assert words[words.index("run") :] == ["run", "-x", "--tb=long", "-p", "mine", "c.py::test"]
    words = shlex.split(replay.command(run_options.parse({}), []))
    assert words[words.index("run") + 1 :] == arguments


def test_replay_names_the_random_seed_and_the_environments_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QEMU", "/opt/my qemu")
    drawn = run_options.parse({})
    words = shlex.split(Replay(["run"], [], Path("/")).command(drawn, []))
    assert words[3:] == [f"SEED={drawn.seed}", "QEMU=/opt/my qemu", "run"]


def test_profile_and_its_coherence() -> None:
    assert run_options.parse({}).profile == profile.PLAIN
    assert run_options.parse({"profile": "soc-30"}).profile == profile.find("soc-30")
    found = run_options.parse({"profile": "soc-30", "coherent": "yes"}).profile
    assert (found.name, found.coherent) == ("soc-30", True)
    assert not run_options.parse({"coherent": "no"}).profile.coherent


def test_many_failures_are_replayed_by_the_selection_that_was_given() -> None:
    command = Replay(["run"], ["-x"], Path("/")).command(run_options.parse({}), ["t"] * 21)
    assert shlex.split(command)[-2:] == ["run", "-x"]


def test_every_option_has_a_help_text() -> None:
    assert all(option.help and option.metavar for option in OPTIONS)
    assert len({option.variable for option in OPTIONS}) == len(OPTIONS)


def test_replay_gives_each_option_once() -> None:
    """The settings that were found, defaults of the configuration file among them, come first."""
    arguments = [
        *("-p", "mine", "-p", "rig", "--vm-fault=report-lost", "--vm-append", "a=1 b=2"),
        *("--vm-keep", "-x", "--vm", "guest_tests", "--vm-runs=elsewhere"),
    ]
    replay = Replay(["pytest", "-p", "rig"], arguments, Path("/p"), root=Path("/p"))
    words = shlex.split(replay.command(run_options.parse(GIVEN), []))
    assert words[words.index("--vm-keep") + 1 :] == [
        *("-p", "mine", "-x", "--vm", "guest_tests", "--vm-runs=elsewhere")
    ]
    assert sum(word.startswith(("--vm-fault", "--vm-append", "--vm-keep")) for word in words) == 3


def test_a_sloppy_profile_is_the_exerciser_s(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text("address_bits = 24\nsloppy = true\n")
    assert run_options.parse({"profile": str(mine)}).profile.sloppy
    with pytest.raises(UsageError, match="is sloppy, and only the exerciser"):
        run_options.parse({"profile": str(mine), "endpoint": "a:B"})


def test_a_profile_has_limits_for_an_endpoint() -> None:
    parsed = run_options.parse({"profile": "nvme", "endpoint": "a:B"})
    assert parsed.profile.max_segments == 129


def test_fault_that_is_not_there_is_answered_with_those_that_are_like_it() -> None:
    with pytest.raises(UsageError) as error:
        run_options.parse({"fault": "device-read-flop"})
    said = str(error.value).splitlines()
    assert "    device-read-flip" in said
    assert len(said) < 8
    assert "make faults says what each does" in said[1]


def test_fault_that_is_like_no_other_is_answered_with_all_one_a_line() -> None:
    with pytest.raises(UsageError) as error:
        run_options.parse({"fault": "xyzzy"})
    assert str(error.value).splitlines()[2:] == [f"    {fault.name}" for fault in faults.FAULTS]


def test_variable_that_nothing_reads_is_overlooked_no_more() -> None:
    given = {"FAULTS": "x", "PROFILES": "y", "VM": "1", "SEED": "1", "IOMMUS": "", "HOME": "/"}
    assert run_options.overlooked(given) == {"FAULTS": "FAULT", "PROFILES": "PROFILE", "VM": "VMS"}
