# SPDX-License-Identifier: Apache-2.0
"""The test kit as a pytest plugin: the settings of a session reach its parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dma_rehearsal.guest.iobuffer.memory import placement
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.session import SessionSettings, SettingsPlugin
from dma_rehearsal.guest.testkit import plugin
from dma_rehearsal.guest.testkit.host_witness import HOST

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


def test_a_pytest_without_an_agent_has_no_host(pytester: pytest.Pytester) -> None:
    keeps = Keeps()
    pytester.inline_run(plugins=[plugin, keeps])
    assert HOST not in keeps.config.stash
    assert dma_platform.placement.name == placement.KIND
