# SPDX-License-Identifier: Apache-2.0
"""Binding a function to a kernel driver: once, within a time limit, and told where it hangs."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from dma_rehearsal.guest.drivers import kernel_binding, pci_sysfs
from dma_rehearsal.guest.drivers.kernel_binding import BoundFunction, KernelStuck, within


def test_a_bind_that_fails_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "devices" / "0000:00:04.0"
    driver = tmp_path / "drivers" / "mine"
    for each in folder, driver:
        each.mkdir(parents=True)
    (folder / "driver_override").touch()
    (driver / "bind").touch()
    monkeypatch.setattr(pci_sysfs, "DEVICES", tmp_path / "devices")
    tried: list[bytes] = []
    write = os.write

    def refuse(descriptor: int, data: bytes) -> int:
        if data == b"mine":
            return write(descriptor, data)
        tried.append(data)
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        BoundFunction(folder).bind("mine")
    assert tried == [b"0000:00:04.0"]
    assert (folder / "driver_override").read_text() == "mine"


def test_what_ends_in_time_is_done() -> None:
    done: list[int] = []
    within(60, lambda: done.append(1), "it")
    assert done == [1]


def test_what_hangs_is_named_with_its_place() -> None:
    go_on = threading.Event()

    def hang() -> None:
        go_on.wait(60)

    with pytest.raises(KernelStuck, match="the probe has not returned within 0 s; it is in\n    "):
        within(0, hang, "the probe")
    go_on.set()


def test_what_the_kernel_killed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An oops ends the thread that met it, and nobody else."""
    monkeypatch.setattr(kernel_binding, "TASKS", tmp_path)
    go_on = threading.Event()

    def hang() -> None:
        go_on.wait(60)

    with pytest.raises(KernelStuck, match="the probe was killed by the kernel"):
        within(60, hang, "the probe")
    go_on.set()


def test_a_call_that_ends_between_two_looks_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its task is gone, as after an oops. But the call has returned."""
    begun, go_on = threading.Event(), threading.Event()
    calls: list[threading.Thread] = []

    class Tasks:
        """Its look for a task comes after the call's end."""

        def __truediv__(self, _number: str) -> Tasks:
            return self

        def exists(self) -> bool:
            assert begun.wait(60)
            go_on.set()
            calls[0].join(60)
            return calls[0].is_alive()

    def call() -> None:
        calls.append(threading.current_thread())
        begun.set()
        go_on.wait(60)

    monkeypatch.setattr(kernel_binding, "TASKS", Tasks())
    within(60, call, "the unbind")
    assert go_on.is_set()


def test_an_error_of_the_call_is_its_own() -> None:
    def fail() -> None:
        raise ValueError("a name with a zero byte")

    with pytest.raises(ValueError, match="a zero byte"):
        within(60, fail, "the probe")
