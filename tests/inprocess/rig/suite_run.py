# SPDX-License-Identifier: Apache-2.0
"""A guest without a VM: the guest's own code on the device's own code, in one process.

Between them stands a `Machine`. The whole suite runs here within seconds, so each of its checks can
be seen to fire.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from _pytest.mark import KeywordMatcher
from _pytest.mark.expression import Expression

from dma_rehearsal.device.layout import PLATFORM_DEVICE_ID
from dma_rehearsal.guest.drivers import edu, exerciser, interrupts
from dma_rehearsal.guest.drivers.platform import command
from dma_rehearsal.guest.drivers.platform import device as platform_device
from dma_rehearsal.guest.linux import kernel_cmdline, memory_types, processors
from dma_rehearsal.guest.session import SessionSettings, SettingsPlugin
from dma_rehearsal.guest.testkit import fixtures, plugin, session_platform
from dma_rehearsal.guest.testkit.host_witness import HOST, Host
from dma_rehearsal.host_harness.environment.payload import SOURCE
from dma_rehearsal.host_harness.machine.kernel_cmdline import device_parameters
from tests.inprocess.rig.edu import EduModel
from tests.inprocess.rig.function import Function
from tests.inprocess.rig.machine import Driver, Machine
from tests.inprocess.rig.registers import Msrs
from tests.inprocess.rig.verdict import Outcome
from tests.unit.host_harness.machine.saved_states import PHYSICAL_BITS

_SUITE = SOURCE / "dma_rehearsal" / "guest" / "suite"
# The keywords of each file's tests, as `-k` sees them; collected once in a process.
_keywords: dict[Path, list[KeywordMatcher]] = {}


class _Collected:
    """A plugin that keeps the keywords of all tests, those that a machine leaves out included."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep them, file by file."""
        for item in items:
            _keywords.setdefault(item.path, []).append(KeywordMatcher.from_item(item))


class SuiteRunner:
    """Runs the guest's suite on machines."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self._pytester = pytester
        self._patch = monkeypatch

    def run(
        self,
        kind: type[Machine] = Machine,
        *args: str,
        seed: int = 7,
        tests: Path | None = None,
        plugins: Sequence[object] = (),
    ) -> Outcome:
        """Run the suite, or what ``args`` select of it, on a machine of this kind.

        ``tests``: a file of other guest tests in its place. Where ``args`` begin with ``-k``, only
        the files that have such a test are collected, which takes most of a small run's time.
        """
        files = [tests or _SUITE]
        if tests is None and args[:1] == ("-k",):
            files = self._files_of(args[1])
        return self._run_on(kind, files, args, seed, plugins)

    def _files_of(self, keywords: str) -> list[Path]:
        """Return the files of the suite with a test that ``-k`` selects; all where it has none."""
        if not _keywords:
            self._run_on(Machine, [_SUITE], ("--collect-only",), 7, [_Collected()])
        selects = Expression.compile(keywords).evaluate
        found = [path for path, tests in _keywords.items() if any(map(selects, tests))]
        return found or [_SUITE]

    def _run_on(
        self,
        kind: type[Machine],
        files: Sequence[Path],
        args: tuple[str, ...],
        seed: int,
        plugins: Sequence[object],
    ) -> Outcome:
        machine = kind(self._pytester.path)
        self._files, self._plugins = files, plugins
        wait = interrupts.Interrupt.wait

        def wait_on(interrupt: interrupts.Interrupt, timeout: float) -> int:
            machine.go_on()
            return wait(interrupt, timeout)

        try:
            with self._patch.context() as patch:
                patch.setattr(interrupts.Interrupt, "wait", wait_on)
                return self._run(machine, args, seed)
        finally:
            machine.close()

    def _run(self, machine: Machine, args: tuple[str, ...], seed: int) -> Outcome:
        def find(_vendor: int, device: int, index: int = 0) -> Function | EduModel:
            if device == edu.EDU_DEVICE_ID:
                return machine.edus[index]
            if device == PLATFORM_DEVICE_ID:
                return Function(machine, machine.platform)
            return Function(machine, machine.peer if index else machine.exerciser)

        for module in exerciser, platform_device, fixtures:
            self._patch.setattr(module, "PciFunction", SimpleNamespace(find=find))
        self._patch.setattr(
            exerciser, "DriverFunction", lambda _: Function(machine, machine.exerciser)
        )
        self._patch.setattr(edu, "DriverFunction", lambda _: machine.edus[0])
        self._patch.setattr(session_platform, "Driver", lambda: Driver(machine))
        self._patch.setattr(command, "LOCKS", self._pytester.path)
        self._patch.setattr(memory_types, "_open", lambda _cpu: Msrs())
        self._patch.setattr(memory_types, "read_physical_bits", lambda: PHYSICAL_BITS)
        words = self._pytester.path / "cmdline"
        words.write_text(" ".join(device_parameters(machine.announced or machine.profile)))
        self._patch.setattr(kernel_cmdline, "PARAMETERS", words)
        online = self._pytester.path / "online"
        online.write_text(",".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0))))
        self._patch.setattr(processors, "ONLINE", online)
        outcome = Outcome(machine, self._pytester.path)
        guest = SOURCE / "dma_rehearsal" / "guest"
        self._pytester.inline_run(
            *("-c", os.devnull, "--rootdir", str(guest), "--import-mode=importlib"),
            # The rest is not looked at here, and costs more than the tests do.
            *("-p", "no:terminal", "-p", "no:hypothesispytest", "--assert=plain"),
            *("-p", "no:cacheprovider", "--strict-markers", "-m", "not kernel"),
            *(*map(str, self._files), *args),
            plugins=[
                *(SettingsPlugin(SessionSettings(seed)), plugin, outcome, *self._plugins),
                _HostPlugin(machine),
            ],
        )
        outcome.end()
        return outcome


class _HostPlugin:
    """Gives the tests the machine's host in place of one behind a channel."""

    def __init__(self, machine: Machine) -> None:
        self._host = cast("Host", machine.host(machine))

    def pytest_configure(self, config: pytest.Config) -> None:
        """Store it where the fixture finds it."""
        config.stash[HOST] = self._host
