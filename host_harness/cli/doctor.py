# SPDX-License-Identifier: Apache-2.0
"""Checks whether a run works on this machine: a table, a hint for each problem, and a status.

It makes nothing, and needs nothing installed: ``python3 -m dma_rehearsal.host_harness.cli.doctor``
uses the standard library alone. Every probe is bounded in time.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TextIO

from dma_rehearsal.host_harness.environment import (
    accelerator,
    build_cache,
    cache_cleaning,
    disk_space,
    driver_build,
    guest_image,
    host_tools,
    kernel_config,
    kernel_tree,
    manifest,
    qemu,
)
from dma_rehearsal.host_harness.environment.payload import SOURCE
from dma_rehearsal.host_harness.machine import guest_memory
from dma_rehearsal.host_harness.options import run_options
from dma_rehearsal.host_harness.options.run_options import OPTIONS, Options
from dma_rehearsal.host_harness.process import advice, children, closed_pipe
from dma_rehearsal.host_harness.process.errors import (
    EnvironmentFailure,
    HarnessError,
    NoVerdict,
    Status,
    UsageError,
)

if TYPE_CHECKING:
    from dma_rehearsal.host_harness.session.guest_states import Start

_PROBE_TIMEOUT_S = 20
_PACKAGES = ("pytest", "pexpect", "qemu.qmp")


class Mark(StrEnum):
    """The result in a row of the table."""

    FINE = "ok"
    NOTE = "note"  # a run works, with a limit
    MISSING = "MISSING"  # a run does not work


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: the subject, the finding, and what to do about it."""

    subject: str
    mark: Mark
    found: str
    hint: str = ""


def _fine(subject: str, found: str) -> Row:
    return Row(subject, Mark.FINE, found)


def architecture() -> Iterator[Row]:
    """Look at the machine: a run needs x86-64 Linux."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) == ("Linux", "x86_64"):
        yield _fine("architecture", f"{machine}, Linux {platform.release()}")
    else:
        yield Row(
            "architecture",
            Mark.MISSING,
            f"{machine}, {system}",
            "run on x86-64 Linux: the guest's kernel and QEMU are Debian's amd64 packages",
        )


def python() -> Iterator[Row]:
    """Look at Python and at the packages: those of ``make setup``, or those installed with pip."""
    yield _fine("Python", f"{platform.python_version()} ({sys.executable})")
    yield from _virtual_environment() if advice.in_checkout() else _installed_packages()


def _installed_packages() -> Iterator[Row]:
    found = {name: _version(name) for name in _PACKAGES}
    if lacking := [name for name, version in found.items() if version is None]:
        yield Row("packages", Mark.MISSING, f"lacking: {', '.join(lacking)}", advice.packages())
    else:
        yield _fine("packages", ", ".join(f"{name} {version}" for name, version in found.items()))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _virtual_environment() -> Iterator[Row]:
    venv = SOURCE / "build" / "venv"
    try:
        stamp = (venv / ".made-from").read_text()
    except OSError:
        stamp = ""
    script = (
        "import importlib.metadata as m, sys\n"
        "print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
    )
    if not stamp:
        command = ["python3", "-c", "import ensurepip, venv"]
        if children.run(command, timeout_s=_PROBE_TIMEOUT_S).returncode != 0:
            yield Row(
                "venv",
                Mark.MISSING,
                "python3 cannot make virtual environments",
                host_tools.install("python3-venv"),
            )
            return
        yield Row("venv", Mark.NOTE, f"{venv}: to be made", "make setup (needs the network once)")
        return
    try:
        done = children.run(
            [str(venv / "bin/python"), "-I", "-c", script, *_PACKAGES], timeout_s=_PROBE_TIMEOUT_S
        )
        said = done.stdout.strip() if done.returncode == 0 else ""
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    if said:
        yield _fine("venv", said)
    else:
        yield Row("venv", Mark.NOTE, f"{venv}: broken", "make setup makes it again")


def programs() -> Iterator[Row]:
    """Look for the programs that the harness runs, each with its package."""
    lacking = {name: pkg for name, pkg in host_tools.PACKAGES.items() if shutil.which(name) is None}
    if not host_tools.KEYRING.exists():
        lacking[str(host_tools.KEYRING)] = "debian-archive-keyring"
    if lacking:
        names = ", ".join(f"{name} ({package})" for name, package in lacking.items())
        yield Row("tools", Mark.MISSING, f"lacking: {names}", host_tools.install(*lacking.values()))
    else:
        yield _fine("tools", ", ".join(host_tools.PACKAGES))


def emulator() -> Iterator[Row]:
    """Look at the QEMU that a run would use, and at its accelerator."""
    passed_over: list[str] = []
    found = qemu.given(passed_over.append)
    for text in passed_over:
        yield Row("QEMU", Mark.NOTE, text)
    if found is None:
        found = qemu.cached()
    if found is None:
        yield Row(
            "QEMU",
            Mark.NOTE,
            "a private one will be made from Debian's packages",
            "the first run makes it (70 MB to fetch)",
        )
    else:
        path = found.command[0] if found.origin in ("$QEMU", "PATH") else found.origin
        yield _fine("QEMU", f"{found.version} ({path}), has vfio-user-pci")
    yield _accelerator(found)


def _accelerator(found: qemu.Qemu | None) -> Row:
    wanted = os.environ.get("ACCEL")
    kernel = guest_image.kernel_in_cache()
    unopened = accelerator.why_kvm_cannot_be_opened()
    if unopened is None and wanted != "tcg" and (found is None or kernel is None):
        return Row(
            "accelerator", Mark.NOTE, "/dev/kvm opens; the first run probes whether it works"
        )
    if found is not None and kernel is not None:
        chosen, why = accelerator.choose(found, kernel, wanted)
    elif wanted == "kvm":
        return Row("accelerator", Mark.MISSING, f"ACCEL=kvm, but {unopened}", "unset ACCEL")
    else:
        chosen, why = "tcg", "tcg, as asked" if wanted else f"tcg (no KVM: {unopened})"
    if chosen == "kvm":
        return _fine("accelerator", why)
    hint = "the whole suite takes about 30 to 60 s under emulation"
    if unopened is not None and not wanted:
        hint += "; faster with KVM: load kvm_intel or kvm_amd, and join the group kvm"
    return Row("accelerator", Mark.NOTE, why, hint)


def way_to_build() -> Iterator[Row]:
    """Look at user namespaces and at the way in which the guest's driver would be built."""
    reason = driver_build.unavailable_reason(driver_build.Way.USERNS)
    yield Row(
        "namespaces",
        Mark.NOTE if reason else Mark.FINE,
        f"no user namespaces: {reason}" if reason else "user namespaces work",
    )
    chosen = driver_build.choose()
    forced = f", as {driver_build.SETTING} asks" if driver_build.asked() else ""
    yield _fine("driver", f"would be built in the way {chosen!s}{forced}")


def cached_image() -> Iterator[Row]:
    """Look at the guest image in the cache."""
    options = _options()
    uses = kernel_config.uses(
        pvh=options.boot == "pvh",
        iommu=options.iommu,
        driver=bool(options.modules or options.driver),
    )
    kernel_tree.check(options.kernel, uses)
    made = guest_image.made(options.kernel, options.packages)
    if not made.to_make:
        yield _fine(
            "guest image",
            f"kernel {made.kernel} ({options.kernel}), Python {made.python}, pytest {made.pytest}",
        )
        return
    versions = f"; kernel {made.kernel or 'of'} ({options.kernel})"
    versions += f", Python {made.python}" if made.python else ""
    yield Row(
        "guest image",
        Mark.NOTE,
        f"to be made: {', '.join(made.to_make)}{versions}",
        "the first run makes it" + _fetched(made.to_make),
    )


def _fetched(to_make: Sequence[str]) -> str:
    """Return what is fetched to make these parts."""
    if "kernel" in to_make:
        return " (150 MB to fetch)"
    return " (needs the network)" if "packages" in to_make else ", without the network"


def cached() -> Iterator[Row]:
    """Look at the cache: where, how much, whether its entries are sound, and the space for more."""
    root = build_cache.cache_root()
    found = {kind: build_cache.entries(kind) for kind in build_cache.KINDS}
    count = sum(len(paths) for paths in found.values())
    free = disk_space.free(root)
    size = f"{disk_space.amount(build_cache.usage(root))}, " if root.is_dir() else ""
    words = f"{root}: {size}{count} entries, {disk_space.amount(free)} free"
    needed = sum(kind.needed for kind in build_cache.NEEDED if not found[kind])
    nearest = next(path for path in (root, *root.parents) if path.exists())
    if not nearest.is_dir():
        yield Row("cache", Mark.MISSING, f"{nearest} is not a folder", _moves())
    elif not os.access(nearest, os.W_OK | os.X_OK):
        mark = Mark.MISSING if needed else Mark.NOTE
        yield Row("cache", mark, f"{words}; it cannot be written", _moves())
    elif free < needed:
        yield Row(
            "cache",
            Mark.MISSING,
            f"{words}, where {disk_space.amount(needed)} are needed",
            f"free some, or {_moves()}",
        )
    else:
        yield _fine("cache", words)
    broken = [
        f"{kind.name}/{path.name}: {fault}"
        for kind, paths in found.items()
        for path in paths
        if (fault := manifest.fault_of(path))
    ]
    if broken:
        yield Row(
            "cache",
            Mark.NOTE,
            f"{len(broken)} entries are broken, the first is {broken[0]}",
            f"a run makes again what it needs; {advice.command('clean-cache')} frees the rest",
        )


def saved_states() -> Iterator[Row]:
    """Look at the saved machine states: what the next run starts from, and whether one is saved."""
    try:
        yield from _outlook(_options())
    except ImportError:  # run without the virtual environment
        yield Row("next run", Mark.NOTE, "not known without the Python packages")
    except EnvironmentFailure:
        return  # of QEMU or the accelerator, which have rows of their own
    except OSError as error:
        yield Row("saved states", Mark.NOTE, f"cannot be checked: {error}", "STATE=no uses none")


def _options() -> Options:
    return run_options.parse({each.name: os.environ.get(each.variable, "") for each in OPTIONS})


def _outlook(options: Options) -> Iterator[Row]:
    # Imported here: it needs the virtual environment.
    from dma_rehearsal.host_harness.session import outlook

    image = guest_image.in_cache(options.kernel, options.packages)
    found = qemu.given(lambda _: None) or qemu.cached()
    unable = ""
    if found is None or image is None:
        yield Row("next run", Mark.NOTE, "boots cold, when everything is made")
    else:
        unable = qemu.why_no_states(found)
        chosen, _ = accelerator.choose(found, image.kernel, options.accel)
        try:
            yield _next_run(outlook.next_start(options, found, image, chosen))
        except (UsageError, NoVerdict) as error:  # the endpoint cannot be served
            yield Row("next run", Mark.MISSING, str(error.args[0]), error.hint)
        if chosen == "kvm":
            yield Row(
                "next run",
                Mark.NOTE,
                "saved states under KVM are untried: they are written for it, and tested with TCG",
                "STATE=no, when a run under KVM does not come up",
            )
    states = outlook.saved_states()
    words = f"{states.booted} booted, {states.collected} with collected tests"
    if states.booted + states.collected:
        words += f"; {disk_space.amount(states.size)}, the last was used {_ago(states.unused_s)}"
    if unable:
        words, hint = f"{words}; this QEMU saves none: {unable}", "every run boots cold with it"
        yield Row("saved states", Mark.NOTE, words, hint)
    elif reason := build_cache.why_not_offered(build_cache.BOOTED):
        hint = f"runs work, and boot cold where no state fits; {_moves()}"
        yield Row("saved states", Mark.NOTE, f"{words}; no new one is saved: {reason}", hint)
    else:
        yield _fine("saved states", words)


def _next_run(start: Start) -> Row:
    found = f"{_STARTS[start.kind.value]}{f': {start.reason}' if start.reason else ''}"
    return _fine("next run", found)


_STARTS = {
    "cold": "boots cold",
    "booted": "starts from a booted guest",
    "collected": "starts with its tests collected",
}


def _ago(seconds: float) -> str:
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name} ago"
    return "just now" if seconds < 60 else "a minute ago"


def _moves() -> str:
    return "DMA_REHEARSAL_CACHE=/another/folder moves the cache"


def memory_available() -> Iterator[Row]:
    """Look at the memory: the guest's RAM is shared memory, and QEMU needs some beside it."""
    needed = guest_memory.VM_SIZE
    available = guest_memory.available()
    words = f"{disk_space.amount(available)} available"
    if available >= needed:
        yield _fine("memory", words)
    else:
        yield Row(
            "memory",
            Mark.MISSING,
            f"{words}, a run needs {disk_space.amount(needed)}",
            "end other programs, or give this machine more memory",
        )


LOOKS: tuple[tuple[str, Callable[[], Iterator[Row]]], ...] = (
    ("architecture", architecture),
    ("Python", python),
    ("tools", programs),
    ("QEMU", emulator),
    ("driver", way_to_build),
    ("guest image", cached_image),
    ("cache", cached),
    ("memory", memory_available),
    ("saved states", saved_states),
)


def rows() -> Iterator[Row]:
    """Look at everything; an error of the harness becomes a row with its hint."""
    for subject, look in LOOKS:
        try:
            yield from look()
        except HarnessError as error:
            yield Row(subject, Mark.MISSING, str(error.args[0]), error.hint)
        except (OSError, subprocess.SubprocessError) as error:
            yield Row(subject, Mark.MISSING, f"cannot be checked: {error}")


def run(stream: TextIO) -> Status:
    """Print the table to ``stream``; PASSED when a run would work here, else ENVIRONMENT."""
    missing = 0
    for row in rows():
        missing += row.mark is Mark.MISSING
        first, *more = row.found.splitlines() or [""]
        print(f"{row.subject:<13} {row.mark:<8} {first}", file=stream)
        for line in more:
            print(f"{'':<22} {line}", file=stream)
        if row.hint:
            print(f"{'':<22} next: {row.hint}", file=stream)
        stream.flush()
    if missing:
        print(f"\na run does not work here: {missing} missing", file=stream)
        return Status.ENVIRONMENT
    print("\na run works here", file=stream)
    return Status.PASSED


def clean_cache(stream: TextIO) -> Status:
    """Remove unused entries of the cache and print how much that freed."""
    freed = cache_cleaning.clean(lambda text: print(text, file=stream, flush=True))
    print(f"freed {disk_space.amount(freed)} in {build_cache.cache_root()}", file=stream)
    return Status.PASSED


def main(arguments: list[str]) -> Status:
    """Run the doctor, or ``clean-cache``, without the virtual environment."""
    try:
        if arguments == ["clean-cache"]:
            return clean_cache(sys.stdout)
        if arguments:
            raise UsageError(f"unknown: {' '.join(arguments)}", "give nothing, or clean-cache")
        return run(sys.stdout)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status


if __name__ == "__main__":
    closed_pipe.discard_when_closed()
    sys.exit(main(sys.argv[1:]))
