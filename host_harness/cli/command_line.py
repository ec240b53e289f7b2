# SPDX-License-Identifier: Apache-2.0
"""The command line: boot the guest with the device, run the DMA checks, print the verdict.

The status is also the last line of the output, with how the guest started, and the contents of
``build/runs/latest/status``, because make turns every failure into 2.

What one command alone needs is imported for that command: a run of one test takes few seconds, and
the imports are part of them.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

import pytest

from dma_rehearsal.host_harness import pytest_plugin
from dma_rehearsal.host_harness.cli import diff_arguments, own_pytest
from dma_rehearsal.host_harness.environment import user_modules
from dma_rehearsal.host_harness.environment.payload import GuestTests
from dma_rehearsal.host_harness.options import outputs, run_options
from dma_rehearsal.host_harness.options.run_options import OPTIONS, Options
from dma_rehearsal.host_harness.process import closed_pipe
from dma_rehearsal.host_harness.process.errors import HarnessError, Status, UsageError
from dma_rehearsal.host_harness.process.progress import Progress
from dma_rehearsal.host_harness.session import run_folder
from dma_rehearsal.host_harness.session.guest_states import Start
from dma_rehearsal.host_harness.session.run import Run, wait_while_kept
from dma_rehearsal.host_harness.session.verdict_record import Recorder

_EPILOG = """\
statuses:
  0  all passed
  1  a test failed or a promise is broken
  2  usage: a wrong option, an unknown fault, no test selected
  3  the environment (QEMU, guest image) cannot be made
  4  no verdict: the VM, the device or the result channel was lost

environment variables (make takes them as NAME=value):
{variables}
  QEMU=PROGRAM           a QEMU >= 10.1 with vfio-user-pci
  DMA_REHEARSAL_CACHE    folder of the environment's cache
  DMA_REHEARSAL_BUILD    chroot, userns or host: how the guest's driver is built (default: what
                         works)

Further arguments of test go to pytest: test paths below guest/, -k, -x, -m, -v, -q, --junitxml ...
"""


_WITHOUT_OUTPUT = ("order", "shell", "soak")
# pytest answers these without a session.
_NO_RUN = ("--version", "-V", "--help", "-h", "--markers", "--fixtures", "--fixtures-per-test")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) > 100_000:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 100000")
    return int(text)


class Ending(NamedTuple):
    """The status of a command and, of a run that started a guest, how it started.

    ``said``: whether the status is the output's last line, which is for people.
    """

    status: Status
    start: Start | None = None
    said: bool = True

    def __str__(self) -> str:
        """Return the last line of the output."""
        words = f" ({self.start.kind.words})" if self.start else ""
        return f"status {self.status.value}{words}"


class _Parser(argparse.ArgumentParser):
    """Raises usage errors like every other error, so that the status is the last line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"{self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    variables = "\n".join(
        f"  {f'{option.variable}={option.metavar}':21}  {option.help}" for option in OPTIONS
    )
    parser = _Parser(
        prog="dma-rehearsal",
        description="Boots a stock QEMU guest with the DMA device and runs the guest's DMA checks.",
        epilog=_EPILOG.format(variables=variables),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    def add_runs(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--runs",
            type=Path,
            default=Path("build", "runs"),
            metavar="DIR",
            help="where the folders of artefacts go (default: build/runs)",
        )

    def add_tests(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--tests",
            metavar="PATH",
            help="the guest tests of this file or folder, below the current one, not the suite",
        )

    def add_output(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--output",
            action="append",
            metavar="FORMAT[=PATH]",
            help="write the result in a format for other programs, too; several times for several "
            f"({', '.join(outputs.FORMATS)})",
        )

    test_parser = add("test", "run the checks; further arguments go to pytest")
    add_runs(test_parser)
    add_tests(test_parser)
    add_output(test_parser)
    rehearse_parser = add(
        "rehearse",
        "run each test of a driver under every condition, with one report; further arguments go to "
        "pytest",
    )
    add_runs(rehearse_parser)
    add_tests(rehearse_parser)
    add_output(rehearse_parser)
    watch_parser = add(
        "watch", "rerun the checks when a file changes; further arguments go to pytest"
    )
    add_runs(watch_parser)
    add_tests(watch_parser)
    order_parser = add("order", "compare the verdicts of two orders, and of tests alone")
    add_runs(order_parser)
    add_tests(order_parser)
    order_parser.add_argument(
        "--sample", type=_count, default=10, metavar="N", help="tests that run alone, too (10)"
    )
    shell_parser = add("shell", "boot the guest and give a login shell in it")
    add_runs(shell_parser)
    add_tests(shell_parser)
    shell_parser.add_argument(
        "--attach",
        type=Path,
        metavar="FOLDER",
        help="open one more shell in the VM of this run's folder instead (build/runs/latest)",
    )
    soak_parser = add("soak", "run the checks many times in a row; further arguments go to pytest")
    add_runs(soak_parser)
    soak_parser.add_argument("--count", type=_count, default=50, metavar="N", help="runs (50)")
    soak_parser.add_argument(
        "--load", type=_count, default=2, metavar="N", help="busy processes beside them (2)"
    )
    explain_parser = add(
        "explain", "print the story of a test of a run, or of an address or a buffer"
    )
    add_runs(explain_parser)
    explain_parser.add_argument("run", metavar="RUN", help="the run's folder, or its name: latest")
    explain_parser.add_argument(
        "what",
        metavar="TEST|ADDRESS",
        nargs="?",
        help="a test's name or a part of it, an address (0x1000, 0x1000+64) or a buffer (#3); "
        "without it an overview",
    )
    explain_parser.add_argument("--all", action="store_true", help="all lines of a long story")
    timeline_parser = add(
        "timeline", "write the timeline of a run for Perfetto, or for a viewer of waves"
    )
    add_runs(timeline_parser)
    timeline_parser.add_argument("run", metavar="RUN", help="the run's folder, or its name: latest")
    timeline_parser.add_argument(
        "--perfetto", type=Path, metavar="FILE", help="a trace for ui.perfetto.dev"
    )
    timeline_parser.add_argument(
        "--vcd", type=Path, metavar="FILE", help="a value change dump for GTKWave and Surfer"
    )
    timeline_parser.add_argument(
        "--test", metavar="TEST", help="of this test alone; a part of its name is enough"
    )
    report_parser = add("report", "write the page of a run (report.html) again, from its folder")
    add_runs(report_parser)
    report_parser.add_argument(
        "run",
        metavar="RUN",
        nargs="?",
        default="latest",
        help="the run's folder, or its name: latest (without it)",
    )
    faults_parser = add("faults", "list the named faults: name, status, component, description")
    faults_parser.add_argument(
        "--markdown", action="store_true", help="as the table of docs/faults.md"
    )
    schema_parser = add("schema", "print the JSON Schema of a file in a run's folder")
    schema_parser.add_argument(
        "name",
        nargs="?",
        default="attestations",
        metavar="NAME",
        help="attestations (the default), verdicts or environment",
    )
    schema_parser.add_argument(
        "--markdown", action="store_true", help="the tables of docs/attestations.md in its place"
    )
    diff_arguments.add_arguments(
        add("diff", "print what changed between two runs, or a model and a board")
    )
    show_parser = add("show", "print the verdict of a run again: the table, and what failed")
    add_runs(show_parser)
    show_parser.add_argument(
        "run",
        nargs="?",
        default="latest",
        metavar="RUN",
        help="the run's folder, or its name (latest)",
    )
    add("environment", "make QEMU and the guest image, run nothing")
    add("doctor", "say what this machine has and lacks for a run; make nothing")
    add("clean-cache", "remove what the cache holds, but nothing that a run uses")
    add("device", "serve the device models alone, over vfio-user (device --help)")
    return parser


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(argv: list[str]) -> Ending:
    """Run the harness and return how it ended."""
    if argv[:1] == ["device"]:
        from dma_rehearsal.device import __main__ as device

        return Ending(Status(device.main(argv[1:])))
    # Without a command the arguments are those of test.
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        argv = ["test", *argv]
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # under nohup it stays ignored
            signal.signal(number, _terminate)
    try:
        parser = _parser()
        known, rest = parser.parse_known_args(argv)
        if rest and known.command not in ("test", "rehearse", "watch", "soak", "order"):
            parser.error(f"{known.command} takes no {rest[0]!r}")
        return _run(known, rest)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return Ending(error.status)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return Ending(Status.NO_VERDICT)
    except Exception:
        traceback.print_exc()
        print("error: this is a bug of the harness, not a verdict", file=sys.stderr)
        return Ending(Status.NO_VERDICT)


def _given(command: str) -> Options:
    for name, meant in run_options.overlooked(os.environ).items():
        print(
            f"note: the environment variable {name} has no effect; for {meant} see --help",
            file=sys.stderr,
        )
    given = run_options.parse({each.name: os.environ.get(each.variable, "") for each in OPTIONS})
    if given.outputs and command in _WITHOUT_OUTPUT:
        raise UsageError(
            f"OUTPUT is the result of one run, and {command} has none, or several",
            "leave OUTPUT out, or use it with test, rehearse or watch",
        )
    user_modules.check(given.modules)  # UsageError now, and not after the environment is made
    return given


def _run(known: argparse.Namespace, pytest_args: list[str]) -> Ending:
    if known.command == "faults":
        from dma_rehearsal.host_harness import faults

        print(faults.markdown() if known.markdown else faults.listing())
        return Ending(Status.PASSED)
    if known.command == "explain":
        from dma_rehearsal.host_harness.cli import explain

        return Ending(explain.run(_folder(known), known.what, whole=known.all))
    if known.command == "timeline":
        from dma_rehearsal.host_harness.cli import timeline_files

        made = timeline_files.write(
            _folder(known), test=known.test, perfetto=known.perfetto, vcd=known.vcd
        )
        return Ending(made)
    if known.command == "report":
        from dma_rehearsal.host_harness.cli import report

        return Ending(report.run(_folder(known), sys.stdout))
    if known.command == "diff":
        from dma_rehearsal.host_harness.cli import diff

        return Ending(diff.run(known), said=not known.json)
    if known.command == "schema":
        from dma_rehearsal.host_harness.cli import schema

        print(schema.text(known.name, markdown=known.markdown))
        return Ending(Status.PASSED, said=False)
    if known.command == "show":
        from dma_rehearsal.host_harness.cli import show

        return Ending(show.run(_folder(known)))
    if known.command == "doctor":
        from dma_rehearsal.host_harness.cli import doctor

        return Ending(doctor.run(sys.stdout))
    if known.command == "clean-cache":
        from dma_rehearsal.host_harness.cli import doctor

        return Ending(doctor.clean_cache(sys.stdout))
    if known.command == "soak":
        from dma_rehearsal.host_harness.cli import soak

        _given(known.command)
        return Ending(soak.run(known.count, known.load, known.runs, pytest_args))
    if known.command == "order":
        from dma_rehearsal.host_harness.cli import order

        tests = _tests(known)
        return Ending(
            order.run(_given(known.command), tests, known.sample, known.runs, pytest_args)
        )
    if known.command == "shell" and known.attach:
        from dma_rehearsal.host_harness.cli import shell

        return Ending(shell.attach(known.attach))
    if known.command == "shell":
        from dma_rehearsal.host_harness.cli import shell

        given = _given(known.command)
        if given.several_vms:
            raise UsageError(f"VMS={given.vms}: a shell is in one VM", "leave VMS out")
        with Run(given, Progress(), known.runs, tests=_tests(known), shells=True) as run:
            status = shell.run(run)
        return Ending(status, run.start)
    if known.command == "environment":
        with Run(_given(known.command), Progress(), Path()) as run:
            run.prepare()
        return Ending(Status.PASSED)
    if any(word in _NO_RUN for word in pytest_args):
        code = pytest.main(pytest_args, [pytest_plugin])
        return Ending(Status.PASSED if code == pytest.ExitCode.OK else Status.USAGE)
    if known.command == "watch":
        from dma_rehearsal.host_harness.cli import watch

        return Ending(watch.run(_given(known.command), _tests(known), known.runs, pytest_args))
    return _test(known, pytest_args)


def _folder(known: argparse.Namespace) -> Path:
    """Return the folder of the run that is named, below the folder of runs or by its path."""
    below: Path = known.runs / known.run
    return below if below.is_dir() else Path(known.run)


def _tests(known: argparse.Namespace) -> GuestTests:
    tests = GuestTests(Path.cwd(), (known.tests,)) if known.tests else GuestTests()
    tests.files()  # UsageError now, and not after the VM is up
    return tests


def _rehearsing(known: argparse.Namespace, pytest_args: list[str]) -> list[str]:
    """Set what a rehearsal is, and return pytest's arguments; UsageError when no test is named."""
    if not known.tests:
        raise UsageError(
            "rehearse runs guest tests of your driver, and none are named",
            "name their folder: TESTS=guest_tests for make, --tests guest_tests for dma-rehearsal",
        )
    os.environ["REHEARSE"] = "1"
    # The report has each finding once; pytest's summary would have it under every condition.
    shown = any(word.startswith(("--tb", "-r", "--no-summary")) for word in pytest_args)
    return [*pytest_args, *([] if shown else ["--no-summary"])]


def _test(known: argparse.Namespace, pytest_args: list[str]) -> Ending:
    if known.output:
        # Beside those of the variable, not in their place: a CI may set it for every run.
        words = [os.environ.get("OUTPUT", ""), *known.output]
        os.environ["OUTPUT"] = ",".join(filter(None, words))
    try:
        if known.command == "rehearse":
            pytest_args = _rehearsing(known, pytest_args)
        given = _given(known.command)
        tests = _tests(known)
    except UsageError as error:
        # Scripts read the file `status`: it must not be that of the run before.
        run_folder.set_status(run_folder.create(known.runs.absolute()), error.status)
        raise
    quiet = any(re.fullmatch(r"-[a-z]*q[a-z]*|--quiet", word) for word in pytest_args)
    with Run(given, Progress(quiet=quiet), known.runs, tests=tests) as run:
        own_pytest.run_to_status(run, known.runs, pytest_args, Recorder(run))
        print()
        print("\n".join([*run.verdict(), *run.outputs.printed]), flush=True)
        if given.keep and run.vm and not run.error:
            wait_while_kept(run)
    return Ending(Status.NO_VERDICT if run.status is None else run.status, run.start)


def console_main() -> None:
    """Run ``dma-rehearsal``: print the status as the last line, and exit with it."""
    closed_pipe.discard_when_closed()
    final = main(sys.argv[1:])
    sys.stderr.flush()
    if final.said:
        print(final)
    sys.stdout.flush()
    sys.exit(final.status.value)
