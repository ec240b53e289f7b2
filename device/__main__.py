# SPDX-License-Identifier: Apache-2.0
"""The device process: a vfio-user server for each function, and one for the platform."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TextIO

from dma_rehearsal.device import loader, served, watchdog
from dma_rehearsal.device.control_socket import ControlServer
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.exerciser import profile
from dma_rehearsal.device.exerciser.capabilities import OptionalCapability
from dma_rehearsal.device.faults import IMPLEMENTATIONS
from dma_rehearsal.device.faults.injector import FaultError, FaultInjector
from dma_rehearsal.device.layout.faults import BY_NAME
from dma_rehearsal.device.loader import EndpointNotFound
from dma_rehearsal.device.platform.platform import Platform
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.server import VfioUserServer
from dma_rehearsal.device.watchdog import Watchdog

_FAILED, _USAGE_ERROR = 1, 2
_FAILURE_MAX = 1000  # characters of a failure in the trace
# Each device may hold an eventfd for each of its vectors, up to 2,048, and a file for each memory.
_DESCRIPTORS = 16384

_log = logging.getLogger(__name__)
_Server = VfioUserServer | ControlServer
_DESCRIPTION = """\
Serves two virtual PCI devices over vfio-user: the exerciser (13b5:ed01), which does DMA and records
it, and the platform (1234:da7a), whose witness walks page tables and whose protection unit denies
DMA without a grant.
"""
_EPILOG = """\
QEMU >= 10.1 connects to each socket with
  -object memory-backend-memfd,id=ram,size=1G,share=on -machine q35,memory-backend=ram
  -device '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"PATH"}}'

An endpoint of your own is a subclass of dma_rehearsal.device.endpoints.Endpoint;
docs/tutorial.md shows how to write one. Its module is looked for in the
current folder and on PYTHONPATH. A subclass of MultiFunction has several functions:
function 0 is served on the device's socket PATH, function 1 on PATH.1, and so on.

When all sockets listen, one line "ready" goes to standard output, and nothing else. The log, and
what an endpoint prints, goes to standard error.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dma_rehearsal.device",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--exerciser-socket",
        "--endpoint-socket",
        dest="endpoint_sockets",
        action="append",
        type=Path,
        metavar="PATH",
        help="Unix socket of the endpoint; of several, one option for each, in their order",
    )
    add("--platform-socket", type=Path, metavar="PATH", help="Unix socket of the platform")
    add(
        "--peer-socket",
        type=Path,
        metavar="PATH",
        help='serve the endpoint a second time here, as "peer"; the two reach each other\'s memory '
        "BARs",
    )
    add(
        "--slot",
        dest="slots",
        action="append",
        type=lambda text: int(text, 0),
        metavar="N",
        help="the slot on bus 0, 0 to 31, into which the client plugs an endpoint, so that grants "
        "for one function are held against it; of several, one option for each, the peer last",
    )
    add(
        "--endpoint",
        default=loader.DEFAULT,
        metavar="MODULE:CLASS,...",
        help="the class of the endpoint, or of several independent ones (default: %(default)s)",
    )
    add(
        "--iommu",
        action="store_true",
        help="the client has an IOMMU: tell it of DMA that it did not map, for it to raise a fault",
    )
    add(
        "--fault",
        metavar="NAME",
        choices=sorted(IMPLEMENTATIONS),
        help="break one promise on purpose",
    )
    add(
        "--control-socket",
        type=Path,
        metavar="PATH",
        help="set and clear faults, and name the test that runs, through this Unix socket: a line "
        '{"fault": NAME} or {"test": NAME}, or null for none, for each connection',
    )
    add("--list-faults", action="store_true", help="print the faults, one a line, and exit")
    add("--trace", type=Path, metavar="FILE", help="write every DMA and event as JSON lines")
    add(
        "--buffer-size",
        type=lambda text: int(text, 0),
        metavar="BYTES",
        help="the exerciser's data buffer, BAR1: a power of two, 4096 to 16777216 (default: the "
        "profile's, 65536)",
    )
    add(
        "--profile",
        metavar="NAME|PATH",
        help="give the exerciser the identity and limits of a device, or hold an endpoint's DMA "
        f"to the limits: one that is included ({', '.join(profile.shipped())}), or a TOML file; "
        "docs/profiles.md",
    )
    add(
        "--coherent",
        choices=("yes", "no"),
        help="whether that device's DMA is snooped (default: as the profile says)",
    )
    add(
        "--vectors",
        type=int,
        metavar="N",
        help="the exerciser's MSI-X vectors, 1 to 2048 (default: the profile's, 16)",
    )
    add(
        "--capability",
        dest="capabilities",
        action="append",
        type=OptionalCapability,
        metavar="NAME",
        help="have just these optional capabilities, each named by one option: "
        f"{', '.join(each.value for each in OptionalCapability)} (default: ats)",
    )
    add(
        "--patience",
        type=float,
        default=watchdog.PATIENCE_S,
        metavar="SECONDS",
        help="end the process, with a stack of the model, when an access is not answered for so "
        "long; 0 for never, such as under a debugger (default: %(default)s)",
    )
    add(
        "--no-spin",
        action="store_true",
        help="sleep between two messages at once: for a machine whose CPUs are all busy",
    )
    add("--die-with-stdin", action="store_true", help="end when standard input ends")
    add("-v", "--verbose", action="store_true", help="log what connects and what is refused")
    return parser


def main(argv: list[str]) -> int:
    """Serve until SIGTERM, SIGINT or, with --die-with-stdin, the end of standard input.

    Return 0 then, 2 for bad arguments, and 1 when a server ended by itself, which is a bug of ours:
    half a device would look like a device. The process ends with 3 when a model hangs.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if options.list_faults:
        for name in IMPLEMENTATIONS:
            print(f"{name}\t{BY_NAME[name].description}")
        return 0
    if options.endpoint_sockets is None or options.platform_socket is None:
        parser.error("--exerciser-socket and --platform-socket are both needed")
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING,
        format="%(relativeCreated)8d ms %(levelname)s %(name)s: %(message)s",
    )
    ready = _take_output()
    failures = _Failures()
    logging.getLogger().addHandler(failures)
    faulthandler.enable()  # a fatal signal leaves at least a traceback
    _allow_descriptors()
    with contextlib.ExitStack() as stack:
        try:
            trace = failures.trace = Trace(options.trace)
            stack.callback(trace.close)
            servers, watched = _servers(options, trace)
            for server in servers:
                server.listen()
                stack.callback(server.close)
        except (OSError, ValueError, EndpointNotFound, FaultError) as error:
            print(f"python -m dma_rehearsal.device: {error}", file=sys.stderr)
            if hint := getattr(error, "hint", ""):
                print(f"  next: {hint}", file=sys.stderr)
            return _USAGE_ERROR
        _watch(watched, options.patience)
        status = _serve(servers, ready, die_with_stdin=options.die_with_stdin)
    # No verdict can rest on a model with a bug.
    return _FAILED if failures.count else status


def _servers(
    options: argparse.Namespace, trace: Trace
) -> tuple[tuple[_Server, ...], list[watchdog.Watched]]:
    """Return the servers of all functions, the platform and the faults, not listening yet.

    With them, the turns that are to be watched. EndpointNotFound, FaultError or ValueError when an
    option asks for something that cannot be had.
    """
    asked = {
        name: getattr(options, name)
        for name in ("buffer_size", "vectors", "capabilities")
        if getattr(options, name) is not None
    }
    described = options.profile is not None or options.coherent is not None
    functions = served.make(
        options.endpoint,
        options.endpoint_sockets,
        trace,
        asked,
        profile=_profile(options.profile, options.coherent) if described else None,
        peer=options.peer_socket,
        slots=options.slots,
    )
    endpoints = [each.endpoint for each in functions]
    platform = Platform(trace)
    for each in endpoints:
        each.bus.interconnect = platform.interconnect
        each.bus.behind_iommu = options.iommu
    injector = FaultInjector(endpoints, platform)
    injector.set(options.fault)
    control = options.control_socket
    models: list[Endpoint] = [*endpoints, platform]
    paths = [*(each.socket for each in functions), options.platform_socket]
    servers = [
        VfioUserServer(path, each, spin=not options.no_spin)
        for path, each in zip(paths, models, strict=True)
    ]
    watched = [
        watchdog.Watched(server.turn, each.name, each.location)
        for server, each in zip(servers, models, strict=True)
    ]

    answers: dict[str, Callable[[], object]] = {
        "accesses": lambda: sum(each.client_accesses for each in models),
        "functions": lambda: [each.as_json() for each in functions],
    }
    controls = [] if control is None else [ControlServer(control, injector, trace, answers)]
    return (*servers, *controls), watched


def _profile(named: str | None, coherent: str | None) -> profile.Profile:
    """Return the profile that was asked for; ProfileError when it cannot be had."""
    found = profile.PLAIN if named is None else profile.find(named)
    return found if coherent is None else replace(found, coherent=coherent == "yes")


class _Failures(logging.Handler):
    """Counts what was logged as an error: a bug of an endpoint or of a server.

    The trace has it as well, so that a reader of the trace knows at once.
    """

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.count = 0
        self.trace = Trace()

    def emit(self, record: logging.LogRecord) -> None:
        """Count, and tell."""
        self.count += 1
        error = record.exc_info[1] if record.exc_info else None
        text = record.getMessage() + (f": {error!r}" if error else "")
        self.trace.event("device process", "model failed", text=text[:_FAILURE_MAX])


def _allow_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _watch(watched: list[watchdog.Watched], patience_s: float) -> None:
    """End the process when a model hangs; its thread cannot be ended, so nothing else can be."""
    if patience_s <= 0:
        return

    def end(said: str) -> None:
        print(said, file=sys.stderr, flush=True)
        os._exit(watchdog.STATUS)

    dog = Watchdog(watched, patience_s)
    threading.Thread(target=dog.run, args=(end,), daemon=True).start()


def _take_output() -> TextIO:
    """Return standard output, which is for one line alone; what is printed goes where the log does.

    So a ``print`` of an endpoint's is seen at once, in order with the log, and nobody has to read
    it lest the device stops.
    """
    ready = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    return ready


def _serve(servers: tuple[_Server, ...], ready: TextIO, *, die_with_stdin: bool) -> int:
    stop = threading.Event()
    dead: list[_Server] = []

    def serve(server: _Server) -> None:
        try:
            server.serve_forever()
        except BaseException:  # a model may call sys.exit(), which a thread dies of in silence
            _log.exception("%s: the server died of a bug", server.path)
        if not stop.is_set():
            dead.append(server)
            stop.set()

    def end(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    threads = [threading.Thread(target=serve, args=(each,), daemon=True) for each in servers]
    for thread in threads:
        thread.start()
    if die_with_stdin:
        threading.Thread(target=_await_end_of_input, args=(stop,), daemon=True).start()
    with contextlib.suppress(OSError), ready:  # the parent process may have gone
        ready.write("ready\n")
    stop.wait()
    for server in servers:
        server.close()
    for thread in threads:
        thread.join(2)
    for server in dead:
        print(
            f"python -m dma_rehearsal.device: {server.path}: the server ended by itself",
            file=sys.stderr,
        )
    return _FAILED if dead else 0


def _await_end_of_input(stop: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    stop.set()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
