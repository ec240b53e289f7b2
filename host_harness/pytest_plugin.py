# SPDX-License-Identifier: Apache-2.0
"""The harness in any project's pytest: ``pytest --vm path/to/guest_tests``, and fixtures.

Nothing happens unless ``--vm`` is given or a fixture is used. ``vm``, ``guest`` and ``device`` boot
one VM for the session. Where guest tests run, it is the VM of these tests (the first of several).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.host_harness.environment import user_modules
from dma_rehearsal.host_harness.environment.payload import GuestTests
from dma_rehearsal.host_harness.machine.vm import Vm
from dma_rehearsal.host_harness.options import run_options
from dma_rehearsal.host_harness.options.replay import Replay
from dma_rehearsal.host_harness.options.run_options import OPTIONS, Options
from dma_rehearsal.host_harness.process.errors import HarnessError, Status
from dma_rehearsal.host_harness.process.progress import Progress
from dma_rehearsal.host_harness.session.guest_session import GuestSession, PlainSession
from dma_rehearsal.host_harness.session.run import Run, wait_while_kept
from dma_rehearsal.host_harness.session.verdict_record import Recorder
from dma_rehearsal.host_harness.verdict.known_gaps import KnownGaps

RUN = pytest.StashKey[Run]()
"""The session's run, where it has guest tests."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--vm`` and related options; all but ``--vm`` may be in the configuration file too."""
    group = parser.getgroup("dma-rehearsal", "DMA rehearsals in a VM (dma-rehearsal)")
    group.addoption(
        "--vm",
        action="append",
        metavar="PATH",
        help="run the tests in this file or folder (or node id) in a guest VM with the DMA "
        "device; may be given several times. Without other paths nothing else runs",
    )
    group.addoption(
        "--vm-runs",
        metavar="DIR",
        help="where the folders of artefacts go (default: build/runs below pytest's rootdir)",
    )
    parser.addini("vm_runs", "default of --vm-runs, relative to pytest's rootdir")
    parser.addini(
        "vm_reviewed",
        "TOML file, relative to pytest's rootdir, of what may stay unattested or unsupported "
        "without failing the run (default: nothing may)",
    )
    for option in OPTIONS:
        name = option.flag
        where = f"{option.help} [ini: vm_{option.name}]"
        if option.is_flag:
            group.addoption(name, action="store_const", const="1", help=where)
        else:
            group.addoption(name, metavar=option.metavar, help=where)
        parser.addini(f"vm_{option.name}", f"default of {name}")


def pytest_configure(config: pytest.Config) -> None:
    """Take the guest tests into the session when ``--vm`` names some."""
    paths = config.getoption("--vm")
    if not paths or config.option.help:
        return
    if hasattr(config, "workerinput") or getattr(config.option, "dist", "no") != "no":
        raise pytest.UsageError("--vm: leave out -n; for several VMs there is --vm-vms=N")
    try:
        run = _make_run(config, _tests(config, paths))
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[RUN] = run
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = []  # neither the folder that pytest was started in nor testpaths
    config.pluginmanager.register(GuestSession(run), "dma-rehearsal-session")
    config.pluginmanager.register(Recorder(run), "dma-rehearsal-verdicts")
    config.pluginmanager.register(PlainSession(run), "dma-rehearsal-plain")


def _tests(config: pytest.Config, paths: Sequence[str]) -> GuestTests:
    """Return the guest tests that ``--vm`` names, relative to the folder pytest was started in."""
    root = config.rootpath.resolve()
    selected = []
    for word in paths:
        place, separator, test = word.partition("::")
        path = (config.invocation_params.dir / place).resolve()
        inside = path.relative_to(root) if path.is_relative_to(root) else path
        selected.append(f"{inside}{separator}{test}")
    tests = GuestTests(root, tuple(selected))
    tests.files()  # UsageError now, and not after the VM is up
    return tests


def _given(config: pytest.Config) -> Options:
    """Return the options from the command line, else from the configuration file."""
    given = {}
    for option in OPTIONS:
        text = config.getoption(option.flag)
        if text is None:  # an empty one goes back to the default, whatever the file says
            text = config.getini(f"vm_{option.name}")
            if option.name == "module":
                text = _from_root(config, str(text or ""))
        given[option.name] = str(text or "")
    options = run_options.parse(given)
    user_modules.check(options.modules)
    return options


def _from_root(config: pytest.Config, paths: str) -> str:
    """Return the paths of the configuration file, which are relative to pytest's rootdir."""
    return ":".join(path and str(config.rootpath / path) for path in paths.split(":"))


def _make_run(config: pytest.Config, tests: GuestTests | None = None) -> Run:
    capture = config.pluginmanager.getplugin("capturemanager")
    runs = config.getoption("--vm-runs")
    if runs:
        folder = config.invocation_params.dir / runs
    else:
        folder = config.rootpath / (config.getini("vm_runs") or Path("build", "runs"))
    settings = _given(config)
    quiet = config.get_verbosity() < 0
    progress = (
        Progress(quiet=quiet, uncaptured=capture.global_and_fixture_disabled)
        if capture
        else Progress(quiet=quiet)
    )
    arguments = list(map(str, config.invocation_params.args))
    replay = Replay(
        [sys.executable, "-m", "pytest", "-p", __name__],
        arguments,
        config.invocation_params.dir,
        root=config.rootpath,
        positional=tuple(config.args),
    )
    listed = config.getini("vm_reviewed")
    known_gaps = KnownGaps.load(config.rootpath / listed) if listed else None
    return Run(settings, progress, folder, tests=tests, replay=replay, known_gaps=known_gaps)


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that ran in the guest: its status (negative: a signal) and what it printed."""

    status: int
    stdout: str
    stderr: str


class GuestFailure(AssertionError):
    """A program in the guest failed, or did not end in time."""


class Guest:
    """The guest of the session's VM: runs programs in it, as root."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 60,
        input: str = "",  # as subprocess.run calls it
        check: bool = True,
    ) -> Completed:
        """Run ``argv`` for at most ``timeout`` seconds and return its status and output.

        GuestFailure when it cannot start or does not end in time and, with ``check``, when its
        status is not 0; NoVerdict when the VM is lost.
        """
        reply = self._vm.execute(argv, timeout_s=timeout, input_text=input)
        done = Completed(
            int(reply["status"] if reply.get("status") is not None else 127),
            str(reply.get("stdout")),
            str(reply.get("stderr")),
        )
        if reply.get("error") or (check and done.status != 0):
            why = reply.get("error") or f"status {done.status}"
            raise GuestFailure(f"in the guest, {list(argv)}: {why}\n{done.stdout}{done.stderr}")
        return done

    def python(self, source: str, *, timeout: float = 60) -> str:
        """Run Python source in the guest and return what it prints.

        It can import ``dma_rehearsal.guest``.

        Errors as `run`'s.
        """
        return self.run(["python3", "-c", source], timeout=timeout).stdout


class Device:
    """The device process of the session's VM: its trace, and faults that it can be given."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm

    @property
    def trace_path(self) -> Path:
        """The trace's file: JSON lines."""
        return self._vm.folder / "device-trace.jsonl"

    @contextmanager
    def fault(self, name: str) -> Iterator[None]:
        """Have the device act with a fault within the ``with``: does your test notice?

        ``make faults`` lists them. UsageError for one that is not the device's.
        """
        self._vm.set_fault(name)
        try:
            yield
        finally:
            self._vm.set_fault(None)

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Return what the devices did so far, in order: all events, or those of one ``kind``.

        Each has the node id of its "test". A request to memory ("request"), of any endpoint, has
        sequence, write, ranges (address and bytes), moved and reason; a DMA of the exerciser
        ("dma") address, length, direction, status, reason and crc32. Addresses are hexadecimal
        strings. Other kinds are "msi-x", "witness", "reset", "command", "attach" and "detach".
        """
        lines = self.trace_path.read_text().splitlines()
        events: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return [event for event in events if kind in (None, event.get("event"))]


@pytest.fixture(scope="session")
def vm(request: pytest.FixtureRequest) -> Iterator[Vm]:
    """The running VM: monitor (QMP), console, folder of artefacts."""
    config = request.config
    if RUN in config.stash:
        running = config.stash[RUN].vm
        if running is None:
            pytest.fail("the VM is not running")
        yield running
        return
    with _make_run(config) as run:
        if run.options.several_vms:
            pytest.fail("--vm-vms: without guest tests (--vm) there is one VM", pytrace=False)
        config.pluginmanager.register(PlainSession(run), "dma-rehearsal-plain")
        run.progress.line()
        try:
            booted = run.boot()
        except HarnessError as error:
            run.error = error
            run.conclude(error.status, tests=False)
            pytest.fail(f"no VM: {error}", pytrace=False)
        yield booted
        failed = request.session.testsfailed
        try:
            if run.options.keep:
                wait_while_kept(run)
            else:
                booted.power_off()
        except HarnessError as error:
            run.error = error
            raise
        finally:
            run.conclude(Status.FAILED if failed else Status.PASSED, tests=False)


@pytest.fixture(scope="session")
def guest(vm: Vm) -> Guest:
    """Runs programs in the guest."""
    return Guest(vm)


@pytest.fixture(scope="session")
def device(vm: Vm) -> Device:
    """The device: its trace, and faults that it can be given."""
    return Device(vm)
