# SPDX-License-Identifier: Apache-2.0
"""The device process of a VM: its start, and requests to its control socket while it runs."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dma_rehearsal
from dma_rehearsal.host_harness.machine import plugged_functions, sockets_folder
from dma_rehearsal.host_harness.machine.plugged_functions import PluggedFunction
from dma_rehearsal.host_harness.options.run_options import Options
from dma_rehearsal.host_harness.process import advice
from dma_rehearsal.host_harness.process.children import child, how_it_ended
from dma_rehearsal.host_harness.process.deadlines import wait_limit
from dma_rehearsal.host_harness.process.errors import NoVerdict, Status, UsageError
from dma_rehearsal.host_harness.process.plain_text import tail

SOCKET = "control"  # its name in the folder of a VM's sockets
TRACE = "device-trace.jsonl"
"""The device's trace, in the folder of a VM's artefacts."""
ACCESSES = "device-accesses.bin"
"""The accesses to the endpoints, in the same folder (device/layout/access_records.py)."""
_LOG = "device.log"
_PATIENCE_S = 10.0
# What a VM keeps busy: the guest's first CPU, and the device process that answers it.
_CPUS = 2
_ANSWER_MAX = 1 << 20  # bytes; a name comes back with each of its characters escaped


@dataclass(slots=True)
class DeviceProcess:
    """A device process that was started.

    ``sockets`` is the folder of its sockets, and of others of its VM.
    """

    process: subprocess.Popen[bytes]
    sockets: Path
    _folder: Path
    _options: Options
    _ready: bool = False

    @property
    def platform(self) -> Path:
        """The socket of the platform."""
        return self.sockets / "platform"

    def functions(self) -> tuple[PluggedFunction, ...]:
        """Return the functions of the endpoints; a user's process says which it has, once ready.

        Errors as `await_ready`'s, and NoVerdict when the process does not answer.
        """
        if self._options.endpoint is None:
            return plugged_functions.usual(self._options, self.sockets)
        self.await_ready()
        said = _ask(self.sockets / SOCKET, {"functions": None}, "device up")
        try:
            return plugged_functions.told(said["functions"])
        except (TypeError, KeyError, ValueError) as error:
            raise NoVerdict(
                "device up", f"the device does not tell its functions: {error}"
            ) from error

    def await_ready(self) -> subprocess.Popen[bytes]:
        """Return the process once it listens on its sockets.

        UsageError for an endpoint that cannot be served, NoVerdict when the process dies or its
        deadline, which counts from this call, passes.
        """
        device, log, endpoint = self.process, self._folder / _LOG, self._options.endpoint
        if self._ready:
            return device
        if device.stdout is None:
            raise NoVerdict("device up", "the device process has no standard output")
        limit = self._options.deadlines["device up"]
        with selectors.DefaultSelector() as selector:
            selector.register(device.stdout, selectors.EVENT_READ)
            answered = bool(selector.select(wait_limit(limit)))
        line = device.stdout.readline() if answered else b""
        if line.strip() != b"ready":
            if answered:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    device.wait(5)
                if device.returncode == Status.USAGE and endpoint:
                    raise _endpoint_refused(endpoint, log)
                reason = f"is not ready ({how_it_ended(device)})"
            else:
                reason = f"is not ready within its deadline of {limit:g} s"
            said = "\n".join(f"  | {text}" for text in tail(log))
            raise NoVerdict("device up", f"the device process {reason}\n{said}".rstrip())
        self._ready = True
        return device


def start(stack: ExitStack, options: Options, folder: Path, *, vms: int = 1) -> DeviceProcess:
    """Start the device process of a VM; it becomes ready beside what the caller does.

    ``folder`` takes its trace and its log; the end of ``stack`` ends it. ``vms``: the number of VMs
    that run at a time. EnvironmentFailure when no folder can hold its sockets.
    """
    sockets = sockets_folder.make(stack)
    first, *others = plugged_functions.usual(options, sockets)
    fault = options.fault
    argv = [
        # -P: modules of the current folder must not hide those of the standard library.
        *(sys.executable, "-P", "-m", "dma_rehearsal.device", "--die-with-stdin"),
        *("--exerciser-socket", str(first.socket)),
        *("--platform-socket", str(sockets / "platform")),
        *("--control-socket", str(sockets / SOCKET)),
        *("--trace", str(folder / TRACE)),
    ]
    more = "--endpoint-socket" if options.endpoint else "--peer-socket"
    for each in others:
        argv += [more, str(each.socket)]
    # Behind the port of a slot for hot-plug, the guest chooses the number of the bus.
    for each in () if options.hotplug else (first, *others):
        argv += ["--slot", str(each.slot(iommu=options.iommu))]
    if len(os.sched_getaffinity(0)) < _CPUS * vms:
        argv += ["--no-spin"]
    if options.gdb:
        argv += ["--patience", "0"]  # a user who debugs the guest may debug the device, too
    if fault and fault.component.in_device:
        argv += ["--fault", fault.name]
    for name in ("endpoint", "profile"):
        if name in options.given:
            argv += [f"--{name}", options.given[name]]
    if "coherent" in options.given:
        argv += ["--coherent", "yes" if options.profile.coherent else "no"]
    if options.iommu:
        argv += ["--iommu"]
    # Python finds a user's endpoint as any module: in the current folder, or on PYTHONPATH.
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    # dma_rehearsal comes last: a checkout's folder also has a `device`, which is not the user's.
    own = str(Path(dma_rehearsal.__file__).parents[1])
    python_path = [str(Path.cwd()), *filter(None, given), own]
    log = stack.enter_context((folder / _LOG).open("wb"))
    device = stack.enter_context(
        child(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            environment={**os.environ, "PYTHONPATH": os.pathsep.join(python_path)},
        )
    )
    return DeviceProcess(device, sockets, folder, options)


def _endpoint_refused(endpoint: str, log: Path) -> UsageError:
    """Return the error for an endpoint that cannot be served, with the device process's message."""
    *said, last = tail(log, 4) or [""]
    _, is_hint, hint = last.partition("next: ")
    if not is_hint:
        said.append(last)
        classes = " or ".join(each.partition(":")[2] for each in endpoint.split(","))
        hint = f"fix {classes}: docs/tutorial.md says what an endpoint can have"
    return UsageError(f"ENDPOINT={endpoint}: {' '.join(said)}", hint)


def set_fault(path: Path, name: str | None) -> None:
    """Set the device's fault, in place of any other; None clears it.

    Call it between tests, because transfers in flight end as they began. UsageError when the device
    refuses it, as it does a fault that is not the device's; NoVerdict when it does not answer.
    """
    said = _ask(path, {"fault": name}, "fault")
    if said != {"fault": name}:
        raise UsageError(f"the device: {_error(said)}", f"{advice.command('faults')} lists them")


def set_test(path: Path, nodeid: str | None) -> None:
    """Name this test in every later event of the device's trace; None: no test.

    NoVerdict when the device does not answer, or refuses the name, as it does one of 64 KiB: the
    trace could then not say which test did what.
    """
    said = _ask(path, {"test": nodeid}, "test")
    if said != {"test": nodeid}:
        raise NoVerdict("test", f"the device does not take the test's name: {_error(said)}")


def accesses(path: Path) -> int:
    """Return the number of accesses to all functions so far, to configuration space and BARs.

    Those to a BAR that QEMU maps are not among them. NoVerdict when the device does not answer.
    """
    said = _ask(path, {"accesses": None}, "collection")
    count = said.get("accesses") if isinstance(said, dict) else None
    if not isinstance(count, int):
        raise NoVerdict("collection", f"the device does not count accesses: {_error(said)}")
    return count


def _ask(path: Path, request: dict[str, str | None], what: str) -> Any:
    """Return the answer to a request, on a connection of its own. NoVerdict without an answer."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
            control.settimeout(_PATIENCE_S)
            control.connect(str(path))
            control.sendall(json.dumps(request).encode() + b"\n")
            answer = bytearray()
            while not answer.endswith(b"\n") and len(answer) < _ANSWER_MAX:
                part = control.recv(_ANSWER_MAX)
                if not part:
                    break
                answer += part
        return json.loads(answer)
    except (OSError, ValueError) as error:
        raise NoVerdict(what, f"the device's control socket does not answer: {error}") from error


def _error(said: Any) -> Any:
    return said.get("error", said) if isinstance(said, dict) else said
