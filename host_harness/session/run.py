# SPDX-License-Identifier: Apache-2.0
"""One run from end to end: the environment, the VMs, the verdict and the folder of artefacts.

The life of a VM, and the module of each step:

1. `Run.prepare` makes what is not cached: QEMU (environment.qemu), the kernel and the base
   initramfs (environment.guest_image). It chooses the accelerator (environment.accelerator).
2. `Run.boot` looks for a saved state that fits (session.guest_states); without one, it packs guest/
   and the tests (environment.payload). `machine.launch` then starts the device process
   (machine.device_process) and QEMU (machine.qemu_command, machine.kernel_cmdline), and connects
   the console, QMP and the result channel. It loads the state (machine.saved_state), if there is
   one.
3. `session.guest_start` waits for the guest's agent, saves guests that boot, and has those that are
   restored go on. A state that is of no use costs seconds: the run boots instead.
4. `session.guest_session`, a pytest plugin, asks the agent for its tests (session.agent_client),
   unless they are those of the state. A
   `session.worker` has the agent run a test, reads the test's part of the device's trace, and asks
   `verdict.host_view` for the host's view. `verdict.ledger` keeps the rows of the table.
5. `Vm.end_session` compares the counts of tests. `Vm.power_off` ends the guest, QEMU and the device
   process, in this order.
6. `Run.conclude` decides the status and writes the artefacts; `Run.close` ends whatever still runs.

Every wait watches all processes and the console: a VM that is lost ends the run with NoVerdict.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from dma_rehearsal.host_harness.environment import (
    accelerator,
    build_cache,
    guest_image,
    kernel_config,
    kernel_tree,
    qemu,
    user_modules,
)
from dma_rehearsal.host_harness.environment.git_commit import GitCommit
from dma_rehearsal.host_harness.environment.kernel_config import Use
from dma_rehearsal.host_harness.environment.payload import GuestTests
from dma_rehearsal.host_harness.environment.user_modules import NO_MODULES
from dma_rehearsal.host_harness.formats import junit
from dma_rehearsal.host_harness.formats.output_files import OutputFiles
from dma_rehearsal.host_harness.formats.run_result import RunResult
from dma_rehearsal.host_harness.machine import device_process
from dma_rehearsal.host_harness.machine.device_process import DeviceProcess
from dma_rehearsal.host_harness.machine.launch import LIVE, Launch, started_vm
from dma_rehearsal.host_harness.machine.saved_state import StateUnusable
from dma_rehearsal.host_harness.machine.vm import Vm
from dma_rehearsal.host_harness.options.replay import Replay
from dma_rehearsal.host_harness.options.run_options import HOSTILE, KIND, Options
from dma_rehearsal.host_harness.process import advice, deadlines
from dma_rehearsal.host_harness.process.errors import (
    EnvironmentFailure,
    HarnessError,
    NoVerdict,
    Status,
)
from dma_rehearsal.host_harness.process.progress import Progress
from dma_rehearsal.host_harness.process.screen import Screen
from dma_rehearsal.host_harness.run_page import page
from dma_rehearsal.host_harness.session import guest_states, run_folder
from dma_rehearsal.host_harness.session.agent_client import Collected, Request
from dma_rehearsal.host_harness.session.guest_start import Guests
from dma_rehearsal.host_harness.session.guest_states import Plan, Start
from dma_rehearsal.host_harness.session.run_results import RunResults
from dma_rehearsal.host_harness.verdict import failure
from dma_rehearsal.host_harness.verdict.documents.document import ATTESTATIONS, ENVIRONMENT
from dma_rehearsal.host_harness.verdict.failure_record import FailureRecord
from dma_rehearsal.host_harness.verdict.known_gaps import OWN, KnownGaps
from dma_rehearsal.host_harness.verdict.ledger import Ledger
from dma_rehearsal.host_harness.verdict.rehearsal_report import RehearsalReport

_REPLAY_MAX = 3  # lines of the screen; the folder has the command, too


class Run:
    """A run; a context manager, and whatever ends the block ends the VM and keeps the artefacts.

    ``prepare`` makes the environment, ``boot`` the VM; ``error`` is what ended a run before its
    verdict, ``ledger`` takes the promises, ``status`` is decided by `conclude`. ``folder`` is made
    at once, with the status of a run that did not end. ``colours`` says whether the verdict has
    colours; None: as the screen can show them.
    """

    def __init__(
        self,
        options: Options,
        progress: Progress,
        runs: Path,
        *,
        tests: GuestTests | None = None,
        shells: bool = False,
        replay: Replay | None = None,
        known_gaps: KnownGaps | None = None,
    ) -> None:
        self.options = options
        self.progress = progress
        self.tests = tests or GuestTests()
        if known_gaps is None:
            known_gaps = KnownGaps.load(OWN) if self.tests.is_own else KnownGaps()
        self.ledger = Ledger(known_gaps=known_gaps)
        self.rehearsal = RehearsalReport()
        self.failures = FailureRecord()
        self.results = RunResults()
        self.outputs = OutputFiles(options.outputs)
        self.error: HarnessError | None = None
        self.vms: list[Vm] = []
        self.folder: Path | None = None
        self.accelerator = ""
        self.status: Status | None = None
        self.start: Start | None = None
        self.colours: bool | None = None
        self._booted = 0
        self.guests: Guests | None = None
        self._tested = True
        self._page_s: float | None = None
        self.replay = replay
        self._commit: GitCommit | None = None
        self._runs = runs.absolute()
        self._shells = shells or options.keep
        self.modules = NO_MODULES
        self._environment: tuple[qemu.Qemu, guest_image.Image] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def vm(self) -> Vm | None:
        """The VM, where it runs; of several the first, whose artefacts are in the run's folder."""
        return self.vms[0] if self.vms else None

    @property
    def place(self) -> str:
        """The placement of buffers in the guest: as asked, else hostile for a user's own tests."""
        return self.options.place or (KIND if self.tests.is_own else HOSTILE)

    @property
    def cache_folder(self) -> Path:
        """The folder for pytest's memory from run to run (--lf and related options)."""
        return self._runs / ".pytest_cache"

    def prepare(self) -> None:
        """Make QEMU and the image, choose the accelerator.

        UsageError for a kernel that cannot be used, EnvironmentFailure when something cannot be
        made, NoVerdict when the phase's deadline passes.
        """
        limit = self.options.deadlines["environment"]
        with self.progress.phase("environment"), deadlines.alarm("environment", limit):
            kernel_tree.check(self.options.kernel, _uses(self.options))
            found = qemu.find(self.progress.note)
            guest = guest_image.make(self.options.kernel, self.progress.note, self.options.packages)
            self.accelerator, why = accelerator.choose(found, guest.kernel, self.options.accel)
            self.progress.note(
                f"QEMU {found.version} ({found.origin}); guest kernel {guest.kernel_release} "
                f"({self.options.kernel})"
            )
            self.progress.note(f"accelerator: {why}")
            options = self.options
            self.modules = user_modules.make(
                options.modules,
                options.driver,
                guest.kernel_tree,
                self.progress.note,
                options.kernel_modules,
            )
            for words in self.modules.warnings:
                self.progress.note(f"the compiler warned:\n{words}", always=True)
        self._environment = found, guest

    def boot(self, count: int = 1, *, isolated: bool = False, request: Request | None = None) -> Vm:
        """Start ``count`` VMs, after making what they need; return the first.

        They start from a saved state that fits, or boot (`guest_states.plan`). The artefacts of the
        others are in folders of their own. ``isolated``: programs in the guests choose their CPUs
        (`Launch`). ``request``: what `collect` will be asked for. HarnessError when a VM does not
        come up.
        """
        self.open_folder()
        if self._commit is None:
            self._commit = GitCommit(self._stack, self.tests.root)
        with ExitStack() as stack:
            devices = self._start_devices(stack, count)
            if self._environment is None:
                self.prepare()
            if self._environment is None or self.folder is None:
                raise RuntimeError("prepare() made no environment")
            found, guest = self._environment
            if fault := self.options.fault:
                self.progress.note(f"FAULT: {fault.name}: {fault.description}", always=True)
            # The exerciser's functions are known; a user's process is asked, and must be ready.
            functions = devices[0][1].functions() if self.options.endpoint else ()
            plan = guest_states.plan(
                *(self.options, found, guest, self.accelerator, self.tests, request),
                isolated=isolated,
                shells=self._shells,
                modules=self.modules,
                functions=functions,
            )
            self._booted = count
            self._say_start(plan.start)
            try:
                self._start_guests(stack, plan, devices, isolated=isolated)
            except StateUnusable as error:
                stack.close()
                run_folder.set_aside(self.folder)
                devices = self._start_devices(stack, count)
                if isinstance(error.__cause__, NoVerdict):
                    self._say_lost(error)
                plan = guest_states.give_up(
                    plan, self.options, guest, self.tests, str(error), self.modules
                )
                self._say_start(plan.start)
                self._start_guests(stack, plan, devices, isolated=isolated)
            self._stack.enter_context(stack.pop_all())
        return self.vms[0]

    def _start_devices(self, stack: ExitStack, count: int) -> list[tuple[Path, DeviceProcess]]:
        """Start the device processes of ``count`` VMs; return their folders of artefacts, too.

        They start first, because they take as long as the environment and the plan.
        """
        if self.folder is None:
            raise RuntimeError("there is no folder yet")
        folders = [run_folder.of_vm(self.folder, number) for number in range(1, count + 1)]
        return [
            (each, device_process.start(stack, self.options, each, vms=count)) for each in folders
        ]

    def _start_guests(
        self,
        stack: ExitStack,
        plan: Plan,
        devices: Sequence[tuple[Path, DeviceProcess]],
        *,
        isolated: bool,
    ) -> None:
        """Start the VMs as planned; StateUnusable when the saved state is of no use."""
        if self._environment is None:
            raise RuntimeError("there is no environment yet")
        found, guest = self._environment
        initramfs = None
        if plan.payload and not plan.state:
            initramfs = stack.enter_context(plan.payload.initramfs(*guest.archives)).fileno()
        vms: list[Vm] = []
        for folder, device in devices:
            launch = Launch(
                found,
                self.accelerator,
                guest,
                folder,
                self.options,
                initramfs,
                shells=self._shells,
                isolated=isolated,
                state=plan.state,
                device=device,
            )
            try:
                vms.append(stack.enter_context(started_vm(launch, self.progress)))
            except HarnessError:
                if not vms:
                    self.start = None  # such as an endpoint that its device process refuses
                raise
        for vm in vms if len(vms) > 1 else ():
            vm.watch_too(each for each in vms if each is not vm)
        self.guests = Guests(vms, plan)
        with self.progress.phase("resume" if plan.state else "boot"):
            self.guests.begin()
        self.vms = vms

    def _say_lost(self, error: StateUnusable) -> None:
        """Tell of a guest that was lost once its state was loaded: the driver may be to blame."""
        first = str(error).splitlines()[0]
        where = os.path.relpath(self.folder / run_folder.ASIDE) if self.folder else ""
        self.progress.note(
            f"a guest from a saved state was lost, and now boots: {first}\n"
            f"  If this comes again, look for a fault that a scan of the PCI buses shows: {where}",
            always=True,
        )

    def collect(self, request: Request) -> Collected:
        """Return the tests of the guests; errors as `agent_client.collect`'s."""
        if self.guests is None:
            raise RuntimeError("collect() before boot()")
        try:
            return self.guests.collect(request)
        finally:
            if self.guests.start != self.start:
                self._say_start(self.guests.start)

    def _say_start(self, start: Start) -> None:
        """Keep how the guests start, in environment.json too."""
        self.start = start
        if self._environment is None or self.folder is None:
            return
        found, guest = self._environment
        facts = {
            **ENVIRONMENT.header,
            "accelerator": self.accelerator,
            "vms": self._booted,
            "start": {"kind": start.kind.value, "reason": start.reason},
            "options": dict(self.options.given),
            "qemu": {"version": found.version, "origin": found.origin},
            "guest": guest.versions,
            "packages": guest.packages.versions if guest.packages else {},
            "host": {"python": platform.python_version(), "kernel": platform.release()},
            "commit": self._commit.found() if self._commit else None,
            "profile": self.options.profile.facts if self.options.has_profile else None,
        }
        (self.folder / ENVIRONMENT.file).write_text(json.dumps(facts, indent=1) + "\n")

    def open_folder(self) -> None:
        """Make the run's folder and let ``latest`` name it, as a run without a verdict so far."""
        if self.folder is None:
            self.folder = run_folder.create(self._runs)
            (self.folder / "seed").write_text(f"{self.options.seed}\n")
            run_folder.set_status(self.folder, Status.NO_VERDICT)

    def keep_kernel_log(self) -> None:
        """Write each guest's kernel log to dmesg.log; its console is quiet. NoVerdict when lost."""
        for vm in self.vms:
            said = vm.execute(["dmesg"], timeout_s=30)
            (vm.folder / "dmesg.log").write_text(str(said.get("stdout")))

    def conclude(self, status: Status, *, tests: bool = True) -> Status:
        """Decide the run's status from that of its tests; write what belongs to it.

        Without ``tests`` the run was not one of guest tests, and needs none to pass.
        """
        if self.error:
            status = self.error.status
        elif status is Status.PASSED:
            if self.ledger.failed or self.ledger.errors or self.ledger.objections():
                status = Status.FAILED
            elif tests and not self.ledger.ran:
                status = Status.USAGE  # nothing ran: no verdict was asked for
        self.status = status
        self._tested = tests
        if tests:
            status = self._write_results(status)
        if self.folder:
            facts = {
                "accelerator": self.accelerator,
                "vms": self._booted,
                "seed": self.options.seed,
                "place": self.place,
                "start": self.start.kind.value if self.start else None,
                "start_reason": self.start.reason if self.start else "",
                "phases": self.progress.seconds,
                "status": status.value,
                "error": str(self.error or ""),
            }
            self.ledger.write(self.folder / ATTESTATIONS.file, facts)
            if self.options.rehearse:
                self.rehearsal.write(self.folder, status.value)
            if self.replay:
                (self.folder / "replay").write_text(f"{self._replay_command()}\n")
            run_folder.set_status(self.folder, status)
            self._write_page(self.folder)
        return status

    def begin_outputs(self) -> None:
        """Try the files of OUTPUT, before the run takes time; UsageError when one is unwritable."""
        self.outputs.begin(RunResult.incomplete(self._facts(), began=self.results.began))

    def _write_results(self, status: Status) -> Status:
        """Write junit.xml and the files of OUTPUT; return the status, worse when one is lost."""
        selected = self.tests.selected
        reasons = [
            f"{row.verdict}: {row.promise}: {row.reason}" for row in self.ledger.of_the_run()
        ]
        result = self.results.result(
            status,
            self.ledger.promises,
            self._facts(),
            reason=str(self.error) if self.error else "\n".join(reasons),
            root=self.tests.root,
            where=selected[0].partition("::")[0] if selected else ".",
            sources=self.options.modules,
        )
        if self.folder:
            (self.folder / "junit.xml").write_text(junit.write(result))
        for problem in self.outputs.finish(result):
            self.progress.note(problem, always=True)
            if status is Status.PASSED:
                self.error = EnvironmentFailure(problem, "free space there, and run it again")
                status = self.status = self.error.status
        return status

    def _facts(self) -> dict[str, str]:
        """Return what a reader of a result wants to know of the run, by name."""
        facts = {"seed": str(self.options.seed), "place": self.place}
        if self._environment:
            found, guest = self._environment
            facts |= {"kernel": guest.kernel_release, "qemu": found.version}
        facts |= {
            "accelerator": self.accelerator,
            "vms": str(self._booted) if self._booted else "",
            "start": self.start.kind.words if self.start else "",
        }
        given = (f"{name}={text}" for name, text in self.options.given.items() if name != "output")
        facts["options"] = " ".join(given)
        facts["replay"] = self._replay_command()
        return {name: text for name, text in facts.items() if text}

    def _write_page(self, folder: Path) -> None:
        """Write the run's page. The verdict does not depend on it, whatever it meets."""
        began = time.monotonic()
        try:
            self.failures.write(folder)
            page.write(folder)
            self._page_s = time.monotonic() - began
        except Exception as error:
            self.progress.note(
                f"{folder / page.FILE} is not written: {type(error).__name__}: {error}\n"
                f"  the run's other files are complete",
                always=True,
            )

    def verdict(self) -> list[str]:
        """Return the lines for people: the table, what fails the run, the counts and facts."""
        lines = []
        screen = Screen.of(colours=self.colours)
        if self.options.rehearse:
            lines += [*self.rehearsal.lines(screen.width, colours=screen.colours), ""]
            of_the_run = self.ledger.of_the_run()
            lines += [f"{row.verdict}: {row.promise}: {row.reason}" for row in of_the_run]
        else:
            if self.ledger.promises:
                lines += [self.ledger.table(screen.width, colours=screen.colours), ""]
            lines += self.ledger.complaints()
        tail = self._tail(screen)
        if not self.options.rehearse:
            lines += failure.lines(self.ledger.told, screen, tail)
        return [*lines, *tail]

    def _tail(self, screen: Screen) -> list[str]:
        """Return the last lines of the verdict: an error, the counts, the facts, the replay."""
        lines = []
        if isinstance(self.error, NoVerdict):
            lines += [f"no verdict: {self.error}", ""]
        elif self.error:
            lines += [f"error: {self.error}", ""]
        elif self._tested and not self.ledger.ran:
            lines += ["no test ran, so nothing was attested", ""]
        lines.append(self.ledger.counted)
        seconds = self.progress.seconds.items()
        phases = ", ".join(f"{name} {duration:.1f} s" for name, duration in seconds)
        accelerator = self.accelerator or "not chosen"
        kernel = f"kernel {self._environment[1].kernel_release}; " if self._environment else ""
        several = f"{self._booted} VMs; " if self._booted > 1 else ""
        start = f"{self.start.kind.words}; " if self.start else ""
        lines.append(
            f"accelerator {accelerator}; {kernel}{several}{start}seed {self.options.seed}; "
            f"place {self.place}; {phases}"
        )
        if self.folder:
            folder = os.path.relpath(self.folder)
            if self.ledger.failures:
                first = shlex.quote(self.ledger.failures[0])
                lines.append(f"story: dma-rehearsal explain {folder} {first}")
            lines.append(f"artefacts: {folder}")
            if self._page_s is not None:
                path = os.path.relpath(self.folder / page.FILE)
                lines.append(f"page: {path} (written in {self._page_s:.2f} s)")
        if self.replay:
            replay = f"replay: {self._replay_command()}"
            if self.folder and screen.live and failure.rows(replay, screen.width) > _REPLAY_MAX:
                replay = f"replay: sh {os.path.relpath(self.folder / 'replay')}"
            lines.append(replay)
        return lines

    def _replay_command(self) -> str:
        # A lost verdict may depend on every earlier test; so may a failure in a shuffled order.
        whole = self.error or self.options.order == "shuffled" or self.options.rehearse
        failed = [] if whole else self.ledger.to_repeat()
        given = dict(self.options.given)
        if self.place == HOSTILE:
            given["place"] = HOSTILE
        if self._booted > 1:
            given["vms"] = str(self._booted)
        options = replace(self.options, given=given)
        return self.replay.command(options, failed) if self.replay else ""

    def close(self) -> None:
        """End the VMs and everything that belongs to them; release the cache's entries."""
        self._stack.close()
        build_cache.release()
        self.vms = []


def wait_while_kept(run: Run) -> None:
    """Keep the VM after its tests; return at Ctrl-C, when the guest ends, or at the deadline.

    The user is told how to enter it. KeyboardInterrupt ends the wait and is not passed on.
    """
    vm, folder = run.vm, run.folder
    if vm is None or folder is None:
        return
    if run.status is Status.USAGE:
        run.progress.note("no test ran, so the VM is not kept", always=True)
        return
    limit = vm.deadlines["kept"]
    run.progress.note(
        f"the VM is kept, for {limit / 3600:g} hours at most (deadline of the phase 'kept').\n"
        f"  a shell in it:  {advice.attach(folder)}\n"
        f"  facts for gdb and other tools:  {folder / LIVE}\n"
        f"  Ctrl-C ends it",
        always=True,
    )
    deadline = time.monotonic() + limit
    try:
        while (remaining := deadline - time.monotonic()) > 0:
            vm.poll("kept", remaining)
        run.progress.note("the kept VM's time is over", always=True)
    except KeyboardInterrupt:
        run.progress.note("the kept VM ends", always=True)
    except NoVerdict as error:
        run.progress.note(str(error).splitlines()[0], always=True)


def _uses(options: Options) -> set[Use]:
    """Return what a run does with its kernel."""
    return kernel_config.uses(
        pvh=options.boot == "pvh",
        iommu=options.iommu,
        driver=bool(options.modules or options.driver),
    )
