# SPDX-License-Identifier: Apache-2.0
"""The fixture ``driver``: a kernel driver, bound to the endpoint while its DMA is watched.

A module of ours hooks the function's DMA API and tells the platform each call; the host judges what
comes into the device's trace. Here the driver is loaded, bound, unbound and unloaded, and all is
undone, whatever happens in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from dma_rehearsal.guest.drivers import dma_ops, driver_modules
from dma_rehearsal.guest.drivers.driver_modules import DriverModule, DriverModules, Value
from dma_rehearsal.guest.drivers.kernel_binding import (
    NOBODY,
    BoundFunction,
    KernelStuck,
    endpoint_functions,
)
from dma_rehearsal.guest.drivers.pci_bars import PciError
from dma_rehearsal.guest.iobuffer.memory import placement
from dma_rehearsal.guest.linux.kernel_messages import KernelMessages, trouble
from dma_rehearsal.guest.testkit import device_files, driver_expectations
from dma_rehearsal.guest.testkit.attestation import CheckFailed, is_verdict
from dma_rehearsal.guest.testkit.conditions import Condition
from dma_rehearsal.guest.testkit.driver_expectations import Kind
from dma_rehearsal.guest.testkit.rehearsed_board import LINE, drain, rehearsed_board
from dma_rehearsal.guest.testkit.session_platform import SessionPlatform
from dma_rehearsal.guest.testkit.undoing import Undoing


def _is_told(error: pytest.ExceptionInfo[BaseException]) -> bool:
    """Return whether the message says it all, so that a report leaves out the kit's frames."""
    return is_verdict(error) or error.errisinstance(PciError)


__tracebackhide__ = _is_told

PROPERTY: Final = "driver run"
KALLSYMS: Final = Path("/proc/kallsyms")
_KERNEL_START: Final = " _stext"
SINCE_BIND: Final = "; the kernel's messages since the bind:"
_MESSAGES: Final = 15  # lines of the kernel's, in an error
_OWN: Final = "dma_rehearsal"  # the driver of Python drivers, which gets its function back


class RehearsalFailed(CheckFailed):
    """The driver did what no condition excuses: an oops, a warning, a hang."""


class ProbeFailed(PciError):
    """The driver's probe failed, which can be right when a mapping failed before."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A driver that has the function. ``function`` is its PCI address, ``name`` the PCI driver's.

    ``module`` is the module's name in /sys/module, ``folder`` the function's folder in sysfs.
    ``functions`` are the addresses of all functions that it has; ``function`` is the first.
    """

    name: str
    module: str
    folder: Path
    functions: tuple[str, ...] = ()

    @property
    def function(self) -> str:
        """The function's PCI address, such as 0000:00:04.0."""
        return self.folder.name


@dataclass(slots=True)
class Failures:
    """The plan of one run of a test's body: the ``due``-th call that can fail does; 0: none.

    ``calls`` counts those so far, in all of the body's bindings, ``failed`` those that did.
    """

    due: int = 0
    calls: int = 0
    failed: int = 0

    @property
    def next(self) -> int:
        """The call that is to fail, counted from the next binding on; 0: none."""
        return max(0, self.due - self.calls)


class DriverRehearsal:
    """Loads a kernel driver, binds it to the endpoint, and has its use of DMA judged.

    ``with driver("my_driver", ring_size=64) as bound:`` loads the module with these parameters and
    binds it. The end unbinds and unloads it. A report, a refused DMA or a leak that the test does
    not expect fails the test, and so does an oops or a warning of the kernel.
    """

    def __init__(
        self, session: SessionPlatform, condition: Condition, place: str | None = None
    ) -> None:
        self._session, self.condition = session, condition
        self._hostile = (condition.place or place) == placement.HOSTILE
        self._modules = DriverModules()
        self.failures = Failures()

    @property
    def function(self) -> str:
        """The PCI address of the endpoint's function, of several the first one's."""
        return self.functions[0]

    @property
    def functions(self) -> tuple[str, ...]:
        """The PCI addresses of the endpoint's functions, ascending."""
        if not (found := endpoint_functions()):
            raise PciError("the guest has no endpoint: name it by ENDPOINT=module:Class")
        return tuple(each.address for each in found)

    def __call__(
        self,
        name: str,
        /,
        *,
        function: str | int = 0,
        functions: Sequence[str | int] = (),
        **parameters: Value,
    ) -> AbstractContextManager[Bound]:
        """Load a driver with module parameters, and bind it within the ``with``.

        ``function``: another one than `function`, by its PCI address, or by its place in
        `functions`. ``functions``: bind the driver to each of these, in this order, and unbind it
        in the opposite one. ``ProbeFailed`` has the kernel's last messages.
        """
        wanted = functions or (function,)
        return self._rehearsed(name, [self._find(each) for each in wanted], parameters)

    def expects(self, *kinds: Kind, count: int | None = None) -> AbstractContextManager[None]:
        """Announce reports of the driver, of the cache model, and refused DMA, by their kinds.

        At least one of them must come within the ``with``; with ``count`` exactly so many. The
        ``with`` of the driver must end within it where the report comes at the unbind.
        """
        return driver_expectations.expects(
            self._session, kinds, count, optional=bool(self.failures.due)
        )

    def _find(self, wanted: str | int) -> BoundFunction:
        addresses = self.functions
        for place, each in enumerate(endpoint_functions()):
            if wanted in (each.address, place):
                return each
        raise PciError(f"the endpoint has no function {wanted}: {', '.join(addresses)}")

    @contextmanager
    def _rehearsed(
        self, name: str, targets: Sequence[BoundFunction], parameters: dict[str, Value]
    ) -> Iterator[Bound]:
        if earlier := self._session.stuck:
            raise RehearsalFailed(f"{earlier}, in an earlier test, so no driver can be bound now")
        with KernelMessages() as messages:
            try:
                with Undoing() as undo:
                    yield self._enter(undo, name, targets, parameters, messages)
            except KernelStuck as error:
                raise RehearsalFailed(f"{error}{_oops(messages)}") from error
            except Exception as error:
                if text := _oops(messages):
                    raise RehearsalFailed(text.strip()) from error
                raise
            if text := _oops(messages):
                raise RehearsalFailed(text.strip())

    def _enter(
        self,
        undo: Undoing,
        name: str,
        targets: Sequence[BoundFunction],
        parameters: dict[str, Value],
        messages: KernelMessages,
    ) -> Bound:
        """Bind the driver; ``undo`` gets what undoes each step, as the steps are done."""
        module = self._modules.find(name)
        watcher = undo.enter(rehearsed_board(self._session.platform, self.condition))
        if watcher is not None:
            undo.then(watcher.check)
        for each in endpoint_functions():
            if each not in targets and each.driver is None:
                each.allow(NOBODY)  # else the module gets it by its id as soon as it is loaded
        for each in targets:
            self._free(each, undo)
        if not self.condition.plain:
            self._hook(targets, undo)
        before = device_files.open_devices()
        self._modules.load(module.name, parameters)
        undo.then(self._unless_stuck(lambda: self._unload(module, before, undo)))
        self._tell(module)
        driver = self._modules.pci_driver(module)
        for each in targets:
            self._bind(each, driver, undo, messages)
        addresses = tuple(each.address for each in targets)
        return Bound(driver, module.name, targets[0].folder, addresses)

    def _bind(
        self, target: BoundFunction, driver: str, undo: Undoing, messages: KernelMessages
    ) -> None:
        undo.then(lambda: self._leave(target))
        try:
            self._unstuck(lambda: target.bind(driver))
        except OSError as error:
            raise ProbeFailed(_refused(driver, target, error, messages)) from None

    def _free(self, target: BoundFunction, undo: Undoing) -> None:
        """Take the function from the driver that has it, until the end if that is our own."""
        former = target.driver
        self._unstuck(target.unbind)
        target.allow(NOBODY)

        def give_back() -> None:
            target.allow(None)
            if former == _OWN:
                target.bind(former)
                target.allow(None)

        undo.then(self._unless_stuck(give_back))

    def _hook(self, targets: Sequence[BoundFunction], undo: Undoing) -> None:
        """Load the module that watches the DMA API of the functions."""
        condition = self.condition
        dma_ops.load(
            function=[each.address for each in targets],
            grants=1,
            cache=int(not condition.coherent),
            device_bits=condition.device_bits,
            line=LINE,
            merge=int(condition.merge),
            bounce=int(condition.bounce),
            hostile=int(self._hostile),
            fail_nth=self.failures.next,
        )

        def end() -> None:
            try:
                found = dma_ops.failures()
                self.failures.calls += found.calls
                self.failures.failed += found.failed
            finally:
                dma_ops.unload()

        undo.then(self._unless_stuck(end))

    def _leave(self, target: BoundFunction) -> None:
        """Unbind the driver, whose leaks are reported then."""
        try:
            if not self._session.stuck:  # else its probe holds the function's lock
                self._unstuck(target.unbind)
        finally:
            drain(self._session.platform)

    def _unload(self, module: DriverModule, before: dict[int, str], undo: Undoing) -> None:
        """Unload the driver's module, also if the test has left its device open."""
        opened = device_files.open_devices()
        opened = {number: path for number, path in opened.items() if before.get(number) != path}
        if undo.error is not None:
            device_files.let_go(opened)
        try:
            self._modules.unload(module)
        except PciError as error:
            left = device_files.let_go(opened)
            if not left:
                raise
            self._modules.unload(module)
            raise RehearsalFailed(
                f"the test leaves {', '.join(left)} open, so {module.name} could not be unloaded; "
                "next: close it before the end of the with, or in a with of its own"
            ) from error

    def _unstuck(self, call: Callable[[], None]) -> None:
        """Do a call into the kernel; where it hangs, no later one may wait for it."""
        try:
            call()
        except KernelStuck as error:
            self._session.stuck = str(error).partition("\n")[0]
            raise

    def _unless_stuck(self, step: Callable[[], None]) -> Callable[[], None]:
        """Leave a step out when a call into the kernel hangs, and holds the function's lock."""
        return lambda: None if self._session.stuck else step()

    def _tell(self, module: DriverModule) -> None:
        """Tell the host the condition, and where the module's code is, to name its callers."""
        loaded = {module.name: _text_sections(module.name)}
        for each in self._modules.needed(module):
            loaded[each.name] = _text_sections(each.name)
        loaded[""] = {"_stext": kernel_start()}
        failing = f", failure {self.failures.due}" if self.failures.due else ""
        self._session.say(
            PROPERTY,
            {
                "mark": self._session.mark(),
                "driver": module.name,
                "condition": f"{self.condition}{failing}",
                "loaded": loaded,
            },
        )


def take_from_the_kernel() -> None:
    """Unbind drivers that the kernel bound to the endpoint by itself, such as those built into it.

    Nothing has hooked their DMA, so it must end before the protection unit is on. Nobody gets the
    functions until a test binds its driver.
    """
    for each in endpoint_functions():
        if each.driver != _OWN:
            each.unbind()
            each.allow(NOBODY)


def _text_sections(module: str) -> dict[str, int]:
    found = driver_modules.sections(module)
    return {name: address for name, address in found.items() if "text" in name}


@cache
def kernel_start() -> int:
    """Return where the kernel's code begins, 0 where the kernel does not tell."""
    try:
        with KALLSYMS.open() as symbols:
            for line in symbols:
                if line.rstrip().endswith(_KERNEL_START):
                    return int(line.split()[0], 16)
    except (OSError, ValueError):
        return 0
    return 0


def _refused(driver: str, target: BoundFunction, error: OSError, messages: KernelMessages) -> str:
    said = messages.read()[-_MESSAGES:]
    text = "".join(f"\n    {line}" for line in said) or "\n    (none)"
    return f"the probe of {driver} at {target.address} failed: {error.strerror}{SINCE_BIND}{text}"


def _oops(messages: KernelMessages) -> str:
    """Return the kernel's oops or warning, as lines of a message; empty where there is none."""
    if not (lines := trouble(messages.read())):
        return ""
    return "\n".join(["\nthe kernel says:", *(f"    {line}" for line in lines)])
