# SPDX-License-Identifier: Apache-2.0
"""The test kit as a pytest plugin: the settings of a session reach its parts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.guest.iobuffer.memory import placement
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.session import SessionSettings, SettingsPlugin
from dma_rehearsal.guest.testkit import plugin
from dma_rehearsal.guest.testkit.host_witness import HOST
from tests.unit.guest.testkit.fake_kernel import FakeKernel

pytest_plugins = ["pytester"]


class Link:
    """A host that nobody asks."""

    def send(self, *messages: dict[str, Any]) -> None:
        raise NotImplementedError

    def receive(self, kind: str | None = None) -> dict[str, Any]:
        raise NotImplementedError


class Keeps:
    """Keeps pytest's config of the session."""

    config: pytest.Config

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self.config = session.config


@pytest.fixture(autouse=True)
def _policy() -> Iterator[None]:
    before = dma_platform.placement
    yield
    dma_platform.placement = before


@pytest.mark.parametrize("first", [True, False])
def test_settings_of_the_agent_reach_every_part(pytester: pytest.Pytester, first: bool) -> None:
    link, keeps = Link(), Keeps()
    settings = SettingsPlugin(SessionSettings(seed=3, place=placement.HOSTILE, host=link))
    plugins = [settings, plugin] if first else [plugin, settings]
    pytester.inline_run(plugins=[*plugins, keeps])
    assert keeps.config.stash[HOST].link is link
    assert dma_platform.placement.name == placement.HOSTILE


def test_modules_of_the_kernel_are_loaded_before_the_tests_are_collected(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kernel = FakeKernel(tmp_path / "kernel", monkeypatch)
    folder = kernel.files / "kernel"
    folder.mkdir()
    listed: list[dict[str, Any]] = [
        {"name": name, "file": f"{name}.ko", "depends": []} for name in ("crc", "xfs")
    ]
    listed.append({"name": "ext4", "file": None, "depends": []})
    (folder / "modules.json").write_text(json.dumps({"modules": listed}))
    for name in "crc", "xfs":
        (folder / f"{name}.ko").write_text('""')
    pytester.makepyfile("def test_x(): pass")
    for _ in range(2):  # a second session finds them loaded
        pytester.inline_run("--collect-only", plugins=[plugin])
        assert kernel.log == ["load crc", "load xfs"]
    (kernel.modules / "xfs").rename(tmp_path / "away")
    (folder / "xfs.ko").unlink()
    done = pytester.inline_run("--collect-only", plugins=[plugin])
    assert done.ret is pytest.ExitCode.USAGE_ERROR


def test_a_pytest_without_an_agent_has_no_host(pytester: pytest.Pytester) -> None:
    keeps = Keeps()
    pytester.inline_run(plugins=[plugin, keeps])
    assert HOST not in keeps.config.stash
    assert dma_platform.placement.name == placement.KIND
