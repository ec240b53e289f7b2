# SPDX-License-Identifier: Apache-2.0
"""The fixture driver on a kernel of folders: what it does, and that all of it is undone."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from dma_rehearsal.device.layout import CacheReportKind, DmaReason, PlatformFeature
from dma_rehearsal.device.layout.driver_reports import DriverReportKind
from dma_rehearsal.guest.drivers import driver_modules, kernel_binding
from dma_rehearsal.guest.drivers.pci_bars import PciError
from dma_rehearsal.guest.drivers.platform.cache_unit import CacheModelMode
from dma_rehearsal.guest.testkit import device_files, driver_rehearsal, hold_watcher
from dma_rehearsal.guest.testkit.conditions import HELD, Condition
from dma_rehearsal.guest.testkit.driver_rehearsal import (
    DriverRehearsal,
    ProbeFailed,
    RehearsalFailed,
)
from dma_rehearsal.guest.testkit.session_platform import SessionPlatform
from tests.unit.guest.testkit.fake_kernel import ADDRESS, OPS, OTHER, FakeKernel, FakeSession

WARNING = [
    "------------[ cut here ]------------",
    "WARNING: CPU: 0 PID: 99 at drivers/my.c:12 my_xmit+0x1/0x2 [my_driver]",
    "Call Trace:",
    "---[ end trace 0000000000000000 ]---",
    "something else",
]


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    return FakeKernel(tmp_path, monkeypatch)


@pytest.fixture
def session() -> FakeSession:
    return FakeSession()


Make = Callable[..., DriverRehearsal]


@pytest.fixture
def make(kernel: FakeKernel, session: FakeSession) -> Make:  # noqa: ARG001
    def make(usual: str | None = None, **condition: Any) -> DriverRehearsal:
        return DriverRehearsal(cast("SessionPlatform", session), Condition(**condition), usual)

    return make


def is_as_before(kernel: FakeKernel, session: FakeSession) -> bool:
    """Whether nothing of a rehearsal is left."""
    platform = session.platform
    return (
        kernel.bound() is None
        and (kernel.devices / ADDRESS / "driver_override").read_text() == "\n"
        and sorted(each.name for each in kernel.modules.iterdir()) == []
        and platform.protection.enabled
        and platform.board.snooped
        and not platform.board.holding
        and platform.cache.mode is CacheModelMode.OFF
    )


def test_a_driver_is_loaded_hooked_bound_and_all_is_undone(
    kernel: FakeKernel, session: FakeSession, make: Make
) -> None:
    driver = make()
    assert driver.function == ADDRESS
    assert driver.functions == (ADDRESS, OTHER)
    with driver("my-driver", ring_size=64, name="two words", flags=[1, 2], fast=True) as bound:
        assert (bound.name, bound.module, bound.function) == ("my-driver", "my_driver", ADDRESS)
        assert kernel.bound() == "my-driver"
    assert kernel.log == [
        f"load {OPS} function={ADDRESS} grants=1 cache=0 device_bits=0 line=64 merge=0 bounce=0 "
        "hostile=0 fail_nth=0",
        'load my_driver ring_size=64 name="two words" flags=1,2 fast=Y',
        f"bind my-driver {ADDRESS}",
        f"unbind my-driver {ADDRESS}",
        "unload my_driver",
        f"unload {OPS}",
    ]
    assert is_as_before(kernel, session)


def test_the_board_is_as_before_when_the_reports_cannot_be_taken(
    kernel: FakeKernel, session: FakeSession, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone() -> list[object]:
        raise OSError(errno.EIO, "the platform is gone")

    monkeypatch.setattr(session.platform.cache, "take_reports", gone)
    with pytest.raises(OSError, match="the platform is gone"), make(coherent=False)("my_driver"):
        pass
    assert is_as_before(kernel, session)


def test_the_condition_and_the_places_of_code_are_told(
    kernel: FakeKernel, session: FakeSession, make: Make
) -> None:
    (kernel.root / "kallsyms").write_text(
        "0000000000000000 A fixed\nffffffff81000000 T _stext\nffffffff81000000 T _text\n"
    )
    with make(coherent=False)("my_driver"):
        pass
    assert session.said == [
        (
            "driver run",
            {
                "mark": 1,
                "driver": "my_driver",
                "condition": "noncoherent",
                "loaded": {
                    "my_driver": {".text": 0xFFFFFFFF_C0100000},
                    "": {"_stext": 0xFFFFFFFF_81000000},
                },
            },
        )
    ]


def test_the_conditions_reach_the_board_and_the_module(
    kernel: FakeKernel, session: FakeSession, make: Make
) -> None:
    condition = {"coherent": False, "merge": True, "bounce": True, "device_bits": 28}
    with make("hostile", **condition)("my_driver"):
        assert session.platform.cache.mode is CacheModelMode.STRICT
        assert not session.platform.board.snooped
    words = "cache=1 device_bits=28 line=64 merge=1 bounce=1 hostile=1"
    assert words in kernel.log[0]
    assert session.platform.cache.taken
    assert is_as_before(kernel, session)
    with make("hostile", place="kind")("my_driver"):
        assert "hostile=0" in next(each for each in kernel.log[::-1] if OPS in each)


def test_plain_hooks_nothing(kernel: FakeKernel, session: FakeSession, make: Make) -> None:
    with make(plain=True)("my_driver"):
        assert not session.platform.protection.enabled
    assert not any(OPS in each for each in kernel.log)
    assert is_as_before(kernel, session)
    with (
        pytest.raises(PciError, match="plain hooks nothing"),
        make(plain=True, merge=True)("my_driver"),
    ):
        pass


def test_a_platform_without_what_the_condition_needs_is_refused(
    session: FakeSession, make: Make
) -> None:
    session.platform.features &= ~PlatformFeature.HOLD
    with make()("my_driver"):
        pass
    with pytest.raises(PciError, match=r"lacks .*HOLD.* for held"), make(timing=HELD)("my_driver"):
        pass


def test_a_body_that_raises_undoes_all(
    kernel: FakeKernel, session: FakeSession, make: Make
) -> None:
    with pytest.raises(ZeroDivisionError), make(coherent=False)("my_driver"):
        raise ZeroDivisionError
    assert is_as_before(kernel, session)


def test_a_probe_that_fails_says_what_the_kernel_said(
    kernel: FakeKernel, session: FakeSession, make: Make
) -> None:
    def probe() -> None:
        kernel.messages.append("my-driver: no memory for the ring")
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    kernel.messages.append("of earlier times")
    kernel.probe = probe
    with pytest.raises(ProbeFailed, match="Cannot allocate memory") as caught, make()("my_driver"):
        pytest.fail("the body must not run")
    assert "no memory for the ring" in str(caught.value)
    assert "earlier times" not in str(caught.value)
    assert is_as_before(kernel, session)


@pytest.mark.parametrize("when", ["probe", "remove"])
def test_a_warning_of_the_kernel_fails_the_test(
    kernel: FakeKernel, session: FakeSession, make: Make, when: str
) -> None:
    setattr(kernel, when, lambda: kernel.messages.extend(WARNING))
    with (
        pytest.raises(RehearsalFailed, match="WARNING: CPU: 0 PID: 99") as caught,
        make()("my_driver"),
    ):
        pass
    assert "end trace" in str(caught.value)
    assert "something else" not in str(caught.value)
    assert is_as_before(kernel, session)


def test_an_unbind_that_hangs_is_named_and_nothing_waits_for_it(
    kernel: FakeKernel, session: FakeSession, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    kernel.remove = lambda: cast("None", go_on.wait(60))
    monkeypatch.setattr(kernel_binding.BoundFunction.unbind, "__defaults__", (0.0,))
    with (
        pytest.raises(RehearsalFailed, match="the unbind of my-driver has not returned"),
        make(coherent=False)("my_driver"),
    ):
        pass
    assert "unload my_driver" not in kernel.log
    assert session.platform.board.snooped
    assert session.platform.cache.mode is CacheModelMode.OFF
    with pytest.raises(RehearsalFailed, match="in an earlier test"), make()("my_driver"):
        pass
    go_on.set()


def test_a_driver_that_had_the_function_at_boot_is_taken_from_it(
    kernel: FakeKernel, make: Make
) -> None:
    kernel.build_in("nvme", "nvme")
    (kernel.devices / ADDRESS / "driver").symlink_to(kernel.root / "bus" / "drivers" / "nvme")
    with make()("nvme") as bound:
        assert bound.name == "nvme"
    steps = [each.split()[0] for each in kernel.log]
    assert steps == ["unbind", "load", "bind", "unbind", "unload"]
    assert kernel.bound() is None


def test_before_the_first_test_the_kernel_gives_the_endpoint_up(kernel: FakeKernel) -> None:
    """What a driver does at its unbind is not hooked, and would be refused later."""
    assert driver_modules.under_test()
    kernel.build_in("nvme", "nvme")
    kernel.build_in("dma_rehearsal", "dma_rehearsal")
    for address, name in (ADDRESS, "nvme"), (OTHER, "dma_rehearsal"):
        (kernel.devices / address / "driver").symlink_to(kernel.root / "bus" / "drivers" / name)
    driver_rehearsal.take_from_the_kernel()
    assert kernel.log == [f"unbind nvme {ADDRESS}"]
    assert kernel.bound() is None
    (kernel.files / driver_modules.LIST).unlink()
    assert not driver_modules.under_test()


def test_a_model_of_a_virtio_device_is_an_endpoint_and_qemus_is_not(kernel: FakeKernel) -> None:
    model = "0000:00:07.0"
    before = [each.address for each in kernel_binding.endpoint_functions()]
    kernel.add_function(model, 0x1AF4, 0x1042, subsystem_vendor=0x1234)
    assert [each.address for each in kernel_binding.endpoint_functions()] == [*before, model]
    assert "0000:00:01.0" not in before


def test_a_module_that_the_guest_needs_is_used_as_it_is(kernel: FakeKernel, make: Make) -> None:
    (kernel.image / "order").write_text("virtio\nmy-driver-x\n")
    with make()("my_driver"):
        pass
    assert "unload my_driver" in kernel.log
    (kernel.image / "order").write_text("virtio\nmy-driver\n")
    kernel.build_in("my_driver", "my-driver")
    kernel.log.clear()
    with make()("my_driver") as bound:
        assert bound.name == "my-driver"
    assert not [line for line in kernel.log if "load my_driver" in line]


def test_modules_that_the_run_was_given_are_loaded_once(kernel: FakeKernel) -> None:
    driver_modules.load_before_tests()  # none
    folder = kernel.files / driver_modules.BEFORE
    folder.mkdir()
    listed: list[dict[str, Any]] = [
        {"name": name, "file": f"{name}.ko", "depends": []} for name in ("crc", "xfs")
    ]
    listed.append({"name": "ext4", "file": None, "depends": []})
    (folder / driver_modules.LIST).write_text(json.dumps({"modules": listed}))
    for name in "crc", "xfs":
        (folder / f"{name}.ko").write_text('""')
    for _ in range(2):  # a second session finds them loaded
        driver_modules.load_before_tests()
        assert kernel.log == ["load crc", "load xfs"]


def test_the_parameters_of_a_built_in_driver_are_set_or_refused(
    kernel: FakeKernel, make: Make
) -> None:
    kernel.build_in("nvme", "nvme")
    with make()("nvme", io_timeout=3):
        assert (kernel.modules / "nvme" / "parameters" / "io_timeout").read_text() == "3"
    (kernel.modules / "nvme" / "parameters" / "deep").mkdir()
    with (
        pytest.raises(PciError, match=r"built into this kernel.*APPEND=nvme\.deep=1"),
        make()("nvme", deep=1),
    ):
        pass


def test_our_own_driver_gets_its_function_back(kernel: FakeKernel, make: Make) -> None:
    kernel.build_in("dma_rehearsal", "dma_rehearsal")
    own = kernel.root / "bus" / "drivers" / "dma_rehearsal"
    (kernel.devices / ADDRESS / "driver").symlink_to(own)
    # The fake kernel wants an override that names the driver, as our own driver needs one.
    with make()("my_driver"):
        pass
    assert kernel.bound() == "dma_rehearsal"


def test_another_function_is_chosen_by_its_address(kernel: FakeKernel, make: Make) -> None:
    with make()("my_driver", function=OTHER) as bound:
        assert bound.function == OTHER
    assert f"function={OTHER} " in kernel.log[0]
    with make()("my_driver", function=1) as bound:
        assert bound.functions == (OTHER,)
    with pytest.raises(PciError, match="the endpoint has no function 0000:00:07"):
        make()("my_driver", function="0000:00:07.0")
    with pytest.raises(PciError, match="the endpoint has no function 2: 0000:00:04"):
        make()("my_driver", functions=(0, 2))


def test_a_driver_of_several_functions_has_all_of_them(
    kernel: FakeKernel, session: FakeSession, make: Make
) -> None:
    driver = make()
    with driver("my_driver", functions=driver.functions) as bound:
        assert (bound.function, bound.functions) == (ADDRESS, (ADDRESS, OTHER))
        assert kernel.bound(ADDRESS) == kernel.bound(OTHER) == "my-driver"
    assert f"function={ADDRESS},{OTHER} " in kernel.log[0]
    assert kernel.log[2:6] == [
        f"bind my-driver {ADDRESS}",
        f"bind my-driver {OTHER}",
        f"unbind my-driver {OTHER}",
        f"unbind my-driver {ADDRESS}",
    ]
    assert is_as_before(kernel, session)


def test_a_function_that_is_not_asked_for_is_nobodys(kernel: FakeKernel, make: Make) -> None:
    """A module that knows its id would get it when it is loaded, and nothing would watch it."""
    with make()("my_driver", functions=(0, 1)):
        pass
    for taken, left in ((ADDRESS, OTHER), (OTHER, ADDRESS)):
        with make()("my_driver", function=taken):
            assert (kernel.devices / left / "driver_override").read_text() == "nobody"


def test_a_second_probe_that_fails_unbinds_the_first_function(
    kernel: FakeKernel, session: FakeSession, make: Make
) -> None:
    def probe() -> None:
        if kernel.bound():
            raise OSError(errno.EIO, "out of luck")

    kernel.probe = probe
    with (
        pytest.raises(ProbeFailed, match=f"at {OTHER} failed"),
        make()("my_driver", functions=(0, 1)),
    ):
        pytest.fail("the driver was bound")
    assert f"unbind my-driver {ADDRESS}" in kernel.log
    assert is_as_before(kernel, session)


def test_a_module_that_nobody_knows_is_named(make: Make) -> None:
    with (
        pytest.raises(PciError, match="there is no module his_driver: this run has my_driver"),
        make()("his_driver"),
    ):
        pass


def test_what_a_module_needs_is_loaded_before_it(kernel: FakeKernel, make: Make) -> None:
    kernel.list_modules(
        [
            {"name": "base", "file": "base.ko", "depends": ["middle"]},
            {"name": "middle", "file": "middle.ko", "depends": ["base", "in_kernel"]},
            {"name": "in_kernel", "file": None},
            {"name": "my_driver", "file": "my_driver.ko", "depends": ["middle"]},
        ]
    )
    for name in "base", "middle":
        (kernel.files / f"{name}.ko").write_text('""')
    with make()("my_driver"):
        pass
    loads = [each.split()[1] for each in kernel.log if each.startswith("load")]
    assert loads == [OPS, "base", "middle", "my_driver"]


def test_a_device_that_is_left_open_is_named_and_let_go(
    kernel: FakeKernel, session: FakeSession, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.in_use = ["my_driver"]

    def let_go(opened: dict[int, str]) -> list[str]:
        kernel.in_use = []
        return sorted(set(opened.values()))

    monkeypatch.setattr(device_files, "let_go", let_go)
    left = []
    with (
        pytest.raises(RehearsalFailed, match="leaves /dev/zero open, so my_driver"),
        make()("my_driver"),
    ):
        left.append(os.open("/dev/zero", os.O_RDONLY))
    os.close(left[0])
    assert is_as_before(kernel, session)


def test_a_body_that_raised_leaves_no_module_in_use(
    kernel: FakeKernel, session: FakeSession, make: Make
) -> None:
    left = []

    def body() -> None:
        with make()("my_driver"):
            left.append(os.open("/dev/zero", os.O_RDONLY))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        body()
    assert str(Path(f"/proc/self/fd/{left[0]}").readlink()) == os.devnull
    os.close(left[0])
    assert is_as_before(kernel, session)


def test_announcements_are_told_with_their_borders(session: FakeSession, make: Make) -> None:
    kinds = (
        DriverReportKind.NEVER_UNMAPPED,
        CacheReportKind.RELEASED_DIRTY,
        DmaReason.PROTECTION_OUTSIDE,
    )
    with make().expects(*kinds, count=2):
        pass
    assert session.said == [
        (
            "driver expects",
            {
                "kinds": [
                    "CacheReportKind.RELEASED_DIRTY",
                    "DmaReason.PROTECTION_OUTSIDE",
                    "DriverReportKind.NEVER_UNMAPPED",
                ],
                "first": 1,
                "last": 2,
                "count": 2,
                "optional": False,
            },
        )
    ]
    assert session.announced == [(frozenset({DmaReason.PROTECTION_OUTSIDE}), 11, 12)]


def test_an_announcement_of_nothing_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="name the kinds"), make().expects():
        pass
    with (
        pytest.raises(ValueError, match="count=0"),
        make().expects(DriverReportKind.UNMAP_SIZE, count=0),
    ):
        pass


def test_held_dma_goes_when_the_guest_is_idle(
    kernel: FakeKernel, session: FakeSession, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold_watcher, "only_this_runs", lambda: True)
    board = session.platform.board
    with make(timing=HELD)("my_driver"):
        assert board.holding
        board.held = 1
        assert board.went.wait(30)
    assert is_as_before(kernel, session)
