"""One run from end to end: the environment, the VM, the verdict and its folder of artefacts."""

from __future__ import annotations

import json
import os
import platform
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from . import image, qemu, run_folder
from .errors import NoVerdict, Status
from .launch import Launch, running_vm
from .options import Options
from .payload import GuestTests
from .progress import Progress
from .replay import Replay
from .report import Ledger
from .vm import Vm


class Rig:
    """A run; a context manager, and whatever ends the block ends the VM and keeps the artefacts.

    ``prepare`` makes the environment, ``boot`` the VM; ``lost`` is the error of a run that ended
    without a verdict, ``ledger`` takes the promises, ``status`` is decided by `conclude`.
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
    ) -> None:
        self.options = options
        self.progress = progress
        self.tests = tests or GuestTests()
        self.ledger = Ledger()
        self.lost: NoVerdict | None = None
        self.vm: Vm | None = None
        self.folder: Path | None = None
        self.accelerator = ""
        self.status: Status | None = None
        self.replay = replay
        self._runs = runs.absolute()
        self._shells = shells or options.keep
        self._environment: tuple[qemu.Qemu, image.Image] | None = None
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
    def cache_folder(self) -> Path:
        """Where pytest keeps what it remembers from run to run (--lf and its kin)."""
        return self._runs / ".pytest_cache"

    def prepare(self) -> None:
        """Make QEMU and the image, choose the accelerator. EnvironmentFailure when it cannot be."""
        with self.progress.phase("environment"):
            found = qemu.find(self.progress.note)
            guest = image.make(self.progress.note)
            self.accelerator, why = qemu.choose_accelerator(found, guest.kernel, self.options.accel)
            self.progress.note(
                f"QEMU {found.version} ({found.origin}); guest kernel {guest.kernel_release}"
            )
            self.progress.note(f"accelerator: {why}")
        self._environment = found, guest

    def boot(self) -> Vm:
        """Start the VM. NoVerdict, kept in ``lost`` too, when it does not come up."""
        if self._environment is None:
            self.prepare()
        if self._environment is None:
            raise RuntimeError("there is no environment")
        found, guest = self._environment
        self.folder = run_folder.create(self._runs)
        self._stack.callback(self._keep_artefacts)
        (self.folder / "seed").write_text(f"{self.options.seed}\n")
        facts = {
            "accelerator": self.accelerator,
            "options": dict(self.options.given),
            "qemu": {"version": found.version, "origin": found.origin},
            "guest": guest.versions,
            "host": {"python": platform.python_version(), "kernel": platform.release()},
        }
        (self.folder / "environment.json").write_text(json.dumps(facts, indent=1) + "\n")
        if fault := self.options.fault:
            self.progress.note(f"FAULT: {fault.name}: {fault.description}", always=True)
        launch = Launch(
            found,
            self.accelerator,
            guest,
            self.folder,
            self.options,
            self.tests,
            shells=self._shells,
        )
        try:
            self.vm = self._stack.enter_context(running_vm(launch, self.progress))
        except NoVerdict as error:
            self.lost = error
            raise
        return self.vm

    def keep_kernel_log(self) -> None:
        """Write the guest's kernel log to dmesg.log; its console is quiet. NoVerdict when lost."""
        if self.vm and self.folder:
            said = self.vm.execute(["dmesg"], timeout_s=30)
            (self.folder / "dmesg.log").write_text(str(said.get("stdout")))

    def conclude(self, status: Status) -> Status:
        """Decide the run's status from that of its tests; write what belongs to it."""
        if self.lost:
            status = Status.NO_VERDICT
        elif status is Status.PASSED and self.ledger.objections():
            status = Status.FAILED
        self.status = status
        if self.folder:
            facts = {
                "accelerator": self.accelerator,
                "seed": self.options.seed,
                "phases": self.progress.seconds,
                "status": status.value,
            }
            self.ledger.write(self.folder / "attestations.json", facts)
            if self.replay:
                (self.folder / "replay").write_text(f"{self._replay_command()}\n")
            self._publish(status)
        return status

    def verdict(self) -> list[str]:
        """Return the lines for people: the table, what fails the run, the counts and facts."""
        lines = []
        if self.ledger.promises:
            lines += [self.ledger.table(), ""]
        lines += self.ledger.complaints()
        if self.lost:
            lines += [f"no verdict: {self.lost}", ""]
        lines.append(f"{self.ledger.passed} passed, {self.ledger.failed} failed")
        seconds = self.progress.seconds.items()
        phases = ", ".join(f"{name} {duration:.1f} s" for name, duration in seconds)
        lines.append(f"accelerator {self.accelerator}; seed {self.options.seed}; {phases}")
        if self.folder:
            lines.append(f"artefacts: {os.path.relpath(self.folder)}")
        if self.replay:
            lines.append(f"replay: {self._replay_command()}")
        return lines

    def _replay_command(self) -> str:
        # What took the verdict away may need all that went before it.
        failed = [] if self.lost else self.ledger.to_repeat()
        return self.replay.command(self.options, failed) if self.replay else ""

    def close(self) -> None:
        """End the VM and all that belongs to it."""
        self._stack.close()
        self.vm = None

    def publish(self) -> None:
        """Let ``latest`` name this run's folder, before it has a status."""
        if self.folder:
            run_folder.publish(self.folder)

    def _publish(self, status: Status) -> None:
        if self.folder:
            (self.folder / "status").write_text(f"{status.value}\n")
            self.publish()

    def _keep_artefacts(self) -> None:
        if self.status is None:
            self._publish(Status.NO_VERDICT)
