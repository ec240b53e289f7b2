# SPDX-License-Identifier: Apache-2.0
"""Named faults of the fixture that rehearses kernel drivers, applied from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dma_rehearsal.device.layout import CacheReportKind, DmaReason
from dma_rehearsal.device.layout.driver_reports import DriverReportKind
from dma_rehearsal.guest.drivers import dma_ops
from dma_rehearsal.guest.drivers.driver_modules import Value
from dma_rehearsal.guest.testkit import driver_expectations, driver_rehearsal
from dma_rehearsal.guest.testkit.driver_expectations import Kind, Session
from dma_rehearsal.guest.testkit.driver_rehearsal import Failures
from dma_rehearsal.guest.testkit.hold_watcher import HoldWatcher

_NOWHERE = "0000:00:00.0"
_load = dma_ops.load
_expects = driver_expectations.expects


def not_hooked() -> None:
    """The module watches another function."""

    def load(**parameters: Value) -> None:
        _load(**{**parameters, "function": _NOWHERE})

    setattr(dma_ops, load.__name__, load)


def expects_all() -> None:
    """An announcement is one of every kind, of which none need come."""
    every: tuple[Kind, ...] = (
        *DriverReportKind,
        *CacheReportKind,
        *(each for each in DmaReason if each is not DmaReason.NONE),
    )

    @contextmanager
    def expects(
        session: Session,
        kinds: tuple[Kind, ...],  # noqa: ARG001
        count: int | None,  # noqa: ARG001
        *,
        optional: bool = False,  # noqa: ARG001
    ) -> Iterator[None]:
        with _expects(session, every, None, optional=True):
            yield

    setattr(driver_expectations, expects.__name__, expects)


def never_released() -> None:
    """The watcher releases nothing."""

    def release(_watcher: HoldWatcher) -> None:
        pass

    setattr(HoldWatcher, release.__name__, release)


def never_fails() -> None:
    """No call is due to fail."""

    def next_failure(_failures: Failures) -> int:
        return 0

    setattr(Failures, "next", property(next_failure))  # noqa: B010


def warning_unseen() -> None:
    """The kernel's messages are not looked at."""

    def trouble(_messages: object) -> list[str]:
        return []

    setattr(driver_rehearsal, trouble.__name__, trouble)


IMPLEMENTATIONS: dict[str, Callable[[], None]] = {
    "rehearsal-not-hooked": not_hooked,
    "rehearsal-expects-all": expects_all,
    "rehearsal-never-released": never_released,
    "rehearsal-never-fails": never_fails,
    "rehearsal-warning-unseen": warning_unseen,
}
