# SPDX-License-Identifier: Apache-2.0
"""Marks of the host's tests, and what every test must leave as it was."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.process import janitor
from tests import generated

generated.register_profiles()


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks that tests/stages.py selects by; take Ctrl-C, as children do then.

    A shell starts a job in the background with SIGINT ignored, and that is inherited.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput"):
        # Readline, in the process that has started this worker, leaves them in its environment.
        for name in ("COLUMNS", "LINES"):
            os.environ.pop(name, None)
    config.addinivalue_line("markers", "vm: boots whole VMs (minutes under emulation)")
    config.addinivalue_line(
        "markers", "matrix: a cell of the matrix of profiles (make test-matrix)"
    )
    config.addinivalue_line("markers", "alone: measures time, so nothing may run beside it")
    config.addinivalue_line("markers", "full: left out of make test; make test-all runs it")
    config.addinivalue_line(
        "markers",
        "fires(subject, ..., neighbour=test): makes a fault or a promise fail; see tests/proofs.py",
    )


@pytest.fixture(autouse=True, scope="session")
def _plain_pytest_within() -> Iterator[None]:
    """A pytest that a test runs has the plugins that the test names, and no other.

    Installed, or with its egg-info in the current folder, this project is a plugin by its entry
    point. Its fixtures then take the place of the guest's, and boot VMs where units were asked for.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        patch.delenv("PYTEST_PLUGINS", raising=False)
        patch.delenv("PYTEST_ADDOPTS", raising=False)
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_janitor() -> None:
    """Started before the tests: its pipe stays open for as long as this process lives."""
    janitor.start()


def _open_descriptors() -> dict[int, str]:
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            found[int(link.name)] = str(link.readlink())
        except FileNotFoundError:  # the one that the listing itself used
            continue
    return found


@pytest.fixture(autouse=True)
def _no_descriptor_is_left() -> Iterator[None]:
    """A descriptor that outlives its test is a leak of the test, or of what it tests."""
    before = _open_descriptors()
    yield
    left = {fd: what for fd, what in _open_descriptors().items() if fd not in before}
    if left:
        gc.collect()  # an object that only waits for the collector is not a leak
        left = {fd: what for fd, what in _open_descriptors().items() if fd not in before}
    assert not left, f"descriptors are left open: {left}"
