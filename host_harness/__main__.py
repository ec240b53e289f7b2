"""Command line: boot the guest with the device, run the DMA checks, print the verdict.

The status is also the last line of the output and stands in ``build/runs/latest/status``, because
make turns every failure into 2.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
from pathlib import Path
from types import FrameType

import pytest

from . import doctor, faults, image, qemu, run_folder
from .errors import HarnessError, NoVerdict, Status, UsageError
from .payload import SOURCE
from .plugin import GuestPlugin
from .progress import Progress
from .report import Ledger
from .vm import VmSettings, running_vm

_EPILOG = """\
statuses:
  0  all passed
  1  a test failed or a promise is broken
  2  usage: a wrong option, an unknown fault, no test selected
  3  the environment (QEMU, guest image) cannot be made
  4  no verdict: the VM, the device or the result channel was lost

environment variables:
  ACCEL=kvm|tcg          insist on an accelerator (default: probe KVM, else tcg)
  FAULT=<name>           break one promise on purpose (make faults lists them)
  SEED=<number>          seed of the data patterns (default: random, printed)
  APPEND=<words>         more words for the guest kernel's command line
  QEMU=<program>         a QEMU >= 10.1 with vfio-user-pci
  DMA_REHEARSAL_CACHE    folder of the environment's cache
  DMA_REHEARSAL_BUILD=chroot|userns|host   how the guest's driver is built (default: what works)

Further arguments go to pytest: test paths below guest/, -k, -x, -m, -v, -q, --junitxml ...
"""

GUEST_TESTS = SOURCE / "guest"

# pytest's own statuses, each mapped on purpose.
_STATUSES = {
    pytest.ExitCode.OK: Status.PASSED,
    pytest.ExitCode.TESTS_FAILED: Status.FAILED,
    pytest.ExitCode.INTERRUPTED: Status.NO_VERDICT,
    pytest.ExitCode.INTERNAL_ERROR: Status.NO_VERDICT,
    pytest.ExitCode.USAGE_ERROR: Status.USAGE,
    pytest.ExitCode.NO_TESTS_COLLECTED: Status.USAGE,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m host_harness",
        description="Boots a stock QEMU guest with the DMA device and runs the guest's DMA checks.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "command",
        nargs="?",
        choices=["test", "faults", "environment", "doctor", "clean-cache"],
        default="test",
        help="test: run the checks (default); faults: list the named faults; "
        "environment: make QEMU and the image, run nothing; doctor: say what this machine has "
        "and lacks; clean-cache: remove what the cache holds and no run uses",
    )
    parser.add_argument(
        "--runs",
        type=Path,
        default=SOURCE / "build" / "runs",
        metavar="DIR",
        help="where the folders of artefacts go (default: build/runs)",
    )
    return parser


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(argv: list[str]) -> Status:
    """Run the harness and return its status."""
    known, pytest_args = _parser().parse_known_args(argv)
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGHUP, _terminate)
    try:
        if known.command == "faults":
            print(faults.listing())
            return Status.PASSED
        if known.command == "doctor":
            return doctor.run(sys.stdout)
        if known.command == "clean-cache":
            return doctor.clean_cache(sys.stdout)
        if known.command == "environment":
            progress = Progress()
            _environment(progress)
            return Status.PASSED
        return _test(known.runs, pytest_args)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return Status.NO_VERDICT


def _environment(progress: Progress) -> tuple[qemu.Qemu, image.Image, str]:
    with progress.phase("environment"):
        found = qemu.find(progress.note)
        guest = image.make(progress.note)
        accelerator, why = qemu.choose_accelerator(found, guest.kernel, os.environ.get("ACCEL"))
        progress.note(f"QEMU {found.version} ({found.origin}); guest kernel {guest.kernel_release}")
        progress.note(f"accelerator: {why}")
    return found, guest, accelerator


def _seed() -> int:
    text = os.environ.get("SEED")
    if not text:
        return secrets.randbelow(1 << 32)
    try:
        return int(text, 0)
    except ValueError:
        raise UsageError(
            f"SEED={text} is no number", "give SEED as a decimal or 0x number"
        ) from None


def _test(runs: Path, pytest_args: list[str]) -> Status:
    progress = Progress()
    name = os.environ.get("FAULT")
    fault = faults.find(name) if name else None
    seed = _seed()
    found, guest, accelerator = _environment(progress)
    folder = run_folder.create(runs.absolute())
    try:
        (folder / "seed").write_text(f"{seed}\n")
        if fault:
            progress.note(f"FAULT: {fault.name}: {fault.description}")
        paths = tuple(word for word in pytest_args if not word.startswith("-") and "suite" in word)
        settings = VmSettings(
            qemu=found,
            accelerator=accelerator,
            image=guest,
            folder=folder,
            seed=seed,
            device_fault=fault.name if fault and fault.place is faults.Place.DEVICE else None,
            guest_fault=fault.name if fault and fault.place is faults.Place.GUEST else None,
            kernel_words=(
                *((fault.parameter,) if fault and fault.parameter else ()),
                *os.environ.get("APPEND", "").split(),
            ),
            pytest_args=paths,
        )
        status = _run(settings, progress, [word for word in pytest_args if word not in paths])
        (folder / "status").write_text(f"{status.value}\n")
    finally:
        if not (folder / "status").exists():
            (folder / "status").write_text(f"{Status.NO_VERDICT.value}\n")
        run_folder.publish(folder)
    return status


def _run(settings: VmSettings, progress: Progress, pytest_args: list[str]) -> Status:
    folder = settings.folder
    ledger = Ledger()
    plugin: GuestPlugin | None = None
    lost: NoVerdict | None = None
    code: int | pytest.ExitCode = pytest.ExitCode.INTERNAL_ERROR
    try:
        with running_vm(settings, progress) as vm:
            plugin = GuestPlugin(vm, ledger)
            with progress.phase("tests"):
                code = pytest.main(
                    [
                        *("-c", str(GUEST_TESTS / "pytest.ini"), "--rootdir", str(GUEST_TESTS)),
                        *("-p", "no:cacheprovider", "--strict-markers"),
                        *("--junitxml", str(folder / "junit.xml")),
                        *pytest_args,
                    ],
                    plugins=[plugin],
                )
        lost = plugin.lost
    except NoVerdict as error:
        lost = error
    status = Status.NO_VERDICT if lost else _STATUSES.get(pytest.ExitCode(code), Status.NO_VERDICT)
    objections = ledger.objections()
    if status is Status.PASSED and objections:
        status = Status.FAILED
    ledger.write(
        folder / "attestations.json",
        {
            "accelerator": settings.accelerator,
            "seed": settings.seed,
            "phases": progress.seconds,
            "status": status.value,
        },
    )
    _print_verdict(ledger, progress, settings, lost)
    return status


def _print_verdict(
    ledger: Ledger, progress: Progress, settings: VmSettings, lost: NoVerdict | None
) -> None:
    print()
    if ledger.promises:
        print(ledger.table())
        print()
    for line in ledger.complaints():
        print(line)
    if lost:
        print(f"no verdict: {lost}\n")
    print(f"{ledger.passed} passed, {ledger.failed} failed")
    phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in progress.seconds.items())
    print(f"accelerator {settings.accelerator}; seed {settings.seed}; {phases}")
    print(f"artefacts: {os.path.relpath(settings.folder)}", flush=True)


if __name__ == "__main__":
    final = main(sys.argv[1:])
    sys.stderr.flush()
    print(f"status {final.value}", flush=True)
    sys.exit(final.value)
