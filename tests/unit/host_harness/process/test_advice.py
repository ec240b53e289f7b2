# SPDX-License-Identifier: Apache-2.0
"""Advice names make in a checkout, and the package's commands where it is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from dma_rehearsal.host_harness.process import advice


def test_a_checkout_is_told_to_run_make() -> None:
    assert advice.in_checkout()
    assert advice.command("clean-cache") == "make clean-cache"
    assert advice.packages() == "make setup"
    assert advice.attach(Path("/runs/1")) == "make shell ATTACH=/runs/1"
    assert advice.order(7, 10) == "make test-order SEED=7 N=10"


def test_an_installed_package_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(advice, "_MAKEFILE", tmp_path / "Makefile")
    assert advice.command("clean-cache") == "dma-rehearsal clean-cache"
    assert "-m pip install" in advice.packages()
    assert advice.attach(Path("/my runs")) == "dma-rehearsal shell --attach '/my runs'"
    assert advice.order(7, 10) == "SEED=7 dma-rehearsal order --sample 10"
