"""Marks of the host's tests."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks that the Makefile selects by."""
    config.addinivalue_line("markers", "vm: boots whole VMs (minutes under emulation)")
