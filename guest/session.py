# SPDX-License-Identifier: Apache-2.0
"""The settings of a session of guest tests, and what the agent reads of a test.

The agent and the test kit share this module. Neither imports the other: the agent loads the test
kit by name, as a pytest plugin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import pytest

from dma_rehearsal.device.layout.result_frames import Message

TESTKIT_PLUGIN: Final = "dma_rehearsal.guest.testkit.plugin"
"""The module of the test kit that is a pytest plugin."""


class HostLink(Protocol):
    """The host, as a running test reaches it."""

    def send(self, *messages: Message) -> None:
        """Send messages to the host."""

    def receive(self, kind: str | None = None) -> Message:
        """Return the next message; an error ends the session when it is not of this ``kind``."""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """The settings of one session. The defaults are for a pytest that runs without an agent.

    ``seed``: of test data and random operations. ``place``: the name of the policy that places
    buffers (`iobuffer.memory.placement`); None for the default one. ``behind_iommu``: whether the
    exerciser is behind an IOMMU. ``own_suite``: whether the tests are this project's own, for which
    the test kit states the device's limits under any policy. ``rehearse``: whether tests of a
    kernel driver run under every condition (`testkit.conditions`).
    """

    seed: int = 0
    place: str | None = None
    behind_iommu: bool = False
    own_suite: bool = True
    rehearse: bool = False
    host: HostLink | None = None


SETTINGS: Final = pytest.StashKey[SessionSettings]()
"""The session's settings, in the stash of pytest's config."""
LEFT_OUT: Final = pytest.StashKey[str]()
"""Why a test is not for this machine, in the stash of a deselected item."""


class SessionHooks:
    """Hooks that the agent adds to pytest's."""

    @staticmethod
    @pytest.hookspec
    def pytest_session_reseeded(config: pytest.Config) -> None:
        """Take the new seed in `SETTINGS`: the guest was saved with its tests collected."""


class SettingsPlugin:
    """Puts the settings of a session where the test kit finds them."""

    def __init__(self, settings: SessionSettings) -> None:
        self._settings = settings

    def pytest_addhooks(self, pluginmanager: pytest.PytestPluginManager) -> None:
        """Declare the agent's hooks before a plugin implements one."""
        pluginmanager.add_hookspecs(SessionHooks)

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Store the settings before other plugins read them."""
        config.stash[SETTINGS] = self._settings


def marked_promises(item: pytest.Item) -> list[str]:
    """Return the promises that a test is marked with."""
    return [str(mark.args[0]) for mark in item.iter_markers("promise") if mark.args]
